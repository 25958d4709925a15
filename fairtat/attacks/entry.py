"""When an attack may be called."""

from __future__ import annotations

import torch

__all__ = ["check_call", "check_may_stop_early"]


def check_may_stop_early(model: object) -> None:
    """Whether samples may leave an attack on this model before its last step.

    Raises:
        ValueError: parts of it lie in several processes, which would then make different numbers of passes.
    """
    sharded = any(kind.__name__ == "FSDPModule" for kind in type(model).__mro__)  # whose import takes a second
    if sharded and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise ValueError(
            "samples that leave an attack early let processes make different numbers of passes, and each pass of a "
            "sharded model waits for all of them: use early_stop=False, or attack the whole model in one process"
        )


def check_call(model: object) -> None:
    """Whether an attack may run here.

    Raises:
        RuntimeError: inside ``torch.inference_mode()``.
        TypeError: ``model`` is not callable, an exported program, or wrapped in FullyShardedDataParallel.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "an attack needs gradients, which torch.inference_mode() rules out: call it outside, or use "
            "torch.no_grad() instead, under which it works"
        )
    if type(model).__name__ == "ExportedProgram" and type(model).__module__.startswith("torch.export"):
        raise TypeError("model is a torch.export.ExportedProgram, which is a file's content; attack its .module()")
    if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(model).__mro__):
        raise TypeError(
            "model is wrapped in FullyShardedDataParallel, whose hooks allow no gradient of images alone; attack the "
            "module before it is wrapped, or shard it by torch.distributed.fsdp.fully_shard"
        )
    if not callable(model):
        raise TypeError(f"model must be a torch.nn.Module or a callable, got {type(model).__name__}")
