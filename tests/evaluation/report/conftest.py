"""Runs made by hand: evaluations of known counts, and what their folders would hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from fairtat.evaluation import (
    AttackSettings,
    ClassFigures,
    Condition,
    CorruptionSettings,
    Evaluation,
    Predictions,
    Samples,
    TargetedSweep,
)
from fairtat.evaluation.report import RunRecord

EPS = 8 / 255
MAIN = AttackSettings("pgd", EPS, step_size=EPS / 4)


def predictions(label: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    """Right for about ``share`` of the images, less for class 0; wrong ones mostly say the next class."""
    random = np.random.default_rng(seed)
    wrong = random.random(len(label)) > share * np.where(label == 0, 0.6, 1.0)
    shift = np.where(random.random(len(label)) < 0.7, 1, 2)
    return np.where(wrong, (label + shift) % classes, label)


def make_record(
    name: str = "at",
    *,
    classes: int = 4,
    per_class: Sequence[int] | int = 20,
    share: float = 0.6,
    seed: int = 0,
    names: Sequence[str] | None = None,
    sweep: bool = True,
    extras: bool = False,
    epochs: int = 3,
    findings: Sequence[Any] = (),
) -> RunRecord:
    counts = [per_class] * classes if isinstance(per_class, int) else per_class
    label = np.repeat(np.arange(classes), counts)
    robust = predictions(label, classes, share, seed)
    conditions: dict[str, tuple[str, Any, np.ndarray]] = {
        "clean": ("clean", None, np.where(robust == label, label, predictions(label, classes, 0.9, seed + 1))),
        MAIN.name: ("attack", MAIN, robust),
    }
    if sweep:
        for factor in (0.5, 1.0, 1.5):
            settings = AttackSettings("pgd", factor * EPS, step_size=factor * EPS / 4)
            pred = robust if factor == 1 else predictions(label, classes, share ** (factor**2), seed)
            conditions[f"pgd-20@{factor}"] = ("sweep", settings, pred)
    if extras:
        for severity in (1, 3):
            noise = CorruptionSettings("gaussian_noise", severity)
            conditions[noise.name] = ("corruption", noise, predictions(label, classes, 0.8, severity))
    outcomes = {
        key: Predictions(
            pred.astype(np.int32), np.where(pred == label, 1.0, -1.0).astype(np.float32), np.ones(len(label), bool)
        )
        for key, (_, _, pred) in conditions.items()
    }
    figures = {key: ClassFigures.of(label, pred, classes) for key, (_, _, pred) in conditions.items()}
    targeted = None
    if extras:
        reached = figures[MAIN.name].confusion.clone().fill_diagonal_(0)
        targeted = TargetedSweep(MAIN, tuple(counts), reached)
    evaluation = Evaluation(
        class_names=tuple(names or (f"kind {k}" for k in range(classes))),
        conditions=tuple(
            Condition(key, kind, settings, figures[key]) for key, (kind, settings, _) in conditions.items()
        ),
        primary=MAIN.name,
        samples=Samples.of(np.arange(len(label)), label, outcomes, MAIN.name),
        targeted=targeted,
        findings=tuple(findings),
        source={"data": "hand-made", "split": "test"},
    )
    return RunRecord(
        name=name,
        evaluation=evaluation,
        history=[metrics_line(epoch, classes) for epoch in range(1, epochs + 1)],
        config={"attack": {"eps": "8/255"}, "fairness": {"targets": "none" if name == "at" else "cfps"}},
        environment={"torch": "2.13.0", "started": "2026-11-22"},
    )


def metrics_line(epoch: int, classes: int) -> Mapping[str, Any]:
    """A line of metrics.jsonl, as training writes it."""
    share = 0.5 + 0.1 * epoch / (epoch + 1)
    accuracy = {"average": share, "worst": share - 0.2, "per_class": [share] * classes}
    weight = [1.0 + (k == 0) * epoch for k in range(classes)]
    return {
        "epoch": epoch,
        "train_robust": accuracy,
        "val_clean": {**accuracy, "average": share + 0.3},
        "val_robust": accuracy,
        "class_eps": [EPS * (1 + 0.1 * k * (epoch - 1)) for k in range(classes)],
        "target_weight": [w / sum(weight) for w in weight],
        "averaged": None,
    }


@pytest.fixture(scope="session")
def record() -> Callable[..., RunRecord]:
    return make_record


VOID = {"meta", "link", "img", "br", "line", "rect", "circle", "path"}


class Page(HTMLParser):
    """An HTML page checked for balance, with what the tests ask about."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a reader sees, with single spaces."""
        return " ".join(" ".join(self.words).split())

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.tags if found == tag]


@pytest.fixture(scope="session")
def read() -> Callable[[str], Page]:
    return Page
