"""A toy op, added to a copy of the tree as CONTRIBUTING.md says: it is taken everywhere, and a gap is noticed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from op_files import contributors_list, forgotten, kernels_of_the_core, public_modules
from toy_scale import EDITED, NEW, add_file, edit_file
from trees import ROOT, build_core, copy_tree, run_python, run_tests

from fairtat.backends import OPS

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="copies what git knows of the tree")

TOY = "toy_scale"
IN_WORDS = {8: "eight", 9: "nine"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("toy") / "tree"
    copy_tree(tree)
    for file in NEW:
        add_file(tree, file)
    for file in EDITED:
        edit_file(tree, file)
    return tree


@pytest.fixture(scope="module")
def built(tree: Path) -> Path:
    build_core(tree)
    return tree


def test_the_list_for_contributors_is_what_an_op_takes() -> None:
    new, edited = contributors_list(ROOT)
    assert sorted(file.replace("my_op", TOY) for file in new) == sorted(NEW)
    assert sorted(edited) == sorted(EDITED)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert f"For `my_op`, {IN_WORDS[len(NEW)]} new files:" in text
    assert f"and {IN_WORDS[len(EDITED)]} edits:" in text


def test_an_op_that_is_whole_lacks_nothing(tree: Path) -> None:
    assert forgotten(tree, TOY, TOY) == []
    assert public_modules(tree) == kernels_of_the_core(tree) == {*OPS, TOY}


def test_the_example_is_in_style(tree: Path) -> None:
    pytest.importorskip("ruff")
    files = [file for file in (*NEW, *EDITED) if file.endswith(".py")]
    for command in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
        done = run_python(tree, "-m", "ruff", *command, *files)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", [*NEW, *EDITED])
def test_a_forgotten_file_is_noticed(tree: Path, file: str) -> None:
    path = tree / file
    whole = path.read_bytes()
    if file in NEW:
        path.unlink()
    else:
        shutil.copy2(ROOT / file, path)
    try:
        assert forgotten(tree, TOY, TOY) == [file]
    finally:
        path.write_bytes(whole)


PROGRAM = """
import json
import torch
from torch._subclasses import FakeTensorMode
from torch.library import opcheck
from fairtat import backends, ops
from fairtat.cli.selftest import run_selftest

op, x = torch.ops.fairtat.toy_scale.default, torch.rand(3, 5)
with FakeTensorMode() as mode:
    fake = ops.toy_scale(mode.from_tensor(x), 0.5)
present = [name for name in NAMES if backends.status()[name].available]
print(json.dumps({
    "schema": str(op._schema),
    "fake": [list(fake.shape), str(fake.dtype)],
    "opcheck": {name: opcheck(op, (x, 0.5, name)) for name in present},
    "equal": [torch.equal(ops.toy_scale(x, 0.5, backend=name), x / 2) for name in present],
    "chosen": [backends.choose("toy_scale", x.device, dtype) for dtype in (torch.float32, torch.float64)],
    "kernels": [backends.kernel("toy_scale", name).__module__ for name in ("reference", "cpu", "cuda")],
    "order on a GPU": backends.auto.GPU_ORDER["toy_scale"],
    "selftest": [c.detail or c.passed for c in run_selftest(present) if c.op == "toy_scale"],
}))
"""


def told(tree: Path, *backends: str) -> dict[str, Any]:
    done = run_python(tree, "-c", f"NAMES = {backends!r}\n{PROGRAM}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def assert_at_home(answers: dict[str, Any], *backends: str) -> None:
    assert answers["schema"] == "fairtat::toy_scale(Tensor x, float factor, str backend) -> Tensor"
    assert answers["fake"] == [[3, 5], "torch.float32"]
    assert list(answers["opcheck"]) == list(backends)
    assert {outcome for checks in answers["opcheck"].values() for outcome in checks.values()} == {"SUCCESS"}
    assert answers["equal"] == answers["selftest"] == [True] * len(backends)
    assert answers["chosen"][1] == "reference"  # float64
    assert answers["kernels"] == ["fairtat.reference.toy_scale", "fairtat.backends.native", "fairtat.backends.native"]
    assert sorted(answers["order on a GPU"]) == ["cuda", "reference", "triton"]


def test_the_reference_alone_makes_it_an_op(tree: Path) -> None:
    assert_at_home(told(tree, "reference"), "reference")


@pytest.mark.slow
def test_the_core_has_it_once_built(built: Path) -> None:
    answers = told(built, "reference", "cpu")
    assert_at_home(answers, "reference", "cpu")
    assert answers["chosen"][0] == "cpu"


# Those that hold every op to one rule, and the op's own.
TAKEN_BY = {
    "tests/ops/test_toy_scale.py",
    "tests/ops/torch_library/test_registration.py",
    "tests/ops/torch_library/test_compile.py",
    "tests/ops/torch_library/test_tensor_kinds.py",
    "tests/backends/test_native.py",
    "tests/kernels/test_equality.py",
    "tests/cuda/test_kernels.py",
    "tests/cuda/test_build.py",
    "tests/hostile/test_fuzz_ops.py",
    "tests/benchmarks/test_benchmarks.py",
    "tests/test_packaging.py",
}
ABOUT_ALL_OPS = "every_op_has or table_of_ops or list_for_contributors"


@pytest.mark.slow
def test_the_tests_of_all_ops_take_it(built: Path) -> None:
    done = run_tests(built, "-rps", "-m", "not gpu", "-k", f"{TOY} or {ABOUT_ALL_OPS}", *sorted(TAKEN_BY))
    assert done.returncode == 0, done.stdout[-5000:]
    passed = set(re.findall(r"^PASSED (tests/[^:]+)::", done.stdout, re.MULTILINE))
    skipped = set(re.findall(r"^SKIPPED \[\d+\] (tests/[^:]+):", done.stdout, re.MULTILINE))
    assert TAKEN_BY - skipped <= passed


@pytest.mark.slow
def test_its_benchmark_runs(built: Path) -> None:
    done = run_tests(built, "benchmarks/ops/bench_toy_scale.py", "--quick")
    assert done.returncode == 0, done.stdout[-5000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "inserted", "test"),
    [
        # Where the files that name every op do so in more than one place.
        ("tests/shared/op_calls.py", '"toy_scale": (lambda', "tests/ops/torch_library/test_registration.py"),
        ("fairtat/reference/__init__.py", "    Definition(toy_scale", "tests/test_packaging.py"),
    ],
)
def test_what_the_text_alone_does_not_show_fails_a_test(tree: Path, file: str, inserted: str, test: str) -> None:
    path = tree / file
    whole = path.read_text()
    path.write_text("".join(line for line in whole.splitlines(keepends=True) if inserted not in line))
    try:
        assert run_tests(tree, "-k", ABOUT_ALL_OPS, test).returncode in (1, 2)  # 2: already the import fails
    finally:
        path.write_text(whole)
