"""``python -m fairtat`` is the ``fairtat`` command."""

import sys

from fairtat.cli.main import main

sys.exit(main())
