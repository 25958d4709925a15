"""What the commands that torchrun may start in several processes share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from fairtat.cli.main import INTERRUPTED, USAGE
from fairtat.errors import UserError
from fairtat.training import LostProcess
from fairtat.training.distributed import env_rank, env_size

__all__ = ["one_voice", "stop_on_sigterm"]


@contextmanager
def one_voice() -> Iterator[None]:
    """Of several processes, only the first tells of a mistake or an interruption.

    Raises:
        SystemExit: the same in any other process.
    """
    try:
        yield
    except LostProcess:
        # The second process prints too, because the first may be the one that died.
        if env_rank() > 1:
            raise SystemExit(USAGE) from None
        raise
    except UserError:
        if env_rank() > 0:
            raise SystemExit(USAGE) from None
        raise
    except KeyboardInterrupt:
        if env_rank() > 0:
            raise SystemExit(INTERRUPTED) from None
        raise


def stop_on_sigterm() -> None:
    """SIGTERM raises KeyboardInterrupt as Ctrl-C does.

    Under torchrun only the first of both counts: torchrun forwards a Ctrl-C that its processes have already received,
    and what is computed must be saved meanwhile.
    """
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, frame: object) -> None:
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    if env_size() == 1:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    else:
        for number in signals:
            signal.signal(number, stop)
