"""Optional dependencies: a missing one names the extra, a broken one is not called missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fairtat.errors import UserError
from fairtat.optional import optional_import


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(UserError, match=r"digits needs not_there: pip install 'fairtat\[train\]'"):
        optional_import("not_there.datasets", purpose="digits")


@pytest.mark.parametrize(
    ("source", "reason"),
    [("import something_it_lacks", "No module named 'something_it_lacks'"), ("raise RuntimeError('no\\nGPU')", "no$")],
)
def test_a_broken_package_is_not_called_missing(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_package.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "broken_package", raising=False)
    message = f"digits needs broken_package, which is installed but does not load: {reason}"
    with pytest.raises(UserError, match=message):
        optional_import("broken_package", purpose="digits")
