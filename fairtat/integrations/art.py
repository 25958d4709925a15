"""ART's projected gradient descent and fast gradient method: subclasses that run fairtat's attack.

Source: Nicolae et al. 2018, Adversarial Robustness Toolbox, arXiv:1807.01069; its version 1.20.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fairtat.integrations.peer import attack, obstacle, peer_loop, require

evasion = require("art.attacks.evasion", "adversarial-robustness-toolbox")
_pytorch = require("art.attacks.evasion.projected_gradient_descent.projected_gradient_descent_pytorch")
_standardisation = require("art.preprocessing.standardisation_mean_std.pytorch")
_utils = require("art.utils")
_estimators = require("art.estimators.classification")

__all__ = ["FastGradientMethod", "ProjectedGradientDescent"]

Array = npt.NDArray[Any]


class _FastLoop(_pytorch.ProjectedGradientDescentPyTorch):  # type: ignore[name-defined]
    """What ART's ProjectedGradientDescent hands its batches to; ``fairtat_options`` are those of fast_pgd."""

    fairtat_options: dict[str, Any]

    def _generate_batch(self, x: Tensor, targets: Tensor, mask: Tensor | None, eps: Any, eps_step: Any) -> Array:
        radius, step = _per_sample(eps, x), _per_sample(eps_step, x)
        reason = _obstacle(self, x, mask, radius)
        if reason is None and step is None:
            reason = "eps_step differs from pixel to pixel"
        if reason is not None:
            peer_loop("ART", reason)
            peers_own: Array = super()._generate_batch(x, targets, mask, eps, eps_step)
            return peers_own
        images = x.to(self.estimator.device)
        start = _start(self, images, eps) if self.num_random_init > 0 else None
        x_adv = _attack(self, images, targets, radius, step, self.max_iter, start, self.fairtat_options)
        found: Array = x_adv.cpu().numpy()
        return found


class ProjectedGradientDescent(evasion.ProjectedGradientDescent):  # type: ignore[name-defined]
    """`art.attacks.evasion.ProjectedGradientDescent`: numpy in and out, with ART's arguments and methods.

    ART's loop runs for other estimators than PyTorchClassifier and other losses than the cross-entropy, and for
    masks, summaries, radii per pixel, and norms other than infinity. With ``norm=2`` fairtat's attack runs
    where ``clip_values`` is None: ART clips before it projects on the ball, fairtat after.

    Args:
        estimator: As in ART, like all its arguments. The estimator is used as ART uses it, in eval mode.
        options: Options of :func:`fairtat.fast_pgd`, such as ``{"engine": "compiled"}``.

    Source: Madry et al. 2018, arXiv:1706.06083.
    """

    def __init__(self, estimator: Any, *args: Any, options: dict[str, Any] | None = None, **keywords: Any) -> None:
        super().__init__(estimator, *args, **keywords)
        if type(self._attack) is not _pytorch.ProjectedGradientDescentPyTorch:
            peer_loop("ART", f"the estimator is {type(estimator).__name__}, or its preprocessing is not PyTorch's")
            return
        # The same object with another method: ART has checked its arguments, and built its random radii.
        self._attack.__class__ = _FastLoop
        self._attack.fairtat_options = options or {}


class FastGradientMethod(evasion.FastGradientMethod):  # type: ignore[name-defined]
    """`art.attacks.evasion.FastGradientMethod`, where :class:`ProjectedGradientDescent` runs fairtat's attack.

    ``minimal=True`` (a search over radii) is ART's own.

    Args:
        estimator, options: As :class:`ProjectedGradientDescent`.

    Source: Goodfellow et al. 2015, arXiv:1412.6572.
    """

    def __init__(self, estimator: Any, *args: Any, options: dict[str, Any] | None = None, **keywords: Any) -> None:
        super().__init__(estimator, *args, **keywords)
        self._fairtat_options = options or {}

    def _compute(
        self,
        x: Array,
        x_init: Array,
        y: Array,
        mask: Array | None,
        eps: Any,
        eps_step: Any,
        project: bool,
        random_init: bool,
        *args: Any,
        **keywords: Any,
    ) -> Array:
        images = torch.from_numpy(x.astype(np.float32)) if x.dtype != object else torch.empty(0, dtype=torch.bool)
        radius = _per_sample(eps, images)
        reason = _obstacle(self, images, mask, radius)
        if reason is not None:
            peer_loop("ART", reason)
            peers_own: Array = super()._compute(
                x, x_init, y, mask, eps, eps_step, project, random_init, *args, **keywords
            )
            return peers_own
        images = images.to(self.estimator.device)
        start = _start(self, images, eps) if random_init else None
        options = {"chunk_size": self.batch_size, **self._fairtat_options}
        found: Array = _attack(self, images, torch.from_numpy(y), radius, radius, 1, start, options).cpu().numpy()
        return found


