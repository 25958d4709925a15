"""The batch of one attack: checked, on one device, in the dtypes and layouts that the kernels take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fairtat.attacks.options import PerChannel, PGDOptions
from fairtat.checks import (
    LOW_PRECISION,
    channel_numbers,
    check_bounds,
    check_device,
    check_dtype,
    check_labels,
    check_mask,
    check_shape,
    check_tensor,
    in_memory,
    is_dense_by_sample,
    per_sample,
)
from fairtat.devices import slow_bf16, widest_float
from fairtat.errors import starts_at_1, warn_once
from fairtat.ops.logit_loss import min_classes
from fairtat.radius import check_radius

BOUNDS_TOLERANCE = 1e-6  # images come from divisions by 255 and from resizing: rounding is not a mistake
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass(frozen=True, eq=False)
class Batch:
    """What one attack works on. Where a per-sample tensor is given, the number beside it is unused."""

    x: Tensor  # (N, ...) float32 or float64, dense by sample
    goal: Tensor  # (N,) int64: the class the loss is measured against (target, or label when untargeted)
    targeted: Tensor | None  # (N,) bool, only where each sample has its own direction
    y: Tensor | None  # (N,) int64, only where the loss needs it
    clean_logits: Tensor | None  # (N, C), only for kl
    start: Tensor | None  # (N, ...), the caller's starting x_adv
    sample_ids: Tensor | None  # (N,) int64; None: arange(N)
    eps_n: Tensor | None  # (N,)
    eps: float
    step_n: Tensor | None  # (N,)
    step: float
    schedule: Tensor | None  # (steps,): factors of the steps' sizes
    mean: Tensor | None  # (C,) of the image
    std: Tensor | None
    classes_needed: int  # 1 + the largest class index, where values were checked
    first_class: int  # the smallest one
    goal_name: str  # "target", "y" or "goal", for messages

    def __post_init__(self) -> None:
        # The engines hand these to kernels that read memory, below the dispatcher.
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                name = self.goal_name if field.name == "goal" else field.name.removesuffix("_n")
                object.__setattr__(self, field.name, in_memory(name, value))

    def least_classes(self, towards: str | None, away: str | None) -> int:
        """How many classes the losses and the labels need."""
        least = self.classes_needed
        if towards is not None:
            least = max(least, min_classes(towards, self.y is not None))
        if away is not None:
            least = max(least, min_classes(away, False))
        return least

    def check_classes(self, classes: int, options: PGDOptions) -> None:
        """Raise ValueError where the model has fewer classes than the loss, the labels or clean_logits need."""
        towards, away = options.kinds
        for loss, with_y in ((towards, self.y is not None), (away, False)):
            if loss is None:
                continue
            needed = min_classes(loss, with_y)
            if classes < needed:
                advice = "; use loss='margin'" if loss == "dlr" and classes >= 2 else ""
                kind = "targeted " if with_y else ""
                raise ValueError(
                    f"{kind}loss={loss!r} needs at least {needed} classes, the model has {classes}{advice}"
                )
        if self.classes_needed > classes:
            last = self.classes_needed - 1
            raise ValueError(
                f"{self.goal_name} and y must be below the model's {classes} classes, got {last}"
                f"{starts_at_1(self.first_class, last, classes)}"
            )
        if self.clean_logits is not None and self.clean_logits.shape[1] != classes:
            raise ValueError(
                f"clean_logits must have the model's {classes} classes, got shape {tuple(self.clean_logits.shape)}"
            )


def make_batch(
    x: object,
    goal: object,
    options: PGDOptions,
    *,
    targeted: object = None,
    y: object = None,
    clean_logits: object = None,
    sample_ids: object = None,
) -> Batch:
    """Check the data of a call against the options.

    ``goal`` is the target, or the label of a sample that is untargeted. ``targeted`` goes with options that leave the
    direction to the samples.
    """
    goal_name = {True: "target", False: "y", None: "goal"}[options.targeted]
    x = _images(x)
    goal = _integers(goal_name, goal, x)
    mask = None if options.targeted is not None else _mask("targeted", targeted, x)
    y = None if y is None else _integers("y", y, x)
    takes_y = options.targeted is not False and options.kinds[0] == "dlr"
    if takes_y and y is None:
        raise ValueError("loss='dlr' towards a target needs y, the true labels, got y=None")
    if options.amp is not None and x.dtype == torch.float64:
        raise ValueError("amp needs float32 images (autocast leaves float64 alone), got float64; call x.float()")
    if options.amp is torch.bfloat16 and (slow := slow_bf16(x.device)) is not None:
        warn_once(f"amp=torch.bfloat16: {slow}", slow)
    check_bounds(options.bounds, x.dtype)
    eps_n, eps = per_sample("eps", options.eps, x)
    step_n, step = per_sample("step_size", options.step_size, x)
    schedule = None
    if options.step_schedule is not None:
        schedule = torch.as_tensor(options.step_schedule, dtype=x.dtype, device=x.device).detach().contiguous()
    mean = std = None
    if options.normalize is not None:
        mean, std = (_per_channel(*pair, x) for pair in zip(("mean", "std"), options.normalize, strict=True))
    start = options.init.detach() if isinstance(options.init, Tensor) else None
    if start is not None:
        check_shape("init", start, x.shape)
        check_dtype("init", start, (x.dtype,))
        check_device("init", start, "x", x)

    classes_needed = first_class = 0
    if options.check and x.numel():
        values = _ValueChecks()
        values.finite("x", x, *options.bounds, tolerance=BOUNDS_TOLERANCE)
        values.class_indices(goal_name, goal)
        if y is not None:
            values.class_indices("y", y)
            values.distinct(goal_name, goal, y, mask)
        if eps_n is not None:
            values.radii(eps_n, options)
        if step_n is not None:
            values.finite("step_size", step_n, 0.0)
        if schedule is not None and isinstance(options.step_schedule, Tensor) and options.steps:
            values.finite("step_schedule", schedule, 0.0)
        if start is not None:
            values.finite("init", start)
        if options.normalize is not None:
            for name, source, tensor in zip(("mean", "std"), options.normalize, (mean, std), strict=True):
                if isinstance(source, Tensor) and tensor is not None:
                    values.finite(f"normalize: {name}", tensor, positive=name == "std")
        classes_needed, first_class = values.judge()

    return Batch(
        x=x,
        goal=goal,
        targeted=mask,
        y=y if takes_y else None,
        clean_logits=_clean_logits(clean_logits, options, x),
        start=start,
        sample_ids=None if sample_ids is None else _integers("sample_ids", sample_ids, x),
        eps_n=eps_n,
        eps=eps,
        step_n=step_n,
        step=step,
        schedule=schedule,
        mean=mean,
        std=std,
        classes_needed=classes_needed,
        first_class=first_class,
        goal_name=goal_name,
    )


def _images(x: object) -> Tensor:
    check_tensor("x", x)
    assert isinstance(x, Tensor)
    if x.dtype in (torch.float16, torch.bfloat16):
        name = str(x.dtype).removeprefix("torch.")
        raise TypeError(
            f"x must be float32 or float64, got {name}: eps is a few roundings of {name}; call x.float(), and let "
            "amp= or the model's own dtype give the speed"
        )
    check_dtype("x", x, (torch.float32, torch.float64))
    if x.ndim < 2:
        raise ValueError(f"x must have shape (N, ...) with at least two dimensions, got {tuple(x.shape)}")
    x = x.detach()
    return x if is_dense_by_sample(x) else x.contiguous()


def _integers(name: str, value: object, x: Tensor) -> Tensor:
    """(N,) int64 on the device of x; narrower integers are widened."""
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    check_dtype(name, value, _INTEGERS)
    value = value.detach().long()
    check_labels(name, value, x.shape[0], "x", x)
    return value.contiguous()


def _mask(name: str, value: object, x: Tensor) -> Tensor:
    check_mask(name, value, x.shape[0], "x", x)
    assert isinstance(value, Tensor)
    return value.detach().contiguous()


def _per_channel(name: str, value: PerChannel, x: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        value = channel_numbers(f"normalize: {name}", value if isinstance(value, Sequence) else (value,), x.dtype)
    tensor = torch.as_tensor(value, dtype=x.dtype, device=x.device).detach().reshape(-1)
    if tensor.numel() != x.shape[1]:
        raise ValueError(
            f"normalize: {name} must have one value for each of the {x.shape[1]} channels (dimension 1 of x), "
            f"got {tensor.numel()}"
        )
    return tensor.contiguous()


def _clean_logits(value: object, options: PGDOptions, x: Tensor) -> Tensor | None:
    if (value is not None) != ("kl" in options.kinds):
        given = "None" if value is None else "a value"
        raise ValueError(f"clean_logits goes with loss='kl' and no other, got {given} with loss={options.loss!r}")
    if value is None:
        return None
    check_tensor("clean_logits", value)
    assert isinstance(value, Tensor)
    check_dtype("clean_logits", value, (*LOW_PRECISION, torch.float64))
    check_device("clean_logits", value, "x", x)
    if value.ndim != 2 or value.shape[0] != x.shape[0]:
        raise ValueError(f"clean_logits must have shape ({x.shape[0]}, C), got {tuple(value.shape)}")
    value = value.detach()
    # The float32 kernels know no float64; a float64 batch goes to the reference, which takes every dtype.
    return (value.to(x.dtype) if value.dtype == torch.float64 else value).contiguous()


class _ValueChecks:
    """Facts about values, gathered as scalars on the device and read by the host together.

    Reading them is the one synchronization that checks cost; ``check=False`` saves it.
    """

    def __init__(self) -> None:
        self._facts: list[Tensor] = []
        self._judges: list[tuple[int, Callable[..., None]]] = []
        self._classes: set[int] = set()  # the smallest and the largest of each tensor of them

    def finite(
        self,
        name: str,
        tensor: Tensor,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        tolerance: float = 0.0,
        positive: bool = False,
    ) -> None:
        def judge(least: float, most: float) -> None:
            if not (math.isfinite(least) and math.isfinite(most)):
                raise ValueError(f"{name} must be finite, got NaN or infinite values")
            if positive and least <= 0:
                raise ValueError(f"{name} must be positive, got values from {least:.7g}")
            if least < low - tolerance or most > high + tolerance:
                expected = f"in [{low}, {high}]" if high < math.inf else f"at least {low}"
                raise ValueError(f"{name} must be {expected}, got values from {least:.7g} to {most:.7g}")

        self._add(judge, *torch.aminmax(tensor))  # aminmax hands on NaN

    def radii(self, eps: Tensor, options: PGDOptions) -> None:
        self.finite("eps", eps, 0.0)
        self._add(lambda most: check_radius("eps", most, options.norm, check_bounds(options.bounds)), eps.amax())

    def class_indices(self, name: str, tensor: Tensor) -> None:
        def judge(least: float, most: float) -> None:
            if least < 0:
                raise ValueError(f"{name} must be class indices of at least 0, got {least:.0f}")
            self._classes |= {int(least), int(most)}

        self._add(judge, *torch.aminmax(tensor))

    def distinct(self, name: str, goal: Tensor, y: Tensor, targeted: Tensor | None) -> None:
        def judge(equal: float) -> None:
            if equal:
                raise ValueError(
                    f"{name} must be another class than y, got the true label for {equal:.0f} of {len(y)} samples; "
                    "to move away from the label use fast_pgd"
                )

        def judge_mixed(towards_label: float, away_from_other: float) -> None:
            if towards_label or away_from_other:
                raise ValueError(
                    f"{name} must be another class than y where targeted, and y elsewhere, got the true label for "
                    f"{towards_label:.0f} targeted samples and another class for {away_from_other:.0f} others"
                )

        is_label = goal == y
        if targeted is None:
            self._add(judge, is_label.sum())
        else:
            self._add(judge_mixed, (is_label & targeted).sum(), (~is_label & ~targeted).sum())

    def judge(self) -> tuple[int, int]:
        """Raise for the first bad value, in the order of the calls.

        Returns:
            (1 + the largest class index, the smallest one).
        """
        dtype = widest_float(self._facts[0].device)
        numbers = torch.stack([fact.to(dtype) for fact in self._facts]).tolist()
        for count, judge in self._judges:
            judge(*numbers[:count])
            del numbers[:count]
        return 1 + max(self._classes), min(self._classes)

    def _add(self, judge: Callable[..., None], *facts: Tensor) -> None:
        self._facts.extend(facts)
        self._judges.append((len(facts), judge))
