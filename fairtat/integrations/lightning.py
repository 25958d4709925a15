"""Fair adversarial training under a Lightning Trainer: a callback that swaps each training batch's images.

Source: Lightning 2 (``lightning.pytorch.Callback``); FAIR-TAT: Medi, Jung, Keuper, WACV 2025, arXiv:2410.23142.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, MutableSequence
from typing import Any

from torch import Tensor, nn

from fairtat.attacks import fast_pgd, fast_targeted_pgd
from fairtat.errors import UserError
from fairtat.fairness import FairTAT
from fairtat.optional import optional_import
from fairtat.seeds import derive

lightning = optional_import("lightning.pytorch", purpose="fairtat.integrations.lightning", extra="lightning")

__all__ = ["FairAdversarialTraining"]


class FairAdversarialTraining(lightning.Callback):  # type: ignore[name-defined]
    """Makes the images of each training batch adversarial, towards targets and within radii that follow the classes.

    The module's ``training_step`` stays what it is: its batch (a list or dict) holds adversarial images when it comes.
    It returns a dict with ``loss`` and ``logits``, the (N, C) logits of those images, which are counted class by
    class; at the end of an epoch targets and radii follow the counts::

        def training_step(self, batch, batch_idx):
            x, y = batch
            logits = self(x)
            return {"loss": F.cross_entropy(logits, y), "logits": logits}

        fair = fairtat.FairTAT(num_classes=10, eps=8 / 255)
        Trainer(callbacks=[FairAdversarialTraining(fair, step_size=2 / 255)]).fit(module, loader)

    The rules' state is part of the trainer's checkpoints. ``fairtat_worst`` is logged: the robust accuracy of the
    epoch's worst class, of the training examples.

    Args:
        fair: the rules, on the device that the trainer puts the module on.
        step_size, steps: of the attack; other options of :func:`fairtat.fast_targeted_pgd` follow by name, such as
            ``bn_mode="train"``.
        network: maps the LightningModule to what is attacked: a module that maps images to logits. By default the
            LightningModule itself; ``lambda module: module.net`` names a part of it.
        keys: where a batch has images, labels and, if it has them, sample ids (N,) int64, which several processes need.
        seed: of the attack's starts.

    Raises:
        UserError: Lightning is not installed; a batch that is not a list or dict of tensors, or lacks a key; an output
            without ``logits``; several processes without sample ids; a rule that learns from validation.
        TypeError, ValueError: as :func:`fairtat.fast_targeted_pgd`.
    """

    def __init__(
        self,
        fair: FairTAT,
        *,
        step_size: float = 2 / 255,
        steps: int = 10,
        network: Callable[[Any], nn.Module] | None = None,
        keys: tuple[Any, Any] | tuple[Any, Any, Any] = (0, 1),
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        if fair.needs_validation:
            raise UserError(
                f"weights {fair.weights!r} learn from attacked validation images, which this callback lacks"
            )
        self.fair = fair
        self._network = network or (lambda module: module)
        self._keys = keys
        self._seed = seed
        self._step_size = step_size
        self._options = {"steps": steps, **options}
        self._drawn: tuple[Tensor, Tensor | None] | None = None  # labels and targets of the running batch

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Put adversarial images in the place of the batch's."""
        x, y, *ids = (_entry(batch, key) for key in self._keys)
        if trainer.world_size > 1 and not ids:
            raise UserError(
                f"{trainer.world_size} processes would draw the same targets; give the batch sample ids, and their "
                "place to keys"
            )
        sample_ids = ids[0] if ids else None
        target = self.fair.sample_targets(y, sample_ids)
        scale = self.fair.step_scale_for(y)
        options = {
            "eps": self.fair.eps_for(y),
            "step_size": self._step_size if scale is None else self._step_size * scale,
            # With ids, a start depends on them and not on the batch.
            "seed": derive(self._seed, "attack", trainer.current_epoch, *(() if ids else (batch_idx,))),
            "sample_ids": sample_ids,
            **self._options,
        }
        network = self._network(pl_module)
        if target is None:
            x_adv = fast_pgd(network, x, y, **options)
        else:
            x_adv = fast_targeted_pgd(network, x, target, y=y, **options)
        batch[self._keys[0]] = x_adv
        self._drawn = y, target

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count what the network made of them."""
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
        if not isinstance(logits, Tensor):
            raise UserError(
                "training_step must return a dict with 'loss' and 'logits', the (N, C) logits of its images"
            )
        assert self._drawn is not None
        y, target = self._drawn
        self.fair.update(logits.detach(), y, target)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Targets and radii of the next epoch."""
        self.fair.end_epoch()
        assert self.fair.last is not None
        pl_module.log("fairtat_worst", self.fair.last.worst()[1])

    def state_dict(self) -> dict[str, Any]:
        return self.fair.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.fair.load_state_dict(state_dict)


def _entry(batch: Any, key: Any) -> Tensor:
    if not isinstance(batch, (MutableMapping, MutableSequence)):
        raise UserError(
            f"the images of a batch are swapped in place, and a {type(batch).__name__} is neither a list nor a dict: "
            "have the collate function return one"
        )
    try:
        value = batch[key]
    except (KeyError, IndexError) as error:
        raise UserError(f"a batch has no {key!r}; keys names where images, labels and sample ids are") from error
    if not isinstance(value, Tensor):
        raise UserError(f"entry {key!r} of a batch must be a tensor, got {type(value).__name__}")
    return value
