"""Runs the attacks and corruptions of an evaluation on every image, each once, and keeps the results."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairtat.engines.operations import countable, engine_for
from fairtat.errors import UserError, starts_at_1
from fairtat.evaluation.attacks.classifier import BatchPredictions, Classifier
from fairtat.evaluation.attacks.kinds import ATTACKS
from fairtat.evaluation.attacks.settings import AttackSettings
from fairtat.evaluation.cache.answers import Answer, Answers
from fairtat.evaluation.corruptions import CorruptionSettings
from fairtat.evaluation.images import Images
from fairtat.evaluation.progress import passes
from fairtat.evaluation.samples import NONE, Predictions

CLEAN = {"kind": "clean"}


class Evaluator:
    """Runs every attack and corruption on all images, one batch at a time.

    A kept result is read, not computed again; a partial one is completed.

    Attributes:
        left: for each suite's stages, those that the time did not suffice for, with the number of images that are left.
    """

    def __init__(self, classifier: Classifier, images: Images, answers: Answers, batch_size: int) -> None:
        classes = answers.canary.num_classes
        self.classifier = replace(classifier, num_classes=classes, batch_size=batch_size)
        self.images = images
        self.label = images.labels.numpy()
        self.answers = answers
        self.batch_size = batch_size
        self.left: dict[tuple[AttackSettings, ...], tuple[tuple[AttackSettings, int], ...]] = {}
        self._known: dict[tuple[AttackSettings, ...], Predictions] = {}
        last = int(self.label.max())
        if last >= classes:
            hint = starts_at_1(int(self.label.min()), last, classes)
            raise ValueError(f"labels go up to {last}, but the model has {classes} logits{hint}")

    def clean(self) -> Predictions:
        """The predictions on clean images.

        Raises:
            UserError: the time was over before all were classified.
        """
        if () not in self._known:
            found = self._judged(CLEAN, "clean", lambda: self.images)
            if found is None:
                raise UserError("the budget was over before all clean images were classified; what is computed is kept")
            self._known[()] = found
        return self._known[()]

    def corrupted(self, settings: CorruptionSettings, make: Callable[[], Images], pixels: str) -> Predictions | None:
        """The predictions on corrupted images, which ``make`` returns; ``pixels`` identifies them.

        None if the time was over before all were classified.
        """
        question = {"kind": "corruption", "settings": settings.to_dict(), "pixels": pixels}
        return self._judged(question, settings.name, make)

    def attacked(self, stages: Sequence[AttackSettings], name: str) -> Predictions:
        """The worst of several attacks, in their order.

        With an active set, a stage attacks only the images that are still classified correctly after the stages before
        it. Stages that two suites begin with are computed once.
        """
        stages = tuple(stages)
        if not stages:
            return self.clean()
        if stages not in self._known:
            self._known[stages] = self._stage(self.attacked(stages[:-1], name), stages, name)
        return self._known[stages]

    def tried(self, stages: Sequence[AttackSettings]) -> bool:
        """Whether the time sufficed for any batch of these stages."""
        first = stages[0]
        asked = int((self.clean().pred == self.label).sum()) if first.active_set else len(self.label)
        return self.left.get((first,), ()) != ((first, asked),)

    def classifier_for(self, settings: AttackSettings, images: int) -> Classifier:
        """The classifier with the engine that this attack on so many images is left to."""
        classifier = self.classifier
        left_to_a_count = classifier.engine == "auto" and ATTACKS[settings.attack].pooled
        if not left_to_a_count or not countable(classifier.model, classifier.device):
            return classifier
        operations = images * passes(settings, classifier.num_classes) * self.answers.canary.operations
        return replace(classifier, engine=engine_for(classifier.model, operations, settings.title), requested=False)

    def _stage(self, base: Predictions, stages: tuple[AttackSettings, ...], name: str) -> Predictions:
        stage = stages[-1]
        predictions = replace(base.copy(), attacked=np.zeros(len(self.images), bool))
        pending = np.flatnonzero(base.pred == self.label) if stage.active_set else np.arange(len(self.images))
        # Without an active set the attack's last step counts, even where the clean image was worse.
        keep_worse = stage.active_set or len(stages) > 1
        classifier = self.classifier_for(stage, len(pending))

        def attack(rows: np.ndarray) -> Tensor:
            x, y, ids = self.images.draw(torch.from_numpy(rows), self.classifier.device)
            return self._record(predictions, rows, classifier.attack(x, y, ids, stage), keep_worse)

        question = {
            "kind": "attack",
            **classifier.computed_by(),
            "stages": [each.to_dict() for each in stages],
            "pending": hashlib.sha256(pending.tobytes()).hexdigest(),
        }
        gradient = ATTACKS[stage.attack].gradient
        answer = self.answers.begin(
            question, name, vars(predictions), len(pending), gradient=gradient, rows=pending, key=stages
        )
        self._work(answer, pending, attack)
        before = self.left.get(stages[:-1], ())
        self.left[stages] = (*before, *([] if answer.complete else [(stage, answer.total - answer.finished)]))
        return predictions

    def targeted(self, settings: AttackSettings, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Each image moved towards each other class: reached (N, C) bool and the largest margin found (N, C) float32.

        None if the time was over before all were.

        With an active set, an image that has become some class on the way to another is not attacked for that again.
        """
        clean, classes = self.clean(), self.classifier.num_classes
        samples = len(self.images)
        everyone = np.arange(samples)
        reached = np.zeros((samples, classes), bool)
        _reach(reached, everyone, clean.pred)
        margin = np.full(reached.shape, -np.inf, np.float32)
        question = {"kind": "targeted", **self.classifier.computed_by(), "settings": settings.to_dict()}

        answer = self.answers.begin(
            question,
            name,
            {"reached": reached, "margin": margin},
            samples,
            gradient=True,
            rows=everyone,
            rounds=classes,
        )
        with answer:
            for target in range(classes):
                wanted = (self.label != target) & (answer.done <= target)
                if settings.active_set:
                    wanted &= ~reached[:, target]
                pending = np.flatnonzero(wanted)
                for rows in answer.batches(pending, self.batch_size):
                    answer.advance(rows, target + 1, self._move(rows, target, settings, reached, margin))
                answer.meet()
                if (answer.done[pending] <= target).any():
                    break  # the time is over
                answer.done[answer.done == target] = target + 1  # those for which there was nothing to do
        if not answer.complete:
            return None
        reached[everyone, self.label] = False
        return reached, margin

    def _move(
        self, rows: np.ndarray, target: int, settings: AttackSettings, reached: np.ndarray, margin: np.ndarray
    ) -> Tensor:
        x, y, ids = self.images.draw(torch.from_numpy(rows), self.classifier.device)
        judged = self.classifier.attack_towards(x, y, torch.full_like(y, target), ids, settings)
        pred = judged.pred.cpu().numpy()
        margin[rows, target] = np.fmax(margin[rows, target], judged.margin.cpu().numpy())
        if not settings.active_set:
            rows, pred = rows[pred == target], pred[pred == target]
        _reach(reached, rows, pred)
        return judged.x

    def _judged(self, question: Mapping[str, Any], name: str, images: Callable[[], Images]) -> Predictions | None:
        predictions = Predictions.blank(len(self.images))
        source: Images | None = None

        def look(rows: np.ndarray) -> Tensor:
            nonlocal source
            source = source or images()
            x, y, _ = source.draw(torch.from_numpy(rows), self.classifier.device)
            return self._record(predictions, rows, self.classifier.judge(x, y), keep_worse=False)

        everyone = np.arange(len(self.images))
        answer = self.answers.begin(question, name, vars(predictions), len(everyone), gradient=False, rows=everyone)
        self._work(answer, everyone, look)
        predictions.attacked[:] = False
        return predictions if answer.complete else None

    def _record(self, predictions: Predictions, rows: np.ndarray, judged: BatchPredictions, keep_worse: bool) -> Tensor:
        pred = judged.pred.cpu().numpy().astype(np.int32)
        margin = judged.margin.cpu().numpy()
        predictions.attacked[rows] = True
        if keep_worse:
            right, was_right = pred == self.label[rows], predictions.pred[rows] == self.label[rows]
            worse = (was_right & ~right) | ((was_right == right) & (margin < predictions.margin[rows]))
            rows, pred, margin = rows[worse], pred[worse], margin[worse]
        predictions.pred[rows], predictions.margin[rows] = pred, margin
        return judged.x

    def _work(self, answer: Answer, pending: np.ndarray, step: Callable[[np.ndarray], Tensor]) -> None:
        """Run ``step``, which fills the answer's arrays, over batches of those of ``pending`` that are not done."""
        with answer:
            for items in answer.batches(np.flatnonzero(answer.done == 0), self.batch_size):
                answer.advance(items, x=step(pending[items]))


def _reach(reached: np.ndarray, rows: np.ndarray, pred: np.ndarray) -> None:
    """Mark the classes that images have become, except those without a prediction."""
    named = pred != NONE
    reached[rows[named], pred[named]] = True
