"""The table behind backend="auto" for GPU tensors."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from fairtat import backends
from fairtat.backends import auto


def table() -> dict[str, Any]:
    return {"measured": None, "order": {op: ["cuda", "triton", "reference"] for op in backends.OPS}}


def test_the_shipped_table_is_valid_and_says_whether_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    order, measured = auto.parse(json.loads(auto.PATH.read_text()))
    assert set(order) == set(backends.OPS)
    assert measured == auto.MEASURED
    monkeypatch.setattr(auto, "MEASURED", None)
    assert "order on a GPU (by their machine code, not measured yet on a GPU)" in backends.describe()
    monkeypatch.setattr(auto, "MEASURED", auto.Measured("Some GPU", "2026-01-02", "abc"))
    assert "measured on Some GPU, 2026-01-02, at abc" in backends.describe()


def test_an_order_is_read_with_its_origin() -> None:
    given = table()
    given["order"]["pgd_step"] = ["triton", "reference", "cuda"]
    given["measured"] = {"device": "Some GPU", "date": "2026-01-02", "commit": "abc"}
    order, measured = auto.parse(given)
    assert order["pgd_step"] == ("triton", "reference", "cuda")
    assert order["pgd_init"] == ("cuda", "triton", "reference")
    assert measured == auto.Measured("Some GPU", "2026-01-02", "abc")


@pytest.mark.parametrize(
    ("op", "names", "message"),
    [
        ("pgd_step", ["cuda", "triton"], "order of pgd_step must name"),
        ("pgd_step", ["cuda", "cuda", "reference"], "order of pgd_step must name"),
        ("pgd_step", ["cuda", "triton", "cpu"], "order of pgd_step must name"),
        ("pgd_jump", ["cuda", "triton", "reference"], "must name the ops"),
    ],
)
def test_a_table_that_could_not_serve_every_tensor_is_refused(op: str, names: list[str], message: str) -> None:
    wrong = copy.deepcopy(table())
    wrong["order"][op] = names
    with pytest.raises(ValueError, match=message):
        auto.parse(wrong)


def test_an_op_that_is_newer_than_the_table_has_an_order() -> None:
    older = table()
    del older["order"]["pgd_step"]
    assert auto.parse(older)[0]["pgd_step"] == auto.GPU_BACKENDS
