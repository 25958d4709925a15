"""Entry point: finds the subcommand, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import Sequence

from fairtat._version import __version__
from fairtat.errors import UserError, did_you_mean
from fairtat.text import escaped

# Subcommand -> its line in the overview. A module is imported only when its command runs: `fairtat --help` and
# `fairtat doctor` need none of the optional packages, and start no slower for them.
COMMANDS = {
    "train": "train a classifier adversarially, from a YAML file and options",
    "evaluate": "clean, robust and corrupted accuracy of any model, class by class",
    "report": "saved evaluations as a page: one, or several side by side",
    "compare": "two or more runs side by side: which classes gained and which lost",
    "study": "several ways of training over seeds and radii, compared with intervals",
    "runs": "the runs in a folder: state, figures, and the settings that differ",
    "doctor": "what is installed, which kernels run here, and whether they are right",
}

KEEP_ANSWERS = ("evaluate", "compare")
"""Commands that resume where they were interrupted when they are given once more."""

OK, FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 (a check failed), 2 (a mistake in the input), 130 (Ctrl-C).

    ``--debug`` or ``FAIRTAT_DEBUG=1`` shows the traceback of an error instead of its one line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("FAIRTAT_DEBUG", "0") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()  # here, where a closed pipe is handled
        return code
    except SystemExit as leave:  # argparse leaves this way after --help
        return leave.code if isinstance(leave.code, int) else OK
    except KeyboardInterrupt:
        print(f"interrupted{_goes_on(arguments)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has closed the pipe; point stdout elsewhere so that the flush at exit does not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (UserError, ValueError, OSError) as error:
        if debug:
            raise
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return USAGE


def _goes_on(arguments: list[str]) -> str:
    if not arguments or arguments[0] not in KEEP_ANSWERS:
        return ""
    again = shlex.join(argument for argument in arguments if argument != "--fresh")
    return f"; what is computed is kept, resume with: {program()} {again}"


def program() -> str:
    """What starts this command line once more: fairtat, or torchrun with as many processes as there are."""
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return "fairtat"
    return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', size)} -m fairtat"


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(_overview(), file=sys.stderr)
        return USAGE
    command, *rest = arguments
    if command in ("-h", "--help", "help"):
        print(_overview())
        return OK
    if command in ("-V", "--version"):
        print(f"fairtat {__version__}")
        return OK
    if command not in COMMANDS:
        kind = "option" if command.startswith("-") else "command"
        raise UserError(
            f"unknown {kind} {command!r}{did_you_mean(command, (*COMMANDS, '--help', '--version', '--debug'))}"
        )
    module = importlib.import_module(f"fairtat.cli.{command}")
    code: int = module.run(module.parser().parse_args(rest))
    return code


def _overview() -> str:
    commands = "\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())
    return f"""usage: fairtat COMMAND ...

Fair adversarial training: which class pays for robustness?

commands:
{commands}

options:
  -h, --help     this overview; `fairtat COMMAND --help` explains a command
  -V, --version  the version
  --debug        show the traceback of an error (so does FAIRTAT_DEBUG=1)

example:
  fairtat train --config configs/digits.yaml --output runs/at
  fairtat train --config configs/digits.yaml --config configs/methods/fairtat.yaml --output runs/fairtat
  fairtat compare runs/at runs/fairtat"""


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    return escaped(" ".join(text.split())) or type(error).__name__
