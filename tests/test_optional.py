"""Optional dependencies: a missing one names the extra, a broken one is not called missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairtat.errors import UserError
from fairtat.optional import optional_import


def test_a_missing_package_names_the_extra() -> None:
    with pytest.raises(UserError, match=r"digits needs not_there: pip install 'fairtat\[train\]'"):
        optional_import("not_there.datasets", purpose="digits")


def test_a_broken_package_keeps_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_package.py").write_text("import something_it_lacks")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="something_it_lacks"):
        optional_import("broken_package", purpose="digits")
