"""`torchattacks.APGD`, `APGDT`, `FAB`, `Square` and `AutoAttack` on :func:`fairtat.autoattack`.

fairtat's random numbers come from (seed, sample id), the peer's from PyTorch's global generator, which the peer seeds
anew at each call and fairtat leaves alone. So the images differ; the attacks, their settings and their strength are
the same.
"""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from fairtat.attacks import autoattack as suite
from fairtat.integrations.torchattacks.adapter import Fast, torchattacks

__all__ = ["APGD", "APGDT", "FAB", "AutoAttack", "Square"]

_NORMS = {"Linf": "linf", "L2": "l2"}


class _FastSearch(Fast):
    @property
    def _norm(self: Any) -> str:  # type: ignore[override]
        return _NORMS[self.norm]

    def _perturb(self: Any, images: Tensor, labels: Tensor) -> Tensor:
        y, target = self._classes(images, labels)
        x_adv, flags = suite.autoattack(
            self.model,
            images,
            y,
            target=target,
            eps=self.eps,
            norm=self._norm,
            version="custom",
            attacks=[_stage(each) for each in self._parts()],
            seed=int(time.time() if self.seed is None else self.seed),
            normalize=self._normalization(),
            **{"chunk_size": max(1, len(images)), **self._options},
        )
        if self.verbose:
            for name, accuracy in zip(flags.attacks, flags.accuracy, strict=True):
                print(f"{name}: robust accuracy {accuracy:.2%}")
        return x_adv

    def _parts(self) -> list[Any]:
        """The peer's attacks that this one runs, in order."""
        return [self]

    def _obstacle(self: Any, images: Tensor) -> str | None:
        if self.norm not in _NORMS:
            return f"norm is {self.norm!r}"
        for part in self._parts():
            if isinstance(part, torchattacks.Square) and part.loss != "margin":
                return f"Square's loss is {part.loss!r}"
            if isinstance(part, torchattacks.APGD) and part.loss not in ("ce", "dlr"):
                return f"APGD's loss is {part.loss!r}"
        reason: str | None = super()._obstacle(images)
        return reason


def _stage(peer: Any) -> tuple[str, suite.APGD | suite.FAB | suite.Square]:
    """fairtat's name and settings for one of the peer's attacks, which may have been changed since it was made."""
    if isinstance(peer, torchattacks.Square):
        return "square", suite.Square(peer.n_queries, peer.n_restarts, peer.p_init, peer.rescale_schedule)
    if isinstance(peer, torchattacks.FAB):
        rates = suite.FAB().rates._replace(alpha_max=peer.alpha_max, eta=peer.eta, beta=peer.beta)
        name = "fab-t" if peer.multi_targeted else "fab"
        return name, suite.FAB(peer.multi_targeted, peer.steps, peer.n_restarts, peer.n_target_classes, rates)
    shared = {
        "n_iter": peer.steps, "n_restarts": peer.n_restarts, "eot_iter": peer.eot_iter, "rho": peer.thr_decr,
    }  # fmt: skip
    if isinstance(peer, torchattacks.APGDT):
        return "apgd-t", suite.APGD("dlr-targeted", n_target_classes=peer.n_target_classes, **shared)
    return f"apgd-{peer.loss}", suite.APGD(peer.loss, **shared)


class APGD(_FastSearch, torchattacks.APGD):
    """`torchattacks.APGD`: Auto-PGD with the cross-entropy or the DLR loss.

    Args:
        model: As in torchattacks, like all its arguments; 10 ``steps`` are its default, 100 the paper's.
        **options: Other options of :func:`fairtat.attacks.apgd`, such as ``engine="compiled"`` or ``chunk_size=256``.

    Source: Croce and Hein 2020, arXiv:2003.01690.
    """


class APGDT(_FastSearch, torchattacks.APGDT):
    """`torchattacks.APGDT`: Auto-PGD with the targeted DLR loss, towards ``n_classes - 1`` classes in turn.

    Args:
        model, **options: As :class:`APGD`.

    Source: Croce and Hein 2020, arXiv:2003.01690.
    """


class FAB(_FastSearch, torchattacks.FAB):
    """`torchattacks.FAB`, in its default mode and with ``multi_targeted=True``.

    The peer's own loop runs in L1, and towards targets of the caller, where it accepts any wrong class.

    Args:
        model, **options: As :class:`APGD`.

    Source: Croce and Hein 2020, arXiv:1907.02044.
    """

    def _obstacle(self: Any, images: Tensor) -> str | None:
        if self.targeted and not self.multi_targeted:
            return "FAB towards given targets accepts any wrong class"
        reason: str | None = super()._obstacle(images)
        return reason


class Square(_FastSearch, torchattacks.Square):
    """`torchattacks.Square`: random search, with ``loss="margin"``; the peer's own loop runs with "ce".

    Every image has squares of its own, anywhere; the peer draws one place for the whole batch, never in the last row
    or column.

    Args:
        model, **options: As :class:`APGD`.

    Source: Andriushchenko et al. 2020, arXiv:1912.00049.
    """


class AutoAttack(_FastSearch, torchattacks.AutoAttack):
    """`torchattacks.AutoAttack`: its attacks, one after another on the images that are left, as one call.

    The peer's "standard" has APGD and FAB with 10 steps, the paper's 100. For the paper's, take
    :class:`fairtat.integrations.autoattack.AutoAttack`.

    Args:
        model, **options: As :class:`APGD`.

    Source: Croce and Hein 2020, arXiv:2003.01690.
    """

    def _parts(self: Any) -> list[Any]:
        parts: list[Any] = self._autoattack.attacks
        return parts
