"""The CUDA kernels against the reference: emulated on any machine, and the same table on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from op_calls import CALLS, check
from torch import Tensor

from fairtat.backends import OPS, kernel, status
from fairtat.ops import target_table
from fairtat.reference.class_stats import HEADER

Run = Callable[..., tuple[Any, ...]]


@pytest.fixture(params=[pytest.param("emulated", marks=pytest.mark.slow), pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest) -> Run:
    """Calls a CUDA kernel with CPU tensors; returns what it returned, and its arguments as it left them."""
    if request.param == "emulated":
        request.getfixturevalue("emulated")
        return lambda op, *arguments: run(op, "cuda", "cpu", *arguments)
    state = status()["cuda"]
    if not state.available:
        pytest.skip(f"the CUDA kernels cannot run here: {state.reason}")
    return lambda op, *arguments: run(op, "cuda", "cuda", *arguments)


def reference(op: str, *arguments: Any) -> tuple[Any, ...]:
    return run(op, "reference", "cpu", *arguments)


def run(op: str, backend: str, device: str, *arguments: Any) -> tuple[Any, ...]:
    moved = [a.to(device, copy=True) if isinstance(a, Tensor) else a for a in arguments]
    answer = kernel(op, backend)(*moved)
    answers = answer if isinstance(answer, tuple) else (answer,)
    return tuple(a.cpu() if isinstance(a, Tensor) else a for a in (*answers, *moved))


FORMATS = ("contiguous", "channels_last", "permuted")
SHAPES = ((3, 3, 5, 7), (2, 3, 32, 32), (1, 1, 8, 8), (5, 4, 3, 3))
LOW = (torch.float32, torch.bfloat16, torch.float16)


def images(shape: tuple[int, ...], layout: str, seed: int = 0) -> Tensor:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    return x.permute(0, 3, 1, 2) if layout == "permuted" else x


def special_gradient(like: Tensor, dtype: torch.dtype) -> Tensor:
    g = torch.empty_like(like).normal_(generator=torch.Generator().manual_seed(1))
    memory = torch.as_strided(g, (g.numel(),), (1,))
    specials = (0.0, float("nan"), float("inf"), -float("inf"), 1e-42, -0.0)
    for offset, value in enumerate(specials):
        memory[offset :: 31 + offset] = value
    return g.to(dtype)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pgd_init(cuda: Run, shape: tuple[int, ...], layout: str) -> None:
    x = images(shape, layout)
    n = len(x)
    ids = torch.arange(n) * (2**33) - 5
    for init, norm, per_sample in product(("uniform", "normal", "zero"), ("linf", "l2"), (False, True)):
        eps_n = torch.linspace(0.0, 0.2, n) if per_sample else None
        out = torch.full_like(x, torch.nan)
        arguments = ("pgd_init", out, x, eps_n, 0.1, ids, 2**63 + 5 - 2**64, 7, init, norm, 0.1, 0.9)
        results = [call(*arguments)[1] for call in (cuda, reference)]
        if norm == "linf" and init != "normal":
            assert torch.equal(*results), (init, norm)
        else:
            torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("shape", [*SHAPES, (300, 3, 2, 2), (2, 65, 2, 2)])
def test_pgd_init_of_bytes_and_with_the_model_input(cuda: Run, shape: tuple[int, ...], layout: str) -> None:
    floats = images(shape, layout)
    n, channels = shape[0], floats.shape[1]
    ids = torch.arange(n) * (2**33) - 5
    mean, std = torch.linspace(0.1, 0.5, channels), torch.linspace(0.2, 0.3, channels)
    cases = product((False, True), (None, *LOW), (False, True), ("uniform", "normal", "zero"))
    for from_bytes, input_dtype, normalized, init in cases:
        x = (floats * 255).byte() if from_bytes else floats
        out, pixels = torch.full_like(floats, torch.nan), torch.full_like(floats, torch.nan) if from_bytes else None
        model_input = None if input_dtype is None else torch.zeros_like(floats, dtype=input_dtype)
        statistics = (mean, std) if normalized and model_input is not None else (None, None)
        arguments = (
            "pgd_init", out, x, None, 0.1, ids, 9, 7, init, "linf", 0.1, 0.9, pixels, model_input, *statistics
        )  # fmt: skip
        ours, theirs = (call(*arguments) for call in (cuda, reference))
        for at in (1, 12, 13):
            if init == "normal" and isinstance(ours[at], Tensor):
                torch.testing.assert_close(
                    ours[at], theirs[at], rtol=1e-5 if at == 1 else None, atol=1e-6 if at == 1 else None
                )
            elif isinstance(ours[at], Tensor):
                assert torch.equal(ours[at], theirs[at]), (from_bytes, input_dtype, normalized, init, at)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pgd_step(cuda: Run, shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    x = images(shape, layout)
    n, channels = x.shape[:2]
    grad = special_gradient(x, dtype)
    mean, std = torch.linspace(0.1, 0.5, channels), torch.linspace(0.2, 0.3, channels)
    cases = product(("linf", "l2"), (True, False), (None, *LOW), (False, True), (False, True))
    for norm, targeted, input_dtype, per_sample, count in cases:
        eps_n, step_n = (torch.linspace(0.0, 0.2, n), torch.linspace(0.1, 0.0, n)) if per_sample else (None, None)
        x_adv = images(shape, layout, seed=2)
        model_input = None if input_dtype is None else torch.empty_like(x, dtype=input_dtype)
        statistics = (None, None) if input_dtype is None or count else (mean, std)
        zero = torch.zeros(n, dtype=torch.int64) if count else None
        arguments = (x_adv, grad, x, eps_n, 0.1, step_n, 0.03, targeted, norm, 0.0, 1.0, model_input, *statistics, zero)
        results = [call("pgd_step", *arguments) for call in (cuda, reference)]
        (ours, our_input, our_zero), (theirs, their_input, their_zero) = ((r[1], r[12], r[15]) for r in results)
        if norm == "linf":
            assert torch.equal(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        if our_input is not None and their_input is not None:
            if norm == "linf":
                assert torch.equal(our_input, their_input)
            else:
                torch.testing.assert_close(our_input, their_input)
        if our_zero is not None and their_zero is not None:
            assert torch.equal(our_zero, their_zero)


@pytest.mark.parametrize(("rows", "width"), [(200, 5), (60, 8197), (60, 8200)])  # the wide ones shared by two blocks
def test_an_l2_step_at_any_magnitude(cuda: Run, rows: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.tensor([0.0, 1e-45, 1e-38, 1e-20, 1e-8, 1.0, 1e15, 1e20, 1e38, torch.nan, torch.inf])

    def draw(columns: int) -> Tensor:
        return table[torch.randint(len(table), (rows, 1), generator=generator)] * torch.rand(rows, columns)

    x_adv, grad, x, eps, step = draw(width), draw(width) - 1e-3, draw(width), draw(1)[:, 0], draw(1)[:, 0]
    eps, step = eps.nan_to_num(0.1, 0.1), step.nan_to_num(0.1, 0.1)
    model_input, zero = torch.empty(rows, width), torch.zeros(rows, dtype=torch.int64)
    arguments = (x_adv, grad, x, eps, 0.0, step, 0.0, False, "l2", -1e38, 1e38, model_input, None, None, zero)
    ours, theirs = (call("pgd_step", *arguments) for call in (cuda, reference))
    # float32 rounds with a sample's largest pixel, and with its largest move inside the ball.
    scale = x.double().abs().amax(1) + torch.minimum(eps.double(), x_adv.double().abs().amax(1) + step.double())
    for i in (1, 12):
        assert torch.equal(ours[i].isnan(), theirs[i].isnan())
        error = (ours[i].double() - theirs[i].double()).abs()
        assert not bool((error > 1e-6 * scale[:, None] + 1e-5 * theirs[i].double().abs() + 1e-44).any())
    assert torch.equal(ours[15], theirs[15])


def test_an_all_zero_gradient_is_counted(cuda: Run) -> None:
    x = images((3, 3, 5, 7), "contiguous")
    grad = torch.ones_like(x)
    grad[1] = 0.0
    zero = torch.full((3,), 4)
    step = (x.clone(), grad, x, None, 0.1, None, 0.1, True, "linf", 0.0, 1.0, None, None, None, zero)
    assert cuda("pgd_step", *step)[15].tolist() == [4, 5, 4]


@pytest.mark.parametrize("size", [(40, 40), (56, 60), (53, 53)])  # 4,800, 10,080 and 8,427 elements: the last is odd
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_sample_of_several_blocks(cuda: Run, norm: str, layout: str, size: tuple[int, int]) -> None:
    x = images((4, 3, *size), layout)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format
    )
    memory = torch.as_strided(grad, (4, grad[0].numel()), (grad.stride(0), 1))
    memory[0] = 0.0
    memory[1, :-1] = 0.0  # only the last block sees that it is not zero
    memory[2, 1:] = torch.nan
    mean, std = torch.tensor([0.1, 0.0, 0.5]), torch.tensor([0.2, 0.3, 1e-35])
    arguments = (x.clone(), grad, x, None, 0.1, None, 0.03, False, norm, 0.0, 1.0)
    outputs = (torch.empty_like(x, dtype=torch.bfloat16), mean, std, torch.zeros(4, dtype=torch.int64))
    ours, theirs = (call("pgd_step", *arguments, *outputs) for call in (cuda, reference))
    assert ours[15].tolist() == theirs[15].tolist() == [1, 0, 0, 0]
    for i in (1, 12):
        if norm == "linf":
            assert torch.equal(ours[i], theirs[i])
        else:
            torch.testing.assert_close(ours[i], theirs[i], rtol=1e-5 if i == 1 else 1e-2, atol=1e-6)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("d", [8192, 8196, 16384, 16385, 20000])
def test_a_large_l2_step(cuda: Run, d: int, dtype: torch.dtype) -> None:
    """Beside float64: steps that end inside the ball, on its border, and beside the center, coming from far away."""
    generator = torch.Generator().manual_seed(d)
    x, grad = torch.rand(4, d, generator=generator), torch.randn(4, d, generator=generator).to(dtype)
    x_adv = x + torch.tensor([1e-3, 1e-2, 1e-3, 0.0])[:, None] * torch.randn(4, d, generator=generator)
    eps, step = torch.tensor([3.0, 0.5, 0.01, 0.01]), torch.tensor([0.1, 0.4, 0.0, 40.0])
    unit = grad.double() / grad.double().norm(dim=1, keepdim=True)
    x_adv[3] = (x[3].double() + 40.0 * unit[3]).float()  # which the step takes back to x but for rounding
    offset = x_adv.double() - step.double()[:, None] * unit - x.double()
    shrink = (eps.double() / offset.norm(dim=1)).clamp(max=1.0)
    expected = x.double() + offset * shrink[:, None]
    assert [bool(s < 1) for s in shrink[:3]] == [False, True, True]
    arguments = (grad, x, eps, 0.0, step, 0.0, True, "l2", -100.0, 100.0, None, None, None, None)
    ours, again = (cuda("pgd_step", x_adv.clone(), *arguments)[1] for _ in range(2))
    assert torch.equal(ours, again)
    torch.testing.assert_close(ours[:3].double(), expected[:3], rtol=1e-5, atol=1e-6)
    assert bool((ours[3].double() - x[3].double()).norm() <= 0.01 + 1e-6)
    (theirs,) = (reference("pgd_step", x_adv.clone(), *arguments)[1],)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("classes", [4, 10, 33, 1000, 1500])
def test_logit_loss(cuda: Run, classes: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(classes)
    for scale in (1.0, 1e4):
        z = (torch.randn(9, classes, generator=generator) * scale).to(dtype)
        clean = (torch.randn(9, classes, generator=generator) * scale).to(dtype)
        z[3] = z[3, 0]  # ties
        z[4, 2] = -torch.inf
        z[5, 1] = torch.nan
        target = torch.randint(classes, (9,), generator=generator)
        y = (target + 1) % classes
        cases = [("ce", None, None), ("margin", None, None), ("dlr", None, None), ("dlr", y, None), ("kl", None, clean)]
        for kind, labels, logits in cases:
            ours, theirs = (call("logit_loss", z, target, kind, labels, logits)[:4] for call in (cuda, reference))
            rtol, atol = (1e-5, 1e-6) if dtype == torch.float32 else (1e-2, 1e-3)
            for name, a, b in zip(("loss", "dlogits", "pred", "reached"), ours, theirs, strict=True):
                if a.is_floating_point():
                    torch.testing.assert_close(
                        a.float(), b.float(), rtol=rtol, atol=atol, equal_nan=True, msg=f"{kind} {name}"
                    )
                else:
                    assert torch.equal(a, b), (kind, name)


@pytest.mark.parametrize("classes", [4, 1500])
def test_logit_loss_of_special_logits(cuda: Run, classes: int) -> None:
    values = (-torch.inf, torch.inf, torch.nan, 0.0, 2.0)
    z = torch.tensor(list(product(values, repeat=4)))
    clean = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(1))]
    target = torch.arange(len(z)) % 4
    y = (target + 1) % 4
    if classes > 4:  # the same in a long row, at its ends
        z, clean, target, y = (t[::11] for t in (z, clean, target, y))
        z, clean = (torch.cat([t, torch.full((len(t), classes - 8), -torch.inf), t.flip(0)], 1) for t in (z, clean))
    for kind, labels, logits in (
        ("ce", None, None), ("margin", None, None), ("dlr", None, None), ("dlr", y, None), ("kl", None, clean),
    ):  # fmt: skip
        ours, theirs = (call("logit_loss", z, target, kind, labels, logits)[:4] for call in (cuda, reference))
        for name, a, b in zip(("loss", "dlogits", "pred", "reached"), ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, equal_nan=True, msg=f"{kind} {name}")


def test_a_target_out_of_range_shows_as_nan(cuda: Run) -> None:
    z = torch.randn(3, 10)
    loss, dlogits, pred, reached = cuda("logit_loss", z, torch.tensor([1, -1, 10]), "ce", None, None)[:4]
    assert loss.isnan().tolist() == [False, True, True]
    assert dlogits.isnan().any(1).tolist() == [False, True, True]
    assert torch.equal(pred, z.argmax(1))
    assert not reached[1:].any()


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_sample_targets(cuda: Run, classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(classes, (777,), generator=generator)
    for weight in (torch.rand(classes, generator=generator) + 0.01, torch.rand(classes, classes) + 0.01):
        for ids in (None, torch.arange(777) * 2**31 - 3):
            arguments = ("sample_targets", label, target_table(weight), ids, -9, 3)
            assert torch.equal(cuda(*arguments)[0], reference(*arguments)[0])


@pytest.mark.parametrize("classes", [2, 10, 60, 300])  # in shared memory, and beyond it
def test_class_stats(cuda: Run, classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    n = 5003
    label, pred, target = (torch.randint(classes, (n,), generator=generator) for _ in range(3))
    loss = torch.randn(n, generator=generator) * 1000
    loss[:6] = torch.tensor([torch.nan, torch.inf, 3e9, -torch.inf, -3e38, -0.25])
    for given in ((None, None), (loss, None), (loss, target)):
        buffer = torch.full((HEADER + classes, classes), 3)
        ours, theirs = (call("class_stats", buffer, pred, label, *given)[1] for call in (cuda, reference))
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("classes", [2, 10, 32, 33, 300, 1024, 1500])  # each number of logits to a lane
def test_logit_stats(cuda: Run, classes: int, dtype: torch.dtype) -> None:
    """The integers of class_stats with the loss and the prediction of logit_loss, all three of this backend."""
    generator = torch.Generator().manual_seed(0)
    n = 37 if classes < 1000 else 9
    z = ((torch.randn(n, classes, generator=generator) * 20).round() / 2).to(dtype)  # with ties
    z[0], z[1, 1], z[2, 0], z[3, 1] = -torch.inf, torch.nan, torch.inf, -torch.inf
    label, target = (torch.randint(classes, (n,), generator=generator) for _ in range(2))
    label[4], target[5] = -1, classes
    loss, _, pred = cuda("logit_loss", z, label, "ce", None, None)[:3]
    for given in (target, None):
        buffer = torch.full((HEADER + classes, classes), 3)
        ours = cuda("logit_stats", buffer, z, label, given)[1]
        assert torch.equal(ours, cuda("class_stats", buffer, pred, label, loss, given)[1])


def test_a_sample_out_of_range_counts_nowhere(cuda: Run) -> None:
    buffer = torch.zeros(HEADER + 10, 10, dtype=torch.int64)
    counted = cuda("class_stats", buffer, torch.tensor([1, 10, 2]), torch.tensor([1, 1, -1]), None, None)[1]
    assert counted.sum() == 1


def emptied(value: Any, n: int) -> Any:
    """The same without samples, where a tensor has one row for each of ``n``."""
    return value[:0] if isinstance(value, Tensor) and len(value) == n else value


@pytest.mark.parametrize("op", OPS)
def test_every_call_and_an_empty_batch(cuda: Run, op: str) -> None:
    for name, arguments in CALLS[op]().items():
        ours, theirs = (tuple(a for a in call(op, *arguments) if isinstance(a, Tensor)) for call in (cuda, reference))
        check(name, ours, theirs)
        n = max(len(a) for a in arguments if isinstance(a, Tensor))
        cuda(op, *(emptied(a, n) for a in arguments))
