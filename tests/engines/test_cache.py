"""Which program serves a batch, and when all of it goes."""

from __future__ import annotations

import gc
import weakref

import pytest

from fairtat.engines.cache import (
    MAX_FAMILIES,
    MAX_SIZES,
    MAX_UNUSED,
    SETTINGS_VARY_AFTER,
    Family,
    Record,
    record_of,
)
from fairtat.engines.model.signature import Signature


def served(sizes, **how):
    """For each batch size in turn: which size of program serves it, all that were asked for being built."""
    family, answers = Family(), []
    for n in sizes:
        size = family.size_for(n, **how)
        answers.append(size)
        if size == n:
            family.add(n, object())
    return answers


@pytest.mark.parametrize(
    ("sizes", "answers"),
    [
        ([128, 128, 100, 128, 128, 100], [128, 128, 128, 128, 128, 128]),  # the last batch of an epoch is padded
        ([128, 128, 40, 128], [128, 128, None, 128]),  # or too small to be
        ([128, 40, 40, 40], [128, None, 40, 40]),  # here to stay
        ([128, 100, 100], [128, 128, 100]),
        ([2, 128, 128], [2, 128, 128]),  # a larger one always is
        ([64, 128, 50, 40], [64, 128, 64, 64]),  # the nearest
        ([64], [64]),
    ],
)
def test_a_smaller_batch_does_not_compile_unless_it_stays(sizes, answers):
    assert served(sizes) == answers


@pytest.mark.parametrize(
    ("sizes", "answers"),
    [
        ([128, 128, 128], [None, 128, 128]),  # what came twice is here to stay
        ([1, 2, 3], [None, None, None]),
        ([128, 128, 100, 40, 40], [None, 128, 128, None, 40]),
    ],
)
def test_to_be_wait_is_to_wait_for_a_size_to_come_again(sizes, answers):
    assert served(sizes, wait=True) == answers


def test_the_program_used_last_is_dropped_last():
    family = Family()
    for n in range(MAX_SIZES):
        family.add(n, n)
    assert family.use(0) == 0
    family.add(MAX_SIZES, MAX_SIZES)
    assert list(family.programs) == [*range(2, MAX_SIZES), 0, MAX_SIZES]


def model(structure, settings=0, unseen=None):
    return Signature(structure, settings, unseen)


@pytest.mark.parametrize("check", ["first", "off"])
def test_families_made_in_vain_are_counted_and_end(check):
    record = Record()
    for n in range(MAX_UNUSED + 1):
        family = record.family("a", model(n), check)
        assert (family.unused, family.unsupported) == (
            n,
            None if n < MAX_UNUSED else "its layers or weights change at every call",
        )
        family.add(8, "program")
    record = Record()
    record.family("a", model(0), check).add(8, "program")
    record.family("a", model(1), check).add(8, "program")
    record.family("a", model(1), check).use(8)
    assert record.family("a", model(2), check).unused == 0
    assert record.family("a", model(3), check).unused == 0  # none had been made


def test_settings_that_change_at_every_call_make_doubts_in_the_end():
    record = Record()
    for n in range(SETTINGS_VARY_AFTER + 1):
        family = record.family("a", model("layers", n), "first")
        assert not family.programs
        assert family.needs_check(8, "first")
        family.add(8, "program")
        family.confirmed.add(8)
    for n in range(100, 105):
        assert record.family("a", model("layers", n), "first") is family
        assert family.needs_check(8, "first")
        family.confirmed.add(8)
        assert record.family("a", model("layers", n), "first") is family
        assert not family.needs_check(8, "first")
        family.use(8)
    # With nothing that would look at them, they are not kept; nor for other layers.
    assert record.family("a", model("layers", 1000), "off") is not family
    assert record.family("a", model("others", 1000), "first").programs == {}


def test_what_is_doubted():
    family = Family(model("layers"))
    family.add(8, "program")
    assert [family.needs_check(8, check) for check in ("first", "always", "off")] == [True, True, False]
    family.confirmed.add(8)
    assert [family.needs_check(8, check) for check in ("first", "always", "off")] == [False, True, False]
    family.add(8, "another")
    assert family.needs_check(8, "first")
    family = Family(model("layers", unseen="layer.generator"), confirmed={8})
    assert [family.needs_check(8, check) for check in ("first", "always", "off")] == [True, True, False]


def test_programs_and_families_are_bounded():
    family = Family()
    for n in range(10):
        family.add(n, object())
    assert list(family.programs) == list(range(10 - MAX_SIZES, 10))
    record = Record()
    first = record.family("first", model(0), "first")
    for settings in range(MAX_FAMILIES - 1):
        record.family(settings, model(0), "first")
    assert record.family("first", model(0), "first") is first
    record.family("one more", model(0), "first")
    assert len(record.families) == MAX_FAMILIES
    assert "first" in record.families
    assert 0 not in record.families


def test_another_model_starts_anew_unless_it_was_found_unfit():
    record = Record()
    fit, unfit = record.family("a", model(0), "first"), record.family("b", model(0), "first")
    unfit.unsupported = "its forward counts its calls"
    assert record.family("a", model(1), "first") is not fit
    assert record.family("b", model(1), "first") is unfit


def test_a_record_goes_with_its_model(h):
    model = h.cnn()
    record = weakref.ref(record_of(model, "compiled"))
    assert record_of(model, "compiled") is record()
    del model
    gc.collect()
    assert record() is None
