"""What all adapters share: the attack itself, and the way back to the peer's own loop."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from fairtat.attacks import fast_pgd, fast_targeted_pgd
from fairtat.attacks.batch import BOUNDS_TOLERANCE
from fairtat.engines.model.state import Model
from fairtat.errors import first_time, warn_caller
from fairtat.radius import check_radius

__all__ = ["PeerLoop", "TakesOptions", "attack", "obstacle", "peer_loop", "require"]


class PeerLoop(UserWarning):
    """The peer's own loop runs, because it computes something else than fairtat's attack does."""


class TakesOptions:
    """A mixin before a peer's class. Keywords that the peer does not take are options of fairtat's attack."""

    _options: dict[str, Any]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        shown = inspect.signature(vars(cls).get("__init__", super().__init__))
        own = [p for p in list(shown.parameters.values())[1:] if p.kind is not inspect.Parameter.VAR_KEYWORD]
        options = inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)
        cls.__signature__ = shown.replace(parameters=[*own, options])  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **keywords: Any) -> None:
        own = inspect.signature(super().__init__).parameters
        options = {name: value for name, value in keywords.items() if name not in own}
        # Below the peer's __setattr__: torchattacks' keeps and compares every value that it sees.
        object.__setattr__(self, "_options", options)
        super().__init__(*args, **{name: value for name, value in keywords.items() if name in own})


def require(package: str, install: str | None = None) -> Any:
    """The module of a peer that its adapter subclasses.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0]
        raise ImportError(f"fairtat.integrations needs {name}: pip install {install or name} ({error})") from error


def peer_loop(peer: str, reason: str) -> None:
    """Warn the caller, once for a reason, that the peer's own loop runs."""
    if first_time((peer, reason)):
        warn_caller(f"{peer}'s own loop runs, not fairtat's: {reason}", PeerLoop)


def obstacle(
    model: object,
    x: Tensor,  # (N, ...)
    *,
    eps: float | Tensor,  # or (N,)
    norm: str = "linf",
    bounds: tuple[float, float] = (0.0, 1.0),
) -> str | None:
    """Why fairtat's attack of ``model`` at ``x`` would not be what a loop around ``model(x)`` computes, or None.

    Peers take images outside the bounds, and radii over their range, which fairtat's attack refuses.
    """
    if x.dtype not in (torch.float32, torch.float64):
        return f"the images are {x.dtype}, not float32 or float64"
    if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
        return "the model is in train mode; call model.eval()"
    if x.numel():
        low, high = bounds
        least, most = torch.stack(torch.aminmax(x.detach())).tolist()
        if least < low - BOUNDS_TOLERANCE or most > high + BOUNDS_TOLERANCE:
            return f"images are outside [{low}, {high}]"
        try:
            check_radius("eps", float(eps.max()) if isinstance(eps, Tensor) else eps, norm, bounds)
        except ValueError as error:
            return str(error)
    return None


def attack(
    model: Model,
    x: Tensor,  # (N, ...)
    goal: Tensor,  # (N,): targets, or labels if not targeted
    *,
    targeted: bool,
    start: Tensor | None = None,  # (N, ...), x itself if None
    **options: Any,  # as fast_pgd
) -> Tensor:
    """x_adv of :func:`fairtat.fast_targeted_pgd` or :func:`fairtat.fast_pgd` from a given start."""
    init = "zero" if start is None else start
    function = fast_targeted_pgd if targeted else fast_pgd
    x_adv: Tensor = function(model, x, goal, init=init, return_info=False, **options)
    return x_adv
