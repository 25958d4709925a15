"""An engine that steps aside says so to the caller of fairtat, once for a model and a reason."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
from torch import nn

from fairtat.attacks import EngineFallback
from fairtat.engines.fallback import warn_once


def test_once_for_a_model_an_engine_and_a_reason():
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    with pytest.warns(EngineFallback, match="^engine='graph' falls back to 'eager': it is too small$") as caught:
        warn_once("graph", model, "it is too small")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_once("graph", model, "it is too small")
    for again in (("compiled", model, "it is too small"), ("graph", model, "hooks"), ("graph", other, "hooks")):
        with pytest.warns(EngineFallback):
            warn_once(*again)
    with pytest.warns(EngineFallback):  # nothing can be remembered of what is no module
        warn_once("graph", len, "no module")
    with pytest.warns(EngineFallback):
        warn_once("graph", len, "no module")


def test_no_model_is_kept_alive():
    model = nn.Linear(2, 2)
    with pytest.warns(EngineFallback):
        warn_once("graph", model, "reason")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
