"""What all adapters of torchattacks share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fairtat.integrations.peer import TakesOptions, obstacle, peer_loop, require

torchattacks = require("torchattacks")

__all__ = ["Fast", "torchattacks"]


class Fast(TakesOptions):
    """A mixin before the peer's class, whose ``forward`` it replaces: modes, normalization and ``save`` stay."""

    _norm = "linf"

    def forward(self: Any, images: Tensor, labels: Tensor) -> Tensor:
        """x_adv for images (N, C, H, W) in [0, 1] and labels (N,): targets, in mode "targeted(label)"."""
        images, labels = images.detach().to(self.device), labels.detach().to(self.device)
        reason = self._obstacle(images)
        if reason is not None:
            peer_loop("torchattacks", reason)
            peers_own: Tensor = super().forward(images, labels)  # type: ignore[misc]
            return peers_own
        found: Tensor = self._perturb(images, labels)
        return found

    def _perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        """What fairtat does in place of the peer's loop."""
        raise NotImplementedError

    def _obstacle(self: Any, images: Tensor) -> str | None:
        """Why the peer's own loop must run, or None."""
        if type(self).get_logits is not torchattacks.attack.Attack.get_logits:
            return f"{type(self).__name__}.get_logits is overridden"
        return obstacle(self.model, images, eps=self.eps, norm=self._norm)

    def _normalization(self: Any) -> tuple[Tensor, Tensor] | None:
        """(mean, std) where ``set_normalization_used`` was called: inside ``forward`` the images are in [0, 1]."""
        if self._normalization_applied is not False:
            return None
        used = self.normalization_used
        return used["mean"].flatten(), used["std"].flatten()
