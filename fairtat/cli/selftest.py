"""Every op on every backend present, against known answers and the reference.

The repository's tests go much further; this runs where something looks wrong, in well under a second, with nothing
installed except fairtat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor

from fairtat import backends, ops
from fairtat.reference.class_stats import CONFUSION, HEADER, LOSS, LOSS_SCALE, NONFINITE, REACHED

RTOL, ATOL = 1e-5, 1e-6  # for the ops that are not equal to the last bit
SEED = 20260  # of the inputs; any will do
ON_GPU = ("cuda", "triton")  # backends that take GPU tensors alone
LAYOUTS = (torch.contiguous_format, torch.channels_last)


@dataclass(frozen=True)
class Check:
    """The outcome for one op on one backend; ``detail`` says what went wrong."""

    op: str
    backend: str
    passed: bool
    detail: str = ""


def run_selftest(names: Iterable[str] | None = None) -> list[Check]:
    """Check every op on these backends (None: on all that are present in this process)."""
    if names is None:
        names = [name for name, state in backends.status().items() if state.available]
    return [_check(op, test, name) for name in names for op, test in _TESTS.items()]


Case = tuple[str, bool]  # its name, and whether it passed
Test = Callable[[str, torch.device], Iterator[Case]]


def _check(op: str, test: Test, backend: str) -> Check:
    device = torch.device("cuda" if backend in ON_GPU else "cpu")
    try:
        failures = [case for case, passed in test(backend, device) if not passed]
    except Exception as error:  # a broken kernel may raise anything, and the report has to continue
        return Check(op, backend, passed=False, detail=f"{type(error).__name__}: {error}")
    return Check(op, backend, passed=not failures, detail=f"wrong: {', '.join(failures)}" if failures else "")


def _pgd_init(backend: str, device: torch.device) -> Iterator[Case]:
    # The first Philox4x32-10 test vector of its authors: key and counter 0.
    words = torch.tensor([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
    expected = 0.5 + 0.25 * ((words >> 8).float() * 2.0**-23 - 1.0)
    start = ops.pgd_init(torch.full((1, 4), 0.5, device=device), 0.25, seed=0, backend=backend)
    yield "known Philox words", torch.equal(start[0].cpu(), expected)

    eps = torch.tensor([0.0, 0.03, 0.3], device=device)
    ids = torch.tensor([0, 5, 2**40 + 3], device=device)
    for layout, init, norm in product(LAYOUTS, ("uniform", "normal", "zero"), ("linf", "l2")):
        x = _images(device).to(memory_format=layout)
        start_on = partial(ops.pgd_init, x, eps, seed=-7, sample_ids=ids, stream=2, init=init, norm=norm)
        exact = init == "zero" or (init == "uniform" and norm == "linf")
        yield (
            f"{init} {norm} {layout}",
            _agree(start_on(backend=backend), start_on(backend="reference"), exact),
        )


def _pgd_step(backend: str, device: torch.device) -> Iterator[Case]:
    x = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.9375, 0.5]], device=device)
    grad = torch.tensor([[3.0, -1e-40, 0.0, math.nan, -1.0, -math.inf]], device=device)
    for targeted, expected in (
        (True, [0.375, 0.625, 0.5, 0.5, 1.0, 0.625]),
        (False, [0.625, 0.375, 0.5, 0.5, 0.8125, 0.375]),
    ):
        moved = ops.pgd_step_(x.clone(), grad, x, 0.25, 0.125, targeted=targeted, backend=backend)
        yield f"known step, targeted={targeted}", torch.equal(moved.cpu(), torch.tensor([expected]))

    towards = torch.tensor([True, False], device=device)
    both = ops.pgd_step_(
        x.repeat(2, 1), grad.repeat(2, 1), x.repeat(2, 1), 0.25, 0.125, targeted=towards, backend=backend
    )
    expected_both = torch.tensor([[0.375, 0.625, 0.5, 0.5, 1.0, 0.625], [0.625, 0.375, 0.5, 0.5, 0.8125, 0.375]])
    yield "known step, targeted by sample", torch.equal(both.cpu(), expected_both)

    norms = ("linf", "l2", "l1") if backend in ("cpu", "reference") else ("linf", "l2")
    for layout, norm, momentum in product(LAYOUTS, norms, (False, True)):
        found, reference = (_step_on(chosen, device, layout, norm, momentum) for chosen in (backend, "reference"))
        exact = norm == "linf"
        name = f"{norm}{' with momentum' if momentum else ''} {layout}"
        yield f"x_adv {name}", _agree(found[0], reference[0], exact)
        yield f"model input {name}", _agree(found[1], reference[1], exact)
        yield f"velocity {name}", torch.equal(found[2], reference[2])


def _step_on(
    backend: str, device: torch.device, layout: torch.memory_format, norm: str, momentum: bool
) -> tuple[Tensor, Tensor, Tensor]:
    x = _images(device).to(memory_format=layout)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED)).to(device).to(memory_format=layout)
    x_adv, model_input, velocity = x.clone(), torch.empty_like(x), (x - 0.5) / 99
    ops.pgd_step_(
        x_adv,
        grad,
        x,
        torch.tensor([0.0, 0.03, 0.3], device=device),
        torch.tensor([0.1, 0.01, 0.2], device=device),
        norm=norm,
        model_input=model_input,
        mean=torch.tensor([0.4, 0.5, 0.6], device=device),
        std=torch.tensor([0.2, 0.3, 0.25], device=device),
        velocity=velocity if momentum else None,
        momentum=0.9 if momentum else 0.0,
        backend=backend,
    )
    return x_adv, model_input, velocity


def _logit_loss(backend: str, device: torch.device) -> Iterator[Case]:
    logits = torch.tensor([[0.0, math.log(3.0)], [1e4, -1e4]], device=device)
    result = ops.logit_loss(logits, torch.tensor([1, 1], device=device), backend=backend)
    yield "known loss", _agree(result.loss.cpu(), torch.tensor([math.log(4 / 3), 2e4]), exact=False)
    yield (
        "known gradient",
        _agree(result.dlogits.cpu(), torch.tensor([[0.25, -0.25], [1.0, -1.0]]), exact=False),
    )
    yield "known prediction", result.pred.tolist() == [1, 0] and result.reached.tolist() == [True, False]

    generator = torch.Generator().manual_seed(SEED)
    logits = (10 * torch.randn(7, 5, generator=generator)).to(device)
    clean = torch.randn(7, 5, generator=generator).to(device)
    target, y = torch.arange(7, device=device) % 5, (torch.arange(7, device=device) + 1) % 5
    cases = (
        ("ce", None, None),
        ("margin", None, None),
        ("dlr", None, None),
        ("dlr", y, None),
        ("kl", None, clean),
    )
    for kind, label, clean_logits in cases:
        found = ops.logit_loss(logits, target, kind=kind, y=label, clean_logits=clean_logits, backend=backend)
        exact_clean = None if clean_logits is None else clean_logits.double()
        expected = ops.logit_loss(
            logits.double(), target, kind=kind, y=label, clean_logits=exact_clean, backend="reference"
        )
        name = kind if label is None else f"{kind} with y"
        yield f"{name} loss", _agree(found.loss.double(), expected.loss, exact=False)
        yield f"{name} gradient", _agree(found.dlogits.double(), expected.dlogits, exact=False)
        yield f"{name} prediction", torch.equal(found.pred, expected.pred)

    targeted = torch.arange(7, device=device) % 2 == 0
    pairs: tuple[tuple[str, str], ...] = (("ce", "kl"), ("dlr", "dlr"))
    for pair in pairs:
        mixed = partial(ops.logit_loss, target=target, kind=pair, targeted=targeted, y=y if pair[0] == "dlr" else None)
        given = clean if "kl" in pair else None
        found = mixed(logits, clean_logits=given, backend=backend)
        expected = mixed(logits.double(), clean_logits=None if given is None else given.double(), backend="reference")
        yield f"{' and '.join(pair)} loss", _agree(found.loss.double(), expected.loss, exact=False)
        yield f"{' and '.join(pair)} gradient", _agree(found.dlogits.double(), expected.dlogits, exact=False)


def _sample_targets(backend: str, device: torch.device) -> Iterator[Case]:
    two_classes = ops.target_table(torch.tensor([0.0, 1e-9, 0.0, 1.0, 0.0], device=device))
    label = torch.tensor([1, 3] * 9, device=device)
    yield (
        "the only other class",
        torch.equal(ops.sample_targets(label, two_classes, seed=1, backend=backend), 4 - label),
    )

    generator = torch.Generator().manual_seed(SEED)
    label, ids = torch.arange(65, device=device) % 5, torch.arange(65, device=device) * 10**11
    for shape in ((5,), (5, 5)):
        table = ops.target_table(torch.rand(shape, generator=generator).to(device))
        draw_on = partial(ops.sample_targets, label, table, seed=2**63, sample_ids=ids, stream=4)
        found = draw_on(backend=backend)
        yield f"weights {shape}", torch.equal(found, draw_on(backend="reference"))
        yield f"never the label, weights {shape}", not bool((found == label).any())


class _Stats:
    def __init__(self, classes: int, device: torch.device) -> None:
        self.buffer = torch.zeros(HEADER + classes, classes, dtype=torch.int64, device=device)


def _class_stats(backend: str, device: torch.device) -> Iterator[Case]:
    pred, label, target = (torch.tensor(v, device=device) for v in ([0, 2, 2, 1], [0, 0, 2, 1], [1, 2, 0, 1]))
    loss = torch.tensor([0.5, 0.25, math.nan, 1.0], device=device)
    buffer = ops.class_stats_(_Stats(3, device), pred, label, loss=loss, target=target, backend=backend).buffer.cpu()
    yield "known confusion", buffer[CONFUSION:].tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    yield "known losses", buffer[LOSS : LOSS + 2].flatten().tolist() == [0, int(0.75 * LOSS_SCALE), 1, 0, 0, 0]
    yield "known non-finite", buffer[NONFINITE].tolist() == [0, 0, 1]
    yield "known targets reached", buffer[REACHED].tolist() == [1, 1, 0]

    generator = torch.Generator().manual_seed(SEED)
    pred, label, target = (torch.randint(7, (301,), generator=generator).to(device) for _ in range(3))
    loss = (1e3 * torch.randn(301, generator=generator)).to(device)
    found = ops.class_stats_(_Stats(7, device), pred, label, loss=loss, target=target, backend=backend)
    expected = ops.class_stats_(_Stats(7, device), pred, label, loss=loss, target=target, backend="reference")
    yield "301 samples of 7 classes", torch.equal(found.buffer, expected.buffer)


def _logit_stats(backend: str, device: torch.device) -> Iterator[Case]:
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, math.nan, 0.0], [0.0, 0.0, 0.0]], device=device)
    label, target = (torch.tensor(v, device=device) for v in ([0, 2, 2, 1], [1, 1, 0, 1]))
    buffer = ops.logit_stats_(_Stats(3, device), logits, label, target, backend=backend).buffer.cpu()
    yield "known confusion", buffer[CONFUSION:].tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    yield "known non-finite", buffer[NONFINITE].tolist() == [0, 0, 1]
    yield "known targets reached", buffer[REACHED].tolist() == [0, 0, 1]
    known = [math.log1p(2 * math.exp(-9)), math.log(3), math.log(2 + math.exp(-1))]
    yield "known losses", _agree(_loss_sums(buffer), torch.tensor(known, dtype=torch.float64), exact=False)

    generator = torch.Generator().manual_seed(SEED)
    logits = (9 * torch.randn(301, 70, generator=generator)).to(device)
    label, target = (torch.randint(70, (301,), generator=generator).to(device) for _ in range(2))
    ours, theirs = (
        ops.logit_stats_(_Stats(70, device), logits, label, target, backend=name).buffer
        for name in (backend, "reference")
    )
    yield "301 samples of 70 classes", _agree(_loss_sums(ours), _loss_sums(theirs), exact=False)
    counts = [row for row in range(HEADER + 70) if row not in (LOSS, LOSS + 1)]
    yield "counts of 301 samples", torch.equal(ours[counts], theirs[counts])


def _loss_sums(buffer: Tensor) -> Tensor:
    whole, fraction = buffer[LOSS : LOSS + 2].view(-1, 2).double().unbind(1)
    return whole + fraction / LOSS_SCALE


def _images(device: torch.device) -> Tensor:
    return torch.rand(3, 3, 5, 7, generator=torch.Generator().manual_seed(SEED)).to(device)


def _agree(found: Tensor, expected: Tensor, exact: bool) -> bool:
    return torch.equal(found, expected) if exact else torch.allclose(found, expected, rtol=RTOL, atol=ATOL)


_TESTS: dict[str, Test] = {
    "pgd_init": _pgd_init,
    "pgd_step": _pgd_step,
    "logit_loss": _logit_loss,
    "sample_targets": _sample_targets,
    "class_stats": _class_stats,
    "logit_stats": _logit_stats,
}
