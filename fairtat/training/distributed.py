"""Several processes that train one model, started by torchrun.

Every global batch is cut into one part per process (see `fairtat.data.batches`); gradients are averaged by
DistributedDataParallel so that the step is that of the whole batch; statistics are integers and are summed. The
first process alone writes and prints.
"""

from __future__ import annotations

import atexit
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from fairtat.errors import UserError

__all__ = [
    "LostProcess",
    "StopVote",
    "World",
    "connect",
    "env_rank",
    "env_size",
    "losing_no_process",
]

T = TypeVar("T")


class LostProcess(UserError):
    """Another process of the job has gone, so no further step can be taken together."""


@dataclass(frozen=True)
class World:
    """This process among those of the job; alone by default, where every method below costs nothing."""

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None  # gloo, for what the hosts tell each other; nccl would wait for GPUs

    @property
    def main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def shard(self) -> tuple[int, int]:
        return self.rank, self.size

    def share(self, value: T) -> T:
        """The first process's ``value``."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Whatever `UserError` one process runs into in here, all of them raise."""
        mistake: UserError | None = None
        try:
            yield
        except UserError as error:
            mistake = error
        if self.size > 1:
            told: list[Any] = [None] * self.size
            dist.all_gather_object(told, None if mistake is None else str(mistake), group=self.control)
            elsewhere = next((message for message in told if message is not None), None)
            if mistake is None and elsewhere is not None:
                raise UserError(elsewhere)
        if mistake is not None:
            raise mistake

    def sum(self, values: Tensor) -> Tensor:
        """``values`` summed over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """``model`` under DistributedDataParallel, its weights and buffers those of the first process.

        Buffers are not broadcast at each forward: an objective may pass through the model twice before it goes back
        (TRADES), and the broadcast would change in place what the first pass has kept for its gradient.
        `align_buffers` takes care of them once per epoch.
        """
        if self.size == 1:
            return model
        parallel = nn.parallel.DistributedDataParallel
        known = inspect.signature(parallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # its older name
        options: dict[str, Any] = {sync: False, "device_ids": [device] if device.type == "cuda" else None}
        return parallel(model, gradient_as_bucket_view=True, **options)

    def align_buffers(self, model: nn.Module) -> None:
        """Give every process the same buffers: BatchNorm's running statistics as their mean over the processes, each
        of which has seen as many images; anything else as the first process has it."""
        if self.size == 1:
            return
        statistics = {
            id(buffer)
            for module in model.modules()
            if isinstance(module, _BatchNorm)
            for buffer in (module.running_mean, module.running_var)
            if buffer is not None
        }
        with torch.no_grad():
            for buffer in model.buffers():
                if id(buffer) in statistics:
                    dist.all_reduce(buffer.div_(self.size))
                else:
                    dist.broadcast(buffer, src=0)

    def average_gradients(self, parameters: list[nn.Parameter]) -> None:
        """What DistributedDataParallel does, for a step in which some process has no samples and so no backward."""
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad.div_(self.size))


@contextmanager
def losing_no_process(world: World, advice: Callable[[], str]) -> Iterator[None]:
    """Turns the failure of a collective into a `LostProcess` whose line is ``advice``: what is safe, how to go on."""
    try:
        yield
    except RuntimeError as error:
        if world.size == 1 or not _is_connection_loss(error):
            raise
        raise LostProcess(advice()) from error


class StopVote:
    """Asks ``should_stop`` and returns the same answer on every process, at the same step.

    A call starts a one-number reduction between the hosts and returns the result of the call before: nothing waits for
    a device, nor for a process that is less than a step behind.
    """

    def __init__(self, should_stop: Callable[[], bool] | None, world: World) -> None:
        self._ask = should_stop or (lambda: False)
        self._world = world
        self._pending: tuple[Any, Tensor] | None = None

    def __call__(self) -> bool:
        if self._world.size == 1:
            return self._ask()
        before, self._pending = self._pending, self._start()
        return self._result(before)

    def now(self) -> bool:
        """The answer at this moment: for the end of an epoch, where all processes meet anyway."""
        if self._world.size == 1:
            return self._ask()
        before, self._pending = self._pending, None
        asked = self._result(before)
        return self._result(self._start()) or asked

    def _start(self) -> tuple[Any, Tensor]:
        flag = torch.tensor([int(self._ask())])
        return dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._world.control, async_op=True), flag

    @staticmethod
    def _result(pending: tuple[Any, Tensor] | None) -> bool:
        if pending is None:
            return False
        work, flag = pending
        work.wait()
        return bool(flag)


def env_rank() -> int:
    """This process's number in the job that torchrun started; 0 outside one."""
    return int(os.environ.get("RANK", "0")) if env_size() > 1 else 0


def env_size() -> int:
    """How many processes torchrun started; 1 outside a job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def connect(device: torch.device) -> Iterator[World]:
    """Meet the other processes that torchrun started (gloo on CPUs, nccl on GPUs), or be alone.

    The process group stays for later calls, and ends with the process: torchrun's store would answer a second meeting
    with the addresses of the first. One that the caller has made already is used and left as it is.
    """
    if not (dist.is_available() and dist.is_initialized()):
        if env_size() == 1:
            yield World()
            return
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), _control_group())
    except BaseException:
        atexit.unregister(_leave)  # the others may be gone already
        raise


def _leave() -> None:
    # No reference may outlive the groups: their threads would be found running when the interpreter takes them down.
    _control.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def _control_group() -> dist.ProcessGroup:
    """One for each default group, made by all processes at their first meeting."""
    world = dist.group.WORLD
    if _control.get("world") is not world:
        _control.update(world=world, group=dist.new_group(backend="gloo"))
    group: dist.ProcessGroup = _control["group"]
    return group


_control: dict[str, Any] = {}


def _is_connection_loss(error: RuntimeError) -> bool:
    """Whether a collective failed because a process of the job has gone."""
    # gloo raises a plain RuntimeError that names its source file.
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))
