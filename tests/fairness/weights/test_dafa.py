from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from fairtat import ClassStats
from fairtat.fairness import dafa_weight
from fairtat.fairness.weights import DAFA


def measured(rule: DAFA, probability: Sequence[Sequence[float]], label: Sequence[int]) -> DAFA:
    """One epoch with these softmax outputs."""
    rule.update(torch.tensor(probability, dtype=torch.float64).log(), torch.tensor(label))
    rule.end_epoch(ClassStats(rule.num_classes))
    return rule


def by_pairs(similarity: Tensor, lam: float) -> list[float]:
    """The definition, pair by pair: the harder class takes lam * p_ij * p_jj from the easier one."""
    p = similarity.tolist()
    weight = [1.0] * len(p)
    for i in range(len(p)):
        for j in range(len(p)):
            if p[i][i] < p[j][j]:
                weight[i] += lam * p[i][j] * p[j][j]
                weight[j] -= lam * p[i][j] * p[j][j]
    return weight


def test_weights_by_hand() -> None:
    # Class means: 0 (0.5, 0.3, 0.2) of two samples, 1 (0.2, 0.7, 0.1), 2 (0.1, 0.1, 0.8).
    probability = [[0.6, 0.3, 0.1], [0.4, 0.3, 0.3], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]
    rule = measured(DAFA(3, warmup=1), probability, [0, 0, 1, 2])
    # 1 gives 0.3 * 0.7 to 0, 2 gives 0.2 * 0.8 to 0 and 0.1 * 0.8 to 1.
    expected = [1 + 0.21 + 0.16, 1 - 0.21 + 0.08, 1 - 0.16 - 0.08]
    assert rule.factors.weight is not None
    assert rule.factors.weight.tolist() == pytest.approx(expected, abs=1e-9)
    assert rule.similarity.tolist()[0] == pytest.approx([0.5, 0.3, 0.2], abs=1e-9)


def test_lambda_scales_what_moves() -> None:
    similarity = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
    assert dafa_weight(similarity, 2.0).tolist() == pytest.approx([1.74, 0.74, 0.52], abs=1e-12)
    assert dafa_weight(similarity, 0.0).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("classes", [2, 10, 37])
def test_weights_are_the_pairwise_definition_and_sum_to_the_number_of_classes(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    similarity = torch.rand(classes, classes, generator=generator, dtype=torch.float64).softmax(dim=1)
    weight = dafa_weight(similarity, 1.5)
    assert weight.tolist() == pytest.approx(by_pairs(similarity, 1.5), rel=1e-12)
    assert weight.sum().item() == pytest.approx(classes, rel=1e-12)


def test_equally_confident_classes_exchange_nothing() -> None:
    """In the published code both lose, and the sum of the weights falls below C."""
    similarity = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]], dtype=torch.float64)
    assert dafa_weight(similarity, 1.0).tolist() == [1.0, 1.0, 1.0]


def test_weights_stay_positive() -> None:
    probability = [[0.30, 0.40, 0.30], [0.05, 0.90, 0.05], [0.30, 0.40, 0.30]]
    rule = measured(DAFA(3, warmup=1, lam=5.0, clamp=(0.2, 2.5)), probability, [0, 1, 2])
    assert dafa_weight(rule.similarity, 5.0)[1] < 0
    assert rule.factors.weight is not None
    assert rule.factors.weight.tolist() == [2.5, 0.2, 2.5]


def test_weights_scale_radius_step_and_cross_entropy_and_leave_the_divergence() -> None:
    rule = measured(DAFA(2, warmup=1), [[0.6, 0.4], [0.1, 0.9]], [0, 1])
    weight, robust_weight, eps, step = rule.factors
    assert robust_weight is None
    assert weight is not None
    assert weight.tolist() == pytest.approx([1.36, 0.64], abs=1e-9)
    assert eps is weight
    assert step is weight


def test_once_measured_the_weights_do_not_move(make_epoch: Any) -> None:
    rule = DAFA(5, warmup=2)
    for number in range(2):
        make_epoch(number).run(rule)
    before = rule.factors.weight
    assert before is not None
    for number in range(2, 5):
        make_epoch(number).run(rule)
        assert rule.factors.weight is not None
        assert torch.equal(rule.factors.weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_neither_order_nor_batches_matter(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(300, 7, generator=generator).to(dtype)
    label = torch.randint(7, (300,), generator=generator)
    whole = DAFA(7, warmup=1)
    whole.update(logits, label)
    shuffled = DAFA(7, warmup=1)
    order = torch.randperm(300, generator=generator)
    for part in order.split([1, 0, 150, 149]):
        shuffled.update(logits[part], label[part])
    assert torch.equal(whole.softmax_sum, shuffled.softmax_sum)
    means = torch.stack([logits[label == k].double().softmax(dim=1).mean(dim=0) for k in range(7)])
    torch.testing.assert_close(whole.similarity, means, rtol=0, atol=1e-9)


def test_what_cannot_be_counted_is_left_out() -> None:
    rule = DAFA(2, warmup=1)
    logits = torch.tensor([[0.0, 0.0], [torch.nan, 0.0], [torch.inf, 0.0], [0.0, 0.0]])
    rule.update(logits, torch.tensor([0, 0, 1, 2]))
    assert rule.similarity[0].tolist() == [0.5, 0.5]
    assert rule.similarity[1].isnan().all()


def test_a_class_without_samples_keeps_its_weight() -> None:
    rule = measured(DAFA(3, warmup=1), [[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]], [0, 1])
    assert rule.factors.weight is not None
    assert rule.factors.weight.tolist() == pytest.approx([1.21, 0.79, 1.0], abs=1e-9)


def test_logits_with_a_graph_leave_none_behind() -> None:
    rule = DAFA(2, warmup=1)
    rule.update(torch.zeros(3, 2, requires_grad=True), torch.tensor([0, 1, 1]))
    assert not rule.softmax_sum.requires_grad


def test_a_state_of_another_warm_up_is_refused() -> None:
    source, rule = DAFA(2, warmup=2), DAFA(2, warmup=3)
    with pytest.raises(ValueError, match="dafa state must have warmup=3, got 2"):
        rule.load_state_dict(source.state_dict())
