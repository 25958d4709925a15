from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fairtat as package
from fairtat.cli import main as cli
from fairtat.errors import UserError

Command = Callable[..., Any]


def test_help_names_every_command_and_shows_an_example(fairtat: Command) -> None:
    code, out, err = fairtat("--help")
    assert (code, err) == (0, "")
    for word in (*cli.COMMANDS, "example:", "--debug"):
        assert word in out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_help_of_a_command_shows_an_example(fairtat: Command, command: str) -> None:
    code, out, err = fairtat(command, "--help")
    assert (code, err) == (0, "")
    assert f"usage: fairtat {command}" in out
    assert f"  fairtat {command}" in out.partition("example:")[2]


def test_version(fairtat: Command) -> None:
    assert fairtat("--version") == (0, f"fairtat {package.__version__}\n", "")


def test_no_command_is_a_mistake_that_shows_the_overview(fairtat: Command) -> None:
    code, out, err = fairtat()
    assert (code, out) == (2, "")
    assert "usage: fairtat COMMAND" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evalute"], "error: unknown command 'evalute'; did you mean 'evaluate'?"),
        (["--vresion"], "error: unknown option '--vresion'; did you mean '--version'?"),
        (["evaluate"], "error: expected a run folder, or --model"),
        (["evaluate", "r", "--splt", "val"], "unknown option --splt; did you mean '--split'?"),
        (["evaluate", "r", "--steps", "3"], "unknown option --steps; did you mean '--attack.steps'?"),
        (["evaluate", "r", "--attack.stps=3"], "unknown option --attack.stps; did you mean '--attack.steps'?"),
        (["evaluate", "r", "s"], "unexpected argument 's'"),
        (["evaluate", "r", "--attack.steps", "many"], "--attack.steps: expected a whole number, got many"),
        (["evaluate", "r", "--attack.eps", "8/0"], "expected a number or a fraction such as 8/255, got '8/0'"),
        (["evaluate", "r", "--attack.norm", "l1"], "--attack.norm: expected one of 'linf', 'l2', got l1"),
        (["train", "--fairness.targets", "Confuson"], "'confusion', got Confuson; did you mean 'confusion'?"),
        (["evaluate", "r", "--split", "train"], "--split: expected one of 'test', 'val', 'all', got train"),
        (["evaluate", "r", "--device", "gpu"], "device is 'gpu'; expected auto, cpu, cuda, cuda:N, xpu or xpu:N"),
        (["evaluate", "nowhere"], "error: nowhere: no such run folder"),
        (["compare", "nowhere"], "error: compare needs at least two runs, got 1"),
        (["compare", "nowhere", "./nowhere"], "the same folder is given twice"),
        (["doctor", "--jsn"], "unknown option --jsn; did you mean '--json'?"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(fairtat: Command, arguments: list[str], message: str) -> None:
    code, out, err = fairtat(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `fairtat doctor` raise."""

    def install(error: BaseException) -> None:
        def run(options: object) -> int:
            raise error

        module = SimpleNamespace(parser=lambda: SimpleNamespace(parse_args=lambda words: None), run=run)
        monkeypatch.setitem(sys.modules, "fairtat.cli.doctor", module)

    return install


def test_library_errors_become_one_line(fairtat: Command, failing: Callable[[BaseException], None]) -> None:
    failing(ValueError("eps must be\n  at least 0"))
    assert fairtat("doctor") == (2, "", "error: eps must be at least 0\n")
    failing(PermissionError(13, "Permission denied", "/somewhere"))
    assert fairtat("doctor") == (2, "", "error: /somewhere: Permission denied\n")


def test_names_of_files_cannot_command_the_terminal(fairtat: Command, failing: Callable[[BaseException], None]) -> None:
    failing(UserError("a\x1b[2J/\u202eb\nc\udce9.png: cannot be read"))
    assert fairtat("doctor").err == "error: a\\x1b[2J/\\u202eb c\\udce9.png: cannot be read\n"
    failing(PermissionError(13, "Permission denied", "\x1b]0;title\x07"))
    assert fairtat("doctor").err == "error: \\x1b]0;title\\x07: Permission denied\n"


def test_a_bug_keeps_its_traceback(fairtat: Command, failing: Callable[[BaseException], None]) -> None:
    failing(AssertionError("a bug"))
    with pytest.raises(AssertionError):
        fairtat("doctor")


def test_debug_shows_the_traceback(
    fairtat: Command, failing: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(ValueError("wrong"))
    with pytest.raises(ValueError, match="wrong"):
        fairtat("doctor", "--debug")
    monkeypatch.setenv("FAIRTAT_DEBUG", "1")
    with pytest.raises(ValueError, match="wrong"):
        fairtat("doctor")


def test_ctrl_c_is_one_line_and_130(fairtat: Command, failing: Callable[[BaseException], None]) -> None:
    failing(KeyboardInterrupt())
    assert fairtat("doctor") == (130, "", "interrupted\n")


def test_module_runs_and_passes_the_exit_code_on() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "fairtat", "evaluate", "nowhere"], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "error: nowhere: no such run folder\n"


def test_doctor_and_help_need_no_optional_package(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('sklearn', 'mlxtend', 'matplotlib', 'triton', 'pandas'): sys.modules[name] = None\n"
        "from fairtat.cli import main, packages\n"
        "packages.OPTIONAL.clear()\n"  # tried in processes of their own, at length
        "sys.exit(main.main(['evaluate', '--help']) or main.main(['doctor']))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (found.returncode, found.stderr) == (0, "")
    assert "self-tests passed" in found.stdout
