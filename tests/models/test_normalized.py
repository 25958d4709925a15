"""Networks that normalize their own input: what they compute, and under which names their weights are saved."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairtat.models.normalized import Normalized


class Nested(nn.Module):
    """A network that has a part called model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Conv2d(3, 4, 3)
        self.head = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.model(x)).mean((2, 3))


def wrapped(network: nn.Module) -> Normalized:
    return Normalized(network, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])


def test_it_is_the_network_on_normalized_images() -> None:
    network, x = Nested().eval(), torch.rand(5, 3, 6, 6)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    assert torch.equal(wrapped(network).eval()(x), network((x - mean) / std))


def test_saved_weights_are_those_of_the_plain_network() -> None:
    network = Nested()
    model = wrapped(network)
    assert model.state_dict().keys() == network.state_dict().keys()
    nested = nn.Sequential(model)  # as DistributedDataParallel or another wrapper would have it
    assert nested.state_dict().keys() == nn.Sequential(network).state_dict().keys()

    plain, other = Nested(), wrapped(Nested())
    plain.load_state_dict(model.state_dict())
    other.load_state_dict(network.state_dict())
    nn.Sequential(wrapped(Nested())).load_state_dict(nested.state_dict())
    for loaded in (plain, other.model):
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), network.parameters(), strict=True))


def test_weights_of_an_earlier_version_load() -> None:
    network, other = Nested(), wrapped(Nested())
    other.load_state_dict({f"model.{name}": value for name, value in network.state_dict().items()})
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), network.parameters(), strict=True))


def test_a_missing_weight_is_an_error() -> None:
    state = Nested().state_dict()
    del state["head.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*head\.weight"):
        wrapped(Nested()).load_state_dict(state)
