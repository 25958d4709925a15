"""ClassStats as a metric, against torchmetrics' own class-wise metrics on the same data."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

# This file is also run as a script, as one process of several.
sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from harness.torchvision_beside_cpu import make_importable
from jobs import started

make_importable()
torchmetrics = pytest.importorskip("torchmetrics")

from fairtat import ClassStats  # noqa: E402
from fairtat.integrations.torchmetrics import ClassStatsMetric  # noqa: E402

CLASSES = 5


def samples(n: int = 203, seed: int = 0, absent: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = (torch.rand(n, generator=generator) ** 2 * CLASSES).long()
    if absent is not None:
        label[label == absent] = (absent + 1) % CLASSES
    logits = torch.randn(n, CLASSES, generator=generator)
    logits[torch.arange(n), label] += 1.0
    return logits, label


def batches(logits: Tensor, label: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(logits.split(31), label.split(31), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_accuracy_is_torchmetrics_own_accuracy_and_recall(dtype: torch.dtype) -> None:
    logits, label = samples()
    ours = ClassStatsMetric(CLASSES)
    theirs = {
        "accuracy": torchmetrics.classification.MulticlassAccuracy(CLASSES, average=None),
        "recall": torchmetrics.classification.MulticlassRecall(CLASSES, average=None),
        "average": torchmetrics.classification.MulticlassAccuracy(CLASSES, average="micro"),
        "balanced": torchmetrics.classification.MulticlassAccuracy(CLASSES, average="macro"),
    }
    for x, y in batches(logits.to(dtype), label):
        ours.update(x, y)
        for metric in theirs.values():
            metric.update(x, y)
    found = ours.compute()
    for name, metric in theirs.items():
        key = "accuracy" if name == "recall" else name
        torch.testing.assert_close(found[key], metric.compute().double(), rtol=1e-6, atol=0)  # theirs is float32
    assert found["worst"] == found["accuracy"].min()


def test_a_class_without_samples_is_nan_and_never_the_worst() -> None:
    logits, label = samples(absent=2)
    ours = ClassStatsMetric(CLASSES)
    recall = torchmetrics.classification.MulticlassRecall(CLASSES, average=None)
    found, theirs = ours(logits, label)["accuracy"], recall(logits, label).double()
    present = torch.arange(CLASSES) != 2
    assert found[2].isnan()
    torch.testing.assert_close(found[present], theirs[present], rtol=1e-6, atol=0)
    assert ours.compute()["worst"] == found[present].min()
    assert ClassStatsMetric(CLASSES).compute()["worst"].isnan()


def test_forward_gives_the_batch_and_keeps_the_sum() -> None:
    logits, label = samples()
    ours = ClassStatsMetric(CLASSES)
    for x, y in batches(logits, label):
        torch.testing.assert_close(ours(x, y)["accuracy"], ClassStats(CLASSES).update(x, y).accuracy, equal_nan=True)
    assert torch.equal(ours.buffer, ClassStats(CLASSES).update(logits, label).buffer)
    ours.reset()
    assert not ours.buffer.any()


def test_attack_targets_reach_the_statistics() -> None:
    logits, label = samples()
    target = (label + 1) % CLASSES
    ours = ClassStatsMetric(CLASSES)
    ours.update(logits, label, target)
    assert torch.equal(ours.buffer, ClassStats(CLASSES).update(logits, label, target).buffer)


def test_it_is_a_metric_among_others() -> None:
    logits, label = samples()
    both = torchmetrics.MetricCollection(
        {"fair": ClassStatsMetric(CLASSES), "f1": torchmetrics.classification.MulticlassF1Score(CLASSES)}
    )
    both.update(logits, label)
    assert "worst" in both.compute()
    metric = ClassStatsMetric(CLASSES)
    metric.update(logits, label)
    again = pickle.loads(pickle.dumps(metric))
    assert torch.equal(again.buffer, metric.buffer)
    metric.persistent(True)
    fresh = ClassStatsMetric(CLASSES)
    fresh.persistent(True)
    fresh.load_state_dict(metric.state_dict())
    assert torch.equal(fresh.compute()["accuracy"], metric.compute()["accuracy"])


@pytest.mark.parametrize("wrong", [1, 0, 2.5, "3"])
def test_a_wrong_number_of_classes_is_refused(wrong: object) -> None:
    with pytest.raises((TypeError, ValueError), match="num_classes must be an int"):
        ClassStatsMetric(wrong)


@pytest.mark.slow
def test_two_processes_sum_to_the_bits_of_one(tmp_path: Path) -> None:
    with started(2, __file__, str(tmp_path)) as job:
        _, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    logits, label = samples()
    alone = ClassStatsMetric(CLASSES)
    alone.update(logits, label)
    expected = alone.compute()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def _rank_main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    metric = ClassStatsMetric(CLASSES)
    for x, y in batches(*(each[rank::2] for each in samples())):
        metric.update(x, y)
    torch.save(metric.compute(), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    _rank_main(Path(sys.argv[1]))
