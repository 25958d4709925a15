"""`torchattacks.CW` and `DeepFool`, which look for a near adversarial image in L2, on fairtat's attacks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fairtat.attacks import cw_l2, deepfool
from fairtat.integrations.torchattacks.adapter import Fast, torchattacks

__all__ = ["CW", "DeepFool"]


class _FastNearest(Fast):
    _norm = "l2"
    _radius = 0.0  # of which these attacks have none

    def _shared(self: Any) -> dict[str, Any]:
        return {"normalize": self._normalization(), "return_info": False, **self._options}


class CW(_FastNearest, torchattacks.CW):
    """`torchattacks.CW`: Carlini and Wagner's attack in L2 with one constant c.

    The peer ends the search of the whole batch where its total cost rises; fairtat makes all steps for every image
    (with ``abort_early=True`` until a tenth of them has brought it nothing), so an image's result does not depend on
    the batch. With ``kappa`` above 0 a point counts once the wrong class leads by that much, as in the paper; with the
    peer any wrong prediction counts.

    Args:
        model: As in torchattacks, like ``c``, ``kappa``, ``steps`` and ``lr``.
        **options: Other options of :func:`fairtat.attacks.cw_l2`, such as ``binary_search_steps=9`` for the paper's
            search of c, ``eps=0.5`` or ``engine="compiled"``.

    Source: Carlini and Wagner 2017, arXiv:1608.04644.
    """

    def _obstacle(self: Any, images: Tensor) -> str | None:
        if not (self.c > 0 and self.kappa >= 0 and self.steps > 0 and self.lr > 0):
            found = f"{self.c}, {self.steps}, {self.lr} and {self.kappa}"
            return f"c, steps and lr must be positive and kappa at least 0, not {found}"
        reason: str | None = super()._obstacle(images)
        return reason

    def _perturb(self: Any, images: Tensor, labels: Tensor) -> Tensor:
        y, target = self._classes(images, labels)
        settings = {"initial_const": self.c, "confidence": self.kappa, "n_iter": self.steps, "learning_rate": self.lr}
        x_adv: Any = cw_l2(
            self.model,
            images,
            y,
            target=target,
            **{"binary_search_steps": 1, "abort_early": False, **settings, **self._shared()},
        )
        return x_adv  # type: ignore[no-any-return]


class DeepFool(_FastNearest, torchattacks.DeepFool):
    """`torchattacks.DeepFool`, a batch at a time where the peer takes images one by one.

    As in the authors' code, the overshoot lengthens the whole way from the image; the peer lengthens each step. An
    image that is not fooled comes back as it was, where the peer returns the last point.

    Args:
        model: As in torchattacks, like ``steps`` and ``overshoot``.
        **options: Other options of :func:`fairtat.attacks.deepfool`, such as ``nb_candidates=10``; the default is all
            classes, as with the peer.

    Source: Moosavi-Dezfooli, Fawzi and Frossard 2016, arXiv:1511.04599.
    """

    def _obstacle(self: Any, images: Tensor) -> str | None:
        if not (self.steps > 0 and self.overshoot >= 0):
            return f"steps must be positive and overshoot at least 0, not {self.steps} and {self.overshoot}"
        reason: str | None = super()._obstacle(images)
        return reason

    def _perturb(self: Any, images: Tensor, labels: Tensor) -> Tensor:
        classes = self.get_output_with_eval_nograd(images[:1]).shape[1] if len(images) else 2
        settings = {"n_iter": self.steps, "overshoot": self.overshoot}
        x_adv: Any = deepfool(self.model, images, labels, **{"nb_candidates": classes, **settings, **self._shared()})
        return x_adv  # type: ignore[no-any-return]
