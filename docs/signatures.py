"""A griffe extension: functions that take ``**options`` are shown with every option and default, as by ``help``."""

from __future__ import annotations

import inspect
from typing import Any

import griffe

MODULES = (
    "fairtat.attacks.pgd",
    "fairtat.attacks.mixed",
    "fairtat.attacks.autoattack.calls",
    "fairtat.attacks.autoattack.suite",
    "fairtat.attacks.carlini_wagner",
    "fairtat.attacks.deep_fool",
    "fairtat.attacks.multi_targeted",
)


class RuntimeSignatures(griffe.Extension):
    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        if "options" not in func.parameters or func.path.rpartition(".")[0] not in MODULES:
            return
        signature = inspect.signature(griffe.dynamic_import(func.path))
        func.overloads = None
        func.parameters = griffe.Parameters(
            *(
                griffe.Parameter(
                    p.name,
                    annotation=p.annotation,
                    kind=griffe.ParameterKind(p.kind.description),
                    default=None if p.default is p.empty else repr(p.default),
                )
                for p in signature.parameters.values()
            )
        )
