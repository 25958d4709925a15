"""The Lightning callback trains as a loop written by hand does."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, default_collate

import fairtat
from fairtat.errors import UserError
from fairtat.seeds import derive

lightning = pytest.importorskip("lightning.pytorch")
from fairtat.integrations.lightning import FairAdversarialTraining  # noqa: E402

ATTACK = {"step_size": 0.03, "steps": 3}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def data(*, ids: bool) -> DataLoader[Any]:
    torch.manual_seed(1)
    x, y = torch.rand(37, 3, 2, 2), torch.randint(4, (37,))
    return DataLoader(TensorDataset(x, y, *([torch.arange(37) * 3] if ids else [])), batch_size=10)


def rules(**options: Any) -> fairtat.FairTAT:
    return fairtat.FairTAT(num_classes=4, eps=0.1, **options)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.seen: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        self.seen.append(batch[0].detach().clone())
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(module: Any, callback: Any, loader: Any, folder: Path, epochs: int = 2, **where: Any) -> Any:
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback], default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, loader, **where)
    return trainer


def by_hand(fair: fairtat.FairTAT, *, ids: bool) -> tuple[nn.Module, list[Tensor]]:
    model, seen = net().train(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for epoch in range(2):
        for k, (x, y, *more) in enumerate(data(ids=ids)):
            sample_ids = more[0] if ids else None
            options = {"eps": fair.eps_for(y), "sample_ids": sample_ids, **ATTACK}
            options["seed"] = derive(0, "attack", epoch) if ids else derive(0, "attack", epoch, k)
            target = fair.sample_targets(y, sample_ids)
            if target is None:
                x_adv = fairtat.fast_pgd(model, x, y, **options)
            else:
                x_adv = fairtat.fast_targeted_pgd(model, x, target, y=y, **options)
            seen.append(x_adv)
            logits = model(x_adv)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            fair.update(logits.detach(), y, target)
        fair.end_epoch()
    return model, seen


@pytest.mark.parametrize("targets", ["cfps", "none"])
@pytest.mark.parametrize("ids", [True, False])
def test_it_trains_as_a_loop_by_hand(tmp_path: Path, targets: str, ids: bool) -> None:
    fair, expected = rules(targets=targets), rules(targets=targets)
    module = Classifier()
    callback = FairAdversarialTraining(fair, network=lambda m: m.net, keys=(0, 1, 2) if ids else (0, 1), **ATTACK)
    trainer = fit(module, callback, data(ids=ids), tmp_path)
    model, seen = by_hand(expected, ids=ids)
    assert all(torch.equal(a, b) for a, b in zip(module.seen, seen, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(module.net.state_dict().values(), model.state_dict().values(), strict=True)
    )
    assert torch.equal(fair.class_eps, expected.class_eps)
    assert trainer.callback_metrics["fairtat_worst"] == pytest.approx(expected.last.worst()[1])


def test_the_rules_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    whole = rules()
    fit(Classifier(), FairAdversarialTraining(whole, network=lambda m: m.net, **ATTACK), data(ids=False), tmp_path)
    begun, again = rules(), rules()
    module = Classifier()
    trainer = fit(
        module, FairAdversarialTraining(begun, network=lambda m: m.net, **ATTACK), data(ids=False), tmp_path, 1
    )
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    callback = FairAdversarialTraining(again, network=lambda m: m.net, **ATTACK)
    fit(Classifier(), callback, data(ids=False), tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert again.epoch == 2
    assert torch.equal(again.class_eps, whole.class_eps)


class Plain(Classifier):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx)["loss"]


def test_what_it_cannot_use_is_named(tmp_path: Path) -> None:
    def callback(**options: Any) -> FairAdversarialTraining:
        return FairAdversarialTraining(rules(), network=lambda m: m.net, **ATTACK, **options)

    with pytest.raises(UserError, match="must return a dict with 'loss' and 'logits'"):
        fit(Plain(), callback(), data(ids=False), tmp_path)
    with pytest.raises(UserError, match="batch has no 2; keys names"):
        fit(Classifier(), callback(keys=(0, 1, 2)), data(ids=False), tmp_path)
    tuples = DataLoader(data(ids=False).dataset, batch_size=10, collate_fn=lambda rows: tuple(default_collate(rows)))
    with pytest.raises(UserError, match="a tuple is neither a list nor a dict"):
        fit(Classifier(), callback(), tuples, tmp_path)
    with pytest.raises(UserError, match="entry 0 of a batch must be a tensor, got list"):
        fit(Classifier(), callback(), [data(ids=False), data(ids=False)], tmp_path)
    with pytest.raises(UserError, match="2 processes would draw the same targets"):
        callback().on_train_batch_start(
            types.SimpleNamespace(world_size=2, current_epoch=0), Classifier(), next(iter(data(ids=False))), 0
        )
    with pytest.raises(UserError, match="learn from attacked validation images"):
        FairAdversarialTraining(rules(weights="frl"))
