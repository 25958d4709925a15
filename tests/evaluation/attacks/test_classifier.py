from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fairtat.evaluation.attacks.classifier import Classifier, margins, predicted_classes
from fairtat.evaluation.samples import NONE

CPU = torch.device("cpu")


def test_margins_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.5], [0.0, -1.0, 4.0], [2.0, 2.0, 2.0]], dtype=torch.float64)
    assert margins(logits, torch.tensor([0, 1, 2])).tolist() == [0.5, -5.0, 0.0]
    assert margins(logits, torch.tensor([0, 1, 2])).dtype == torch.float32


def test_the_digest_follows_structure_weights_buffers_and_input(net: nn.Module) -> None:
    digest = Classifier(net, CPU).digest()
    assert digest == Classifier(copy.deepcopy(net), CPU).digest()
    other = [copy.deepcopy(net) for _ in range(3)]
    with torch.no_grad():
        other[0].layers[0].weight[0, 0, 0, 0] += 1e-6  # type: ignore[index, union-attr]
    other[1].layers[1].running_var[0] *= 2  # type: ignore[index, union-attr]
    other[2].layers[2] = nn.LeakyReLU()  # type: ignore[index, operator]
    found = {Classifier(each, CPU).digest() for each in other}
    found |= {Classifier(net, CPU, normalize=((0.5,), (0.5,))).digest(), digest}
    assert len(found) == 5
    assert Classifier(lambda x: x, CPU).digest() is None


def test_the_digest_does_not_see_where_a_function_lies_in_memory() -> None:
    def with_function(factor: float) -> nn.Module:
        module = nn.Identity()
        module.activation = lambda x: factor * x  # type: ignore[assignment]
        return module

    first, again, other = (Classifier(with_function(factor), CPU).digest() for factor in (2.0, 2.0, 3.0))
    assert first == again
    assert first != other


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_name_no_class(bad: float) -> None:
    logits = torch.tensor([[bad, 1.0, 2.0], [3.0, 1.0, -torch.inf], [-torch.inf] * 3, [0.0, 1.0, bad]])
    assert predicted_classes(logits).tolist() == [NONE, 0, NONE, NONE]
    found = margins(logits, torch.tensor([0, 0, 0, 1]))
    assert found.isnan().tolist() == [True, False, True, True]
    assert found[1] == 2


@pytest.mark.parametrize(
    "wrap", [lambda logits: {"logits": logits}, lambda logits: type("Out", (), {"logits": logits})()]
)
def test_models_that_return_objects_are_understood(net: nn.Module, wrap: object) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = net

        def forward(self, x: Tensor) -> object:
            return wrap(self.inside(x))  # type: ignore[operator]

    x = torch.rand(3, 1, 5, 5)
    classifier = Classifier(Wrapped().eval(), CPU)
    with torch.no_grad():
        torch.testing.assert_close(classifier.logits(x), net(x))