def _obstacle(peer: Any, x: Tensor, mask: object, eps: float | Tensor | None) -> str | None:
    estimator = peer.estimator
    if not isinstance(estimator, _estimators.PyTorchClassifier):
        return f"the estimator is {type(estimator).__name__}, not PyTorchClassifier"
    if mask is not None:
        return "a mask was given"
    if peer.summary_writer is not None:
        return "a summary writer was given"
    loss = estimator._loss
    if type(loss) is not nn.CrossEntropyLoss or loss.weight is not None or loss.label_smoothing:
        return f"the estimator's loss is {loss}, not the plain cross-entropy"
    if estimator.is_rnn or estimator._use_amp:
        return "the estimator is recurrent or uses apex"
    clip = estimator.clip_values
    if clip is not None and any(np.ndim(value) for value in clip):
        return "clip_values differ from pixel to pixel"
    if _norm(peer) != "linf" and (peer.norm != 2 or clip is not None):
        return f"norm is {peer.norm}, and ART clips to clip_values before it projects on the ball"
    if not all(_is_standardisation(step) for step in estimator.preprocessing_operations):
        return "the estimator has preprocessing besides mean and standard deviation"
    if len(estimator.preprocessing_operations) > 1:
        return "the estimator has more than one preprocessing step"
    if eps is None:
        return "eps differs from pixel to pixel"
    return obstacle(None, x, eps=eps, norm=_norm(peer), bounds=_bounds(peer))


def _norm(peer: Any) -> str:
    """fairtat's name for ART's norm, which is infinity or 2 here."""
    return "linf" if peer.norm in (np.inf, "inf") else "l2"


def _is_standardisation(step: Any) -> bool:
    return (
        type(step) is _standardisation.StandardisationMeanStdPyTorch
        and step.apply_predict
        and max(step.mean.ndim, step.std.ndim) <= 1
    )


def _per_sample(amount: Any, x: Tensor) -> float | Tensor | None:
    """ART's number or array as fairtat takes it, or None if it differs within an image."""
    if not isinstance(amount, np.ndarray):
        return float(amount)
    if amount.size == 1:
        return float(amount.reshape(()))
    if amount.ndim == x.ndim and amount.shape[0] == len(x) == amount.size:
        return torch.from_numpy(amount.reshape(-1)).to(x.dtype)
    return None


def _start(peer: Any, x: Tensor, eps: Any) -> Tensor:
    """Drawn as ART draws it, from numpy's generator."""
    radius = eps.reshape(len(eps), -1) if isinstance(eps, np.ndarray) else eps
    drawn = _utils.random_sphere(len(x), int(np.prod(x.shape[1:])), radius, peer.norm)
    start = x + torch.from_numpy(drawn.reshape(x.shape).astype(np.float32)).to(x.device)
    low, high = _bounds(peer)
    return start.clamp(low, high)


def _bounds(peer: Any) -> tuple[float, float]:
    clip = peer.estimator.clip_values
    return (-np.inf, np.inf) if clip is None else (float(clip[0]), float(clip[1]))


def _attack(
    peer: Any,
    x: Tensor,  # (N, ...)
    targets: Tensor,  # (N, C) probabilities
    eps: float | Tensor | None,
    step_size: float | Tensor | None,
    steps: int,
    start: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    estimator = peer.estimator
    (operation,) = estimator.preprocessing_operations or (None,)
    normalize = None
    if operation is not None and ((operation.mean != 0).any() or (operation.std != 1).any()):
        normalize = tuple(
            torch.from_numpy(np.broadcast_to(value, (x.shape[1],)).copy()) for value in (operation.mean, operation.std)
        )
    moved = [value.to(x.device) if isinstance(value, Tensor) else value for value in (eps, step_size)]
    return attack(
        estimator.model,
        x,
        targets.argmax(dim=1).to(x.device),
        targeted=peer.targeted,
        start=start,
        eps=moved[0],
        step_size=moved[1],
        steps=steps,
        norm=_norm(peer),
        bounds=_bounds(peer),
        normalize=normalize,
        **{"momentum": getattr(peer, "decay", None) or 0.0, **options},
    )
