from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fairtat import errors, fast_pgd, fast_targeted_pgd
from fairtat.devices import has_native_bf16, resolve_device, slow_bf16, widest_float
from fairtat.errors import UserError
from fairtat.training.setup import choose_device


def test_names_become_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "xpu:a", "meta", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="expected auto, cpu, cuda, cuda:N, xpu or xpu:N"):
        resolve_device(name)


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_gpu_that_is_not_there_is_said_to_be(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(getattr(torch, kind), "device_count", lambda: 0)
    with pytest.raises(UserError, match=f"'{kind}', but PyTorch sees 0 {kind.upper()} devices"):
        resolve_device(kind)
    monkeypatch.setattr(getattr(torch, kind), "device_count", lambda: 1)
    assert resolve_device(f"{kind}:0") == torch.device(kind, 0)
    with pytest.raises(UserError, match=f"'{kind}:1', but PyTorch sees 1 {kind.upper()} device"):
        resolve_device(f"{kind}:1")


def test_several_processes_do_not_share_an_xpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="device is 'xpu' with 2 processes"):
        choose_device("xpu")


def test_apple_gpus_are_refused_for_what_they_lack() -> None:
    with pytest.raises(UserError, match="'mps', which has no float64"):
        resolve_device("mps")


class NoFloat64(TorchDispatchMode):
    """Stands in for an Apple GPU: a tensor in float64 cannot be made there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(each, torch.Tensor) and each.dtype == torch.float64:
                raise TypeError(f"{func} makes float64")
        return made


@pytest.mark.parametrize("init", ["zero", "uniform"])
def test_linf_attacks_of_the_reference_need_no_float64(monkeypatch: pytest.MonkeyPatch, init: str) -> None:
    monkeypatch.setattr("fairtat.attacks.batch.widest_float", lambda _: widest_float(torch.device("mps")))
    torch.manual_seed(0)
    model, x = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)).eval(), torch.rand(7, 3, 2, 2)
    y, radii = torch.arange(7) % 5, torch.linspace(0.0, 0.1, 7)
    options = {"eps": radii, "steps": 3, "init": init, "seed": 4, "engine": "eager"}
    for attack, goal in ((fast_pgd, {"y": y}), (fast_targeted_pgd, {"target": (y + 1) % 5, "y": y})):
        wanted = attack(model, x, **goal, **options)
        with NoFloat64():
            found = attack(model, x, **goal, **options, backend="reference")
        assert torch.equal(found, wanted)
        assert not torch.equal(found, x)
    with NoFloat64(), pytest.raises(TypeError, match="makes float64"):
        fast_pgd(model, x, y, **options, norm="l2", backend="reference")


# bfloat16


CPUS = [
    ({"avx2": True, "avx512_f": True, "architecture": "x86_64"}, False),
    ({"avx2": True, "avx512_bf16": True, "architecture": "x86_64"}, True),
    ({"avx2": True, "amx_bf16": True, "architecture": "x86_64"}, True),
    ({"neon": True, "bf16": False, "architecture": "aarch64"}, False),
    ({"neon": True, "bf16": True, "architecture": "aarch64"}, True),
]


@pytest.mark.parametrize(("capabilities", "native"), CPUS)
def test_native_bfloat16_of_a_cpu_is_told_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, object], native: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_native_bf16(torch.device("cpu")) == native
    assert (slow_bf16(torch.device("cpu")) is None) == native


def test_this_cpu_agrees_with_its_flags() -> None:
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        pytest.skip("no /proc/cpuinfo here")
    words = set(flags.read_text().split())
    assert has_native_bf16(torch.device("cpu")) == bool(words & {"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


@pytest.mark.parametrize("native", [True, False])
def test_native_bfloat16_of_a_gpu_is_asked_without_emulation(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(asked.append(device)))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native and not including_emulation)
    device = torch.device("cuda", 1)
    assert has_native_bf16(device) == native
    assert asked == [device]


def test_an_attack_in_emulated_bfloat16_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(errors, "_SAID", set())
    model, x, y = torch.nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for amp in (None, torch.float16, torch.bfloat16, torch.bfloat16):
            fast_pgd(model, x, y, amp=amp, steps=1)
    assert [str(each.message) for each in caught] == [
        "amp=torch.bfloat16: this CPU has no instructions for bfloat16 and emulates it, which may be many times slower "
        "than float32"
    ]
    assert caught[0].filename == __file__
