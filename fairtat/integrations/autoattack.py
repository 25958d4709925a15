"""AutoAttack's own interface, for scripts that have it: only the import changes.

from fairtat.integrations.autoattack import AutoAttack

adversary = AutoAttack(model, norm="Linf", eps=8 / 255, version="standard")
x_adv = adversary.run_standard_evaluation(x, y, bs=250)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fairtat.attacks.autoattack import APGD, FAB, AutoAttackFlags, Square, autoattack
from fairtat.attacks.autoattack.stages import Stage
from fairtat.attacks.autoattack.suite import STAGES, VERSIONS
from fairtat.checks import check_choice
from fairtat.engines.model.state import Model

__all__ = ["AutoAttack"]

NORMS = {"Linf": "linf", "L2": "l2"}


class AutoAttack:
    """:func:`fairtat.autoattack` as the class of Croce and Hein's package (arXiv:2003.01690).

    The attributes ``apgd``, ``apgd_targeted``, ``fab`` and ``square`` hold the numbers of each attack, to be changed
    before a run: ``adversary.apgd.n_restarts = 1``.

    Args:
        model: From images in [0, 1] to logits.
        norm: "Linf" or "L2".
        eps: Radius.
        seed: Of all random numbers; None means 0.
        verbose: Print the accuracy after each attack.
        attacks_to_run: Names, for ``version="custom"``.
        version: "standard", "plus", "rand" or "custom".
        device: Where the images are moved to; None: where they are.
        log_path: Also write what is printed to this file.
        options: As in :func:`fairtat.autoattack`: ``engine``, ``amp``, ``gradient``, ...
    """

    def __init__(
        self,
        model: Model,
        norm: str = "Linf",
        eps: float = 0.3,
        seed: int | None = None,
        verbose: bool = True,
        attacks_to_run: Sequence[str] = (),
        version: str = "standard",
        device: torch.device | str | None = None,
        log_path: str | Path | None = None,
        **options: Any,
    ) -> None:
        check_choice("norm", norm, list(NORMS))
        check_choice("version", version, VERSIONS)
        if version != "custom" and attacks_to_run:
            raise ValueError(f"attacks_to_run goes with version='custom' and no other, got {version!r}")
        self.model, self.norm, self.epsilon, self.seed, self.verbose = model, norm, eps, seed, verbose
        self.version, self.device, self.log_path, self.options = version, device, log_path, options
        self.attacks_to_run = list(attacks_to_run) if version == "custom" else list(STAGES[version])
        stages = STAGES["plus" if version == "custom" else version]
        ce, targeted = stages["apgd-ce"], stages.get("apgd-t", APGD("dlr-targeted"))
        assert isinstance(ce, APGD)
        assert isinstance(targeted, APGD)
        self.apgd = SimpleNamespace(n_iter=ce.n_iter, n_restarts=ce.n_restarts, eot_iter=ce.eot_iter, rho=ce.rho)
        self.apgd_targeted = SimpleNamespace(
            n_iter=targeted.n_iter, n_restarts=1, n_target_classes=targeted.n_target_classes, rho=targeted.rho
        )
        fab = stages.get("fab", FAB())
        assert isinstance(fab, FAB)
        self.fab = SimpleNamespace(n_iter=100, n_restarts=fab.n_restarts, n_target_classes=9)
        self.square = SimpleNamespace(n_queries=5000, n_restarts=1, p_init=0.8, resc_schedule=False)

    def run_standard_evaluation(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Adversarial images like ``x_orig``, each attack on what those before it left; and the model's labels of them.

        ``bs``: images in one pass of the model.
        """
        if not self.attacks_to_run:
            raise ValueError("attacks_to_run must name attacks with version='custom', got none")
        self._log(f"using {self.version} version including {', '.join(self.attacks_to_run)}.")
        x_adv, flags = self._run(self.attacks_to_run, x_orig, y_orig, bs)
        self._log(f"initial accuracy: {flags.accuracy[0]:.2%}")
        for name, accuracy in zip(flags.attacks[1:], flags.accuracy[1:], strict=True):
            self._log(f"robust accuracy after {name.upper()}: {accuracy:.2%}")
        for note in flags.notes:
            self._log(f"note: {note}")
        self._log(f"robust accuracy: {flags.robust_accuracy:.2%}")
        return (x_adv, flags.pred.to(y_orig.device)) if return_labels else x_adv

    def run_standard_evaluation_individual(
        self, x_orig: Tensor, y_orig: Tensor, bs: int = 250, return_labels: bool = False
    ) -> dict[str, Tensor | tuple[Tensor, Tensor]]:
        """The same for each attack alone, by name."""
        found: dict[str, Tensor | tuple[Tensor, Tensor]] = {}
        for name in self.attacks_to_run:
            x_adv, flags = self._run([name], x_orig, y_orig, bs)
            self._log(f"robust accuracy by {name.upper()}: {flags.robust_accuracy:.2%}")
            found[name] = (x_adv, flags.pred.to(y_orig.device)) if return_labels else x_adv
        return found

    def clean_accuracy(self, x_orig: Tensor, y_orig: Tensor, bs: int = 250) -> float:
        """The share of images that the model gets right as they are."""
        return self._run([], x_orig, y_orig, bs)[1].accuracy[0]

    def _run(self, names: Sequence[str], x: Tensor, y: Tensor, bs: int) -> tuple[Tensor, AutoAttackFlags]:
        given = x if self.device is None else x.to(self.device)
        label = y if self.device is None else y.to(self.device)
        x_adv, flags = autoattack(
            self.model, given, label, eps=self.epsilon, norm=NORMS[self.norm], version="custom",
            attacks=[(name, self._stage(name)) for name in names], seed=self.seed or 0, chunk_size=bs, **self.options,
        )  # fmt: skip
        return x_adv.to(x.device), flags

    def _stage(self, name: str) -> Stage:
        check_choice("attacks_to_run", name, list(STAGES["plus"]))
        if name == "apgd-t":
            return replace(APGD("dlr-targeted"), **vars(self.apgd_targeted))
        if name.startswith("apgd"):
            return replace(APGD(name.removeprefix("apgd-")), **vars(self.apgd))
        if name == "square":
            return replace(Square(), **vars(self.square))
        one_run = {"n_restarts": 1} if name == "fab-t" else {}
        return replace(FAB(targeted=name == "fab-t"), **{**vars(self.fab), **one_run})

    def _log(self, text: str) -> None:
        if self.verbose:
            print(text, flush=True)
        if self.log_path is not None:
            with Path(self.log_path).open("a", encoding="utf-8") as file:
                file.write(text + "\n")
