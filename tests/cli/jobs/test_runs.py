from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fairtat.cli.jobs.runs import AttackArguments, EvaluationOptions, Job, examine
from fairtat.data import image_data
from fairtat.errors import UserError
from fairtat.training import Number

N = 12
OPTIONS = EvaluationOptions(batch_size=5)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A model and 12 images that pass for the test set of CIFAR-10, with its corrupted form on disk."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, 3, 4, 4), np.uint8)
    labels = np.arange(N) % 3
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", rng.integers(0, 256, (5 * N, 4, 4, 3), np.uint8))
    np.save(folder / "labels.npy", np.tile(labels, 5))
    torch.manual_seed(0)
    return Job(
        name="here",
        model=nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).eval(),
        data=image_data("cifar10", images, labels),
        split="test",
        folder=tmp_path / "kept",
        source={"data": "cifar10"},
        eps=0.1,
        norm="linf",
        data_root=str(tmp_path),
    )


def test_published_corrupted_images_are_those_that_are_judged(job: Job, tmp_path: Path) -> None:
    assert job.has_corrupted_files
    defaults = AttackArguments().defaults(job)
    evaluation = examine(
        job, defaults, OPTIONS, attacks=[], corruptions=["fog"], severities=[2], corrupted=job.corrupted
    )
    stored = np.load(tmp_path / "CIFAR-10-C" / "fog.npy")[N : 2 * N].transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = job.model(torch.from_numpy(stored.copy()).float() / 255).argmax(1)
    assert evaluation.samples is not None
    assert evaluation.samples.pred_of("fog/2").tolist() == expected.tolist()
    assert evaluation.condition("fog/2").to_dict(("a", "b", "c"))["settings"]["made_by"] == "file"
    assert evaluation.source["data"] == "cifar10"


def test_some_images_of_each_class_bring_their_own_corrupted_ones(job: Job, tmp_path: Path) -> None:
    few = job.per_class(2)
    assert few.rows is not None
    assert few.data.labels.bincount().tolist() == [2, 2, 2]
    assert few.stored == tmp_path / "kept" / "test-2-per-class.json"
    assert (few.source["per_class"], job.source) == (2, {"data": "cifar10"})
    torch.testing.assert_close(few.corrupted("fog", 3), job.corrupted("fog", 3)[few.rows], rtol=0, atol=0)


def test_corrupted_images_of_other_labels_are_refused(job: Job, tmp_path: Path) -> None:
    np.save(tmp_path / "CIFAR-10-C" / "labels.npy", np.arange(5 * N) % 2)
    with pytest.raises(UserError, match="labels are not those of the test set of cifar10"):
        job.corrupted("fog", 1)


def test_what_an_attack_leaves_open_comes_from_the_training(job: Job) -> None:
    assert AttackArguments().defaults(job)[:4] == (0.1, "linf", 20, None)
    given = AttackArguments(
        eps=Number("8/255"), step_size=Number("1/255"), norm="l2", steps=5, restarts=2, seed=3, amp="bf16"
    )
    assert given.defaults(job, active_set=False) == (8 / 255, "l2", 5, 1 / 255, 2, 3, False, "bf16")


def test_work_is_announced_once_and_only_where_there_is_some(job: Job) -> None:
    calls: list[int] = []
    for _ in range(2):
        examine(job, AttackArguments(steps=1).defaults(job), OPTIONS, on_work=lambda: calls.append(1), attacks=["pgd"])
    assert calls == [1]
