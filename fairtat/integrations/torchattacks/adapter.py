"""What all adapters of torchattacks share."""

from __future__ import annotations

from typing import Any

import torch
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

    @property
    def _radius(self: Any) -> float:
        return self.eps  # type: ignore[no-any-return]

    def _perturb(self, images: Tensor, labels: Tensor) -> Tensor:
        """What fairtat does in place of the peer's loop."""
        raise NotImplementedError

    def _classes(self: Any, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """(Labels, targets if there are any). Where only a target is known, the label is the model's own prediction, or
        another class than the target."""
        if not self.targeted:
            return labels, None
        target: Tensor = self.get_target_label(images, labels)
        logits = self.get_output_with_eval_nograd(images)
        pred = logits.argmax(dim=1)
        return torch.where(pred == target, (target + 1) % logits.shape[1], pred), target

    def _obstacle(self: Any, images: Tensor) -> str | None:
        """Why the peer's own loop must run, or None."""
        if type(self).get_logits is not torchattacks.attack.Attack.get_logits:
            return f"{type(self).__name__}.get_logits is overridden"
        return obstacle(self.model, images, eps=self._radius, norm=self._norm)

    def _normalization(self: Any) -> tuple[Tensor, Tensor] | None:
        """(mean, std) where ``set_normalization_used`` was called: inside ``forward`` the images are in [0, 1]."""
        if self._normalization_applied is not False:
            return None
        used = self.normalization_used
        return used["mean"].flatten(), used["std"].flatten()
