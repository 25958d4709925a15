"""The graph engine: an attack's steps captured once as CUDA graphs and replayed, which leaves the host nothing to do.

It serves modules whose forward does the same work on the device every time. The rest runs on the eager engine, with a
warning where this engine was asked for by name.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fairtat.attacks import engine_eager, graph_runtime
from fairtat.attacks.anatomy import Anatomy
from fairtat.attacks.batch import Batch
from fairtat.attacks.engine_cache import Family, Record, building, record_of
from fairtat.attacks.engine_check import CHANGES, MISMATCH, FirstPass
from fairtat.attacks.engine_eager import Eager, Outcome, Score
from fairtat.attacks.fallback import warn_once
from fairtat.attacks.graph_plan import Plan, Space, Unfit
from fairtat.attacks.network import Network
from fairtat.attacks.options import AttackOptions
from fairtat.attacks.passes import Attack, Pass, Span, empty_rows, take
from fairtat.attacks.result import AttackResult

_LOG = logging.getLogger("fairtat")

STEPS_BETWEEN_LOOKS = 2  # after which the host asks who has stopped, and waits for the answer


def run(network: Network, batch: Batch, options: AttackOptions, seed: int) -> Tensor | AttackResult:
    """Attack a batch; see :func:`fairtat.fast_targeted_pgd`."""
    return _run(network, batch, options, seed, asked_for=True)


def run_unasked(network: Network, batch: Batch, options: AttackOptions, seed: int) -> Tensor | AttackResult:
    """The same for ``engine="auto"``: graphs where they are a gain for sure, the eager engine elsewhere, no warning."""
    rare = options.early_stop or options.chunk_size is not None
    if rare or graph_runtime.runtime_for(batch.x.device) is None or not isinstance(network.model, nn.Module):
        return engine_eager.run(network, batch, options, seed)
    return _run(network, batch, options, seed, asked_for=False)


def _run(network: Network, batch: Batch, options: AttackOptions, seed: int, asked_for: bool) -> Tensor | AttackResult:
    attack = Attack(network, batch, options, seed)
    engine = _Graphs(attack, hesitant=not asked_for)
    result = attack.run(engine.descend)
    # Only now: had the eager engine failed as well, its error would have been the message.
    if engine.unfit is not None and asked_for:
        warn_once("graph", engine.model, engine.unfit)
    return result


class _Graphs:
    def __init__(self, attack: Attack, hesitant: bool) -> None:
        self.attack = attack
        self.network = attack.network
        self.options = attack.options
        # What torch.compile wraps; what is captured is the wrapper, with the kernels that it made.
        self.model = getattr(attack.network.model, "_orig_mod", attack.network.model)
        self.unfit: str | None = None
        self._hesitant = hesitant  # do not capture for a batch size that may never come again
        self._runtime = graph_runtime.runtime_for(attack.batch.x.device)
        self._eager = Eager(attack)

    def descend(self, spans: Sequence[Span], room: Tensor | None) -> AttackResult | None:
        """Attack the samples of these spans."""
        ready = self._ready(spans) if self.options.steps > 0 else None
        if ready is None:
            return self._eager.descend(spans, room)
        plan, live, runs = ready
        if self.attack.shrinks:
            return self._shrinking(plan, live, room)
        for _ in range(runs):
            plan.step(plan.size)
        if room is not None:
            room.copy_(live.x_adv)
        # What restarts leave in the plan's own memory is read before the plan is used again.
        outcome = Outcome(live.x_adv if room is None else room, self.attack.scored)
        if self.attack.scored:
            outcome.record(live, None, _head(plan.judge(plan.size), len(live.x)), self.options.steps)
        return outcome.result

    def _shrinking(self, plan: Plan, live: Pass, room: Tensor | None) -> AttackResult | None:
        """Run the steps on ever smaller graphs, as samples stop. A stopped one stays, unmoved, until the next look."""
        n = len(live.x)
        outcome = Outcome(empty_rows(live.x_adv, n) if room is None else room, self.attack.scored)
        live.row = torch.arange(n, device=live.x.device)
        size = plan.bucket(n)
        steps = self.options.steps
        for k in range(1, steps):
            score = plan.step(size)
            if k > 1 and k % STEPS_BETWEEN_LOOKS:
                continue
            assert live.moving is not None
            assert score is not None
            left = live.moving.nonzero()[:, 0]  # the host waits here
            if len(left) > 0 and plan.bucket(len(left)) == size:
                continue
            # Who has stopped did so before the last step's forward, which so has seen them where they are.
            score = _head(score, len(live.x))
            outcome.record(live, (~live.moving).nonzero()[:, 0], score)
            if len(left) == 0:
                return outcome.result
            live = _closed_up(plan, live, left)
            size = plan.bucket(len(left))
        plan.step(size)
        outcome.record(live, None, _head(plan.judge(size), len(live.x)) if self.attack.scored else None)
        return outcome.result

    def _ready(self, spans: Sequence[Span]) -> tuple[Plan, Pass, int] | None:
        """(a plan for the current stream, its samples, how often to step); None: the eager engine serves."""
        if self._runtime is None:
            self.unfit = f"CUDA graphs need a GPU, and x is on {self.attack.batch.x.device}"
            return None
        if not isinstance(self.model, nn.Module):
            self.unfit = f"the model is no torch.nn.Module but a {type(self.model).__name__}, with weights out of sight"
            return None
        anatomy = Anatomy.of(self.model)
        self.unfit = objection(anatomy)
        if self.unfit is not None:
            return None
        record: Record[Plan] = record_of(self.model, "graph")
        settings, signature = self._settings(), anatomy.signature(addresses=True)
        family = record.family(settings, signature, self.options.engine_check)
        size = None if family.unfit else self._size_for(sum(map(len, spans)), family)
        if record.shared is None or record.shared.runtime is not self._runtime:
            record.shared = Space(self._runtime)
        while size is not None:
            captured = size not in family.programs
            if captured:
                self._capture(size, spans, anatomy, record.shared, family)
            if family.unfit is not None:
                break
            plan = family.programs[size] if captured else family.use(size)
            record.shared.enter(plan)
            self.attack.batch.check_classes(plan.work.x.new_empty(0, plan.classes), self.options)
            live = plan.fill(self.attack, spans)
            doubted = family.doubted(size, self.options.engine_check)
            runs = self._confirm(plan, live, spans, anatomy) if doubted else self.options.steps // plan.together
            if runs is not None:
                family.confirmed.add(size)
                return plan, live, runs
            # What was captured of the model is no longer right, or never was.
            if captured:
                family.unfit = MISMATCH
            else:
                family = record.anew(settings, signature, CHANGES)
        self.unfit = family.unfit
        return None

    def _confirm(self, plan: Plan, live: Pass, spans: Sequence[Span], anatomy: Anatomy) -> int | None:
        """How often to step a plan from where it is now; None: it does not do the model's work, and left no trace."""
        size = plan.bucket(len(live.x))
        eager = FirstPass(self._eager, live, partial(plan.fill, self.attack, spans), anatomy.buffers.values())
        plan.step(size)
        confirmed = eager.confirms(plan.first(size))
        if confirmed is False:
            return None
        if confirmed and self.attack.shrinks:  # whose steps are counted one by one
            eager.restore()
            confirmed = None
        if confirmed is None:
            plan.fill(self.attack, spans)
        return self.options.steps // plan.together - bool(confirmed)

    def _size_for(self, n: int, family: Family[Plan]) -> int | None:
        if self.attack.shrinks:
            return min((size for size in family.programs if size >= n), default=n)
        size = family.size_for(n, hesitant=self._hesitant)
        # Padding would change batch statistics.
        return size if size == n or not self.network.state.mixes_samples else None

    def _capture(self, size: int, spans: Sequence[Span], anatomy: Anatomy, space: Space, family: Family[Plan]) -> None:
        """Add a plan for this size to the family, or the reason why there can be none."""
        assert isinstance(self.model, nn.Module)
        name = type(self.model).__name__
        plan = Plan(self.attack, size)
        space.enter(plan)
        try:
            with building():
                plan.capture(self.attack, spans, anatomy, space)
        except Unfit as why:
            family.unfit = str(why)
            _LOG.info("engine 'graph' cannot serve %s: %s", name, why)
            return
        # A first forward may have made what later ones find.
        family.signature = Anatomy.of(self.model).signature(addresses=True)
        family.add(size, plan)
        _LOG.info("engine 'graph': captured %s for %d images", name, size)

    def _settings(self) -> Hashable:
        """All but the model and the size of the batch that the captured work depends on."""
        o, b, network = self.options, self.attack.batch, self.network
        device = b.x.device
        autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        options = (o.targeted, o.norm, o.loss, o.steps, o.amp, o.bn_mode, o.early_stop, *map(float, o.bounds))
        return (
            options,
            self.attack.scored,
            network.model is self.model,
            tuple((t.dtype, t.shape[1:], t.stride()[1:]) for t in (b.x, b.y, b.clean_logits) if t is not None),
            (b.y is None, b.clean_logits is None, b.mean is None),
            device,
            autocast,
            network.input_dtype,
            self.attack.kernels,
            # What PyTorch and its libraries choose kernels by.
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.backends.cuda.matmul.fp32_precision,
            torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        )


def objection(anatomy: Anatomy) -> str | None:
    """Why a model is not even tried."""
    found = anatomy.objection()
    if found is None and any(
        isinstance(module, nn.SyncBatchNorm) and module.training for module in anatomy.modules.values()
    ):
        return "SyncBatchNorm in train mode waits for other processes, which need not capture at the same call"
    return found


def _head(score: Score, n: int) -> Score:
    return Score(*(t[:n] for t in score))


def _closed_up(plan: Plan, live: Pass, left: Tensor) -> Pass:
    """Move the samples that are left to the front of the plan's tensors."""
    row = live.row
    assert row is not None
    live.row = None
    smaller = plan.work.head(len(left))
    for (_, room), (_, tensor) in zip(smaller.tensors(), live.tensors(), strict=True):
        room.copy_(take(tensor, left))
    smaller.row = row[left]
    plan.idle_beyond(len(left))
    return smaller
