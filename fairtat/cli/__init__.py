"""The ``fairtat`` command; one module for each subcommand, with ``parser()`` and ``run(options) -> exit code``."""
