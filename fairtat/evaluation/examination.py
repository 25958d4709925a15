"""The work of an evaluation: questions put to every image, each answered once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairtat.errors import starts_at_1
from fairtat.evaluation.images import Images
from fairtat.evaluation.parts import Parts
from fairtat.evaluation.samples import Outcome
from fairtat.evaluation.settings import AttackSettings, CorruptionSettings
from fairtat.evaluation.subject import Judged, Subject

Progress = Callable[[str, int, int], None]
"""Told (condition, images done, images to do) after each batch."""


class Examination:
    """Puts questions to a model about every image, a batch at a time.

    An answer that `parts` holds is read, not worked out again; one that it holds in part is finished.
    """

    def __init__(
        self, subject: Subject, images: Images, parts: Parts, batch_size: int, progress: Progress | None
    ) -> None:
        self.subject = subject
        self.images = images
        self.label = images.labels.numpy()
        self.parts = parts
        self.batch_size = batch_size
        self._progress = progress
        self._answers: dict[tuple[AttackSettings, ...], Outcome] = {}

    def clean(self) -> Outcome:
        """What the model makes of the images as they are; says how many classes it knows, too."""
        if () not in self._answers:
            classes = np.array(self.subject.num_classes)

            def judge(x: Tensor, y: Tensor, ids: Tensor) -> Judged:
                logits = self.subject.logits(x)
                classes[...] = logits.shape[1]
                count, last = logits.shape[1], int(self.label.max())
                if last >= count:
                    hint = starts_at_1(int(self.label.min()), last, count)
                    raise ValueError(f"labels go up to {last}, but the model has {count} logits{hint}")
                return self.subject.judge_logits(logits, y)

            self._answers[()] = self._judged({"kind": "clean"}, "clean", self.images, judge, classes=classes)
            self.subject = replace(self.subject, num_classes=int(classes))
        return self._answers[()]

    def corrupted(self, settings: CorruptionSettings, make: Callable[[], Images], pixels: str) -> Outcome:
        """What it makes of corrupted images, which ``make`` returns; ``pixels`` tells them from any others."""
        question = {"kind": "corruption", "settings": settings.to_dict(), "pixels": pixels}
        return self._judged(question, settings.name, make, lambda x, y, _: self.subject.judge(x, y))

    def attacked(self, stages: Sequence[AttackSettings], name: str) -> Outcome:
        """The worst of several attacks, in their order.

        With an active set a stage meets only the images that all before it left right, starting with those that the
        model gets right as they are. So stages that two questions begin with are answered once.
        """
        stages = tuple(stages)
        if not stages:
            return self.clean()
        if stages not in self._answers:
            self._answers[stages] = self._stage(self.attacked(stages[:-1], name), stages, name)
        return self._answers[stages]

    def _stage(self, base: Outcome, stages: tuple[AttackSettings, ...], name: str) -> Outcome:
        stage = stages[-1]
        outcome = replace(base.copy(), attacked=np.zeros(len(self.images), bool))
        pending = np.flatnonzero(base.pred == self.label) if stage.active_set else np.arange(len(self.images))
        # Without an active set the attack's own last step counts, even where the image itself was the worse.
        keep_worse = stage.active_set or len(stages) > 1

        def attack(rows: np.ndarray) -> None:
            x, y, ids = self.images.draw(torch.from_numpy(rows), self.subject.device)
            self._record(outcome, rows, self.subject.attack(x, y, ids, stage), keep_worse)

        question = {"kind": "attack", "stages": [each.to_dict() for each in stages]}
        self._work(question, name, vars(outcome), pending, attack)
        return outcome

    def targeted(self, settings: AttackSettings, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Each image moved towards each other class: reached (N, C) bool and the largest margin found (N, C) float32.

        With an active set, an image that has become some class on the way to another is not attacked for that again.
        """
        clean, classes = self.clean(), self.subject.num_classes
        samples = len(self.images)
        everyone = np.arange(samples)
        reached = np.zeros((samples, classes), bool)
        reached[everyone, clean.pred] = True
        margin = np.full(reached.shape, -np.inf, np.float32)
        arrays = {"reached": reached, "margin": margin}
        question = {"kind": "targeted", "settings": settings.to_dict()}

        # Work is counted in rows of all targets in turn, whether a row needs the attack or not.
        done = self._restore(question, arrays) or 0
        started = done
        try:
            while done < samples * classes:
                target, first = divmod(done, samples)
                wanted = (self.label != target) & (everyone >= first)
                if settings.active_set:
                    wanted &= ~reached[:, target]
                pending = np.flatnonzero(wanted)
                rows = pending[: self.batch_size]
                if len(rows):
                    self._move(rows, target, settings, reached, margin)
                done = target * samples + (int(rows[-1]) + 1 if len(pending) > len(rows) else samples)
                self.parts.save(question, arrays, done, complete=False)
                self._tell(name, done, samples * classes)
        finally:
            if done > started:
                self.parts.save(question, arrays, done)
        reached[everyone, self.label] = False
        return reached, margin

    def _move(
        self, rows: np.ndarray, target: int, settings: AttackSettings, reached: np.ndarray, margin: np.ndarray
    ) -> None:
        x, y, ids = self.images.draw(torch.from_numpy(rows), self.subject.device)
        found, found_margin = self.subject.attack_towards(x, y, torch.full_like(y, target), ids, settings)
        pred = found.cpu().numpy()
        margin[rows, target] = np.maximum(margin[rows, target], found_margin.cpu().numpy())
        if not settings.active_set:
            rows, pred = rows[pred == target], pred[pred == target]
        reached[rows, pred] = True

    def _judged(
        self,
        question: Mapping[str, Any],
        name: str,
        images: Images | Callable[[], Images],
        judge: Callable[[Tensor, Tensor, Tensor], Judged],
        **arrays: np.ndarray,
    ) -> Outcome:
        outcome = Outcome.blank(len(self.images))
        source = images if isinstance(images, Images) else None

        def look(rows: np.ndarray) -> None:
            nonlocal source
            source = source or images()  # type: ignore[operator]
            judged = judge(*source.draw(torch.from_numpy(rows), self.subject.device))
            self._record(outcome, rows, judged, keep_worse=False)

        self._work(question, name, {**vars(outcome), **arrays}, np.arange(len(self.images)), look)
        outcome.attacked[:] = False
        return outcome

    def _record(self, outcome: Outcome, rows: np.ndarray, judged: Judged, keep_worse: bool) -> None:
        pred = judged.pred.cpu().numpy().astype(np.int32)
        margin = judged.margin.cpu().numpy()
        outcome.attacked[rows] = True
        if keep_worse:
            right, was_right = pred == self.label[rows], outcome.pred[rows] == self.label[rows]
            worse = (was_right & ~right) | ((was_right == right) & (margin < outcome.margin[rows]))
            rows, pred, margin = rows[worse], pred[worse], margin[worse]
        outcome.pred[rows], outcome.margin[rows] = pred, margin

    def _work(
        self,
        question: Mapping[str, Any],
        name: str,
        arrays: Mapping[str, np.ndarray],
        pending: np.ndarray,
        step: Callable[[np.ndarray], None],
    ) -> None:
        """Run ``step``, which fills the arrays, over batches of ``pending``, from where an earlier run stopped."""
        kept = self._restore(question, arrays)
        done = kept or 0
        if kept is not None and done == len(pending):
            return
        try:
            while done < len(pending):
                rows = pending[done : done + self.batch_size]
                step(rows)
                done += len(rows)
                self.parts.save(question, arrays, done, complete=False)
                self._tell(name, done, len(pending))
        finally:  # so that Ctrl-C costs one batch
            if done or not len(pending):
                self.parts.save(question, arrays, done)

    def _restore(self, question: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> int | None:
        """Fill the arrays from a kept part and say how many work items it covers; None when there is none."""
        kept = self.parts.load(question)
        if kept is None or any(name not in kept[0] or kept[0][name].shape != arrays[name].shape for name in arrays):
            return None
        for name, array in arrays.items():
            array[...] = kept[0][name]
        return kept[1]

    def _tell(self, name: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(name, done, total)
