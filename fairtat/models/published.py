"""Published models and weights: of the Hugging Face Hub (``hf:``) and of RobustBench (``robustbench:``).

Nothing here uses the network but `fetch`, which is called only when a person asks for it. A file is looked for below
the folder `ROOT` first, where it can be put by hand, then in the Hub's cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from fairtat.errors import UserError
from fairtat.models.timm import build_timm, refuse_other_classes
from fairtat.optional import optional_import
from fairtat.weights import weights_file

__all__ = ["ROOT", "TIMM", "build_published", "fetch", "find_timm_weights", "find_weights", "is_published"]

ROOT = Path("models")
"""Where files that were put by hand lie, and where RobustBench puts its own."""

TIMM = "timm"
"""In place of a file of weights: those that timm publishes for its model."""

_HUB = ("hf:", "hf_hub:")
_ROBUSTBENCH = "robustbench:"
_CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet": 1000}
_CONFIG, _WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")


def is_published(name: str) -> bool:
    """Whether ``name`` is a ``hf:ORG/MODEL`` or ``robustbench:`` name, and no ``module:function`` of modules so called.

    What RobustBench calls its models begins with a capital letter; its functions, such as ``load_model``, do not.
    """
    prefix, _, rest = name.partition(":")
    if f"{prefix}:" in _HUB:
        return "/" in rest
    return f"{prefix}:" == _ROBUSTBENCH and ("/" in rest or rest[:1].isupper())


def find_weights(name: str | Path) -> Path:
    """The file that a setting names as weights: a path, a run folder, ``hf:ORG/MODEL[/FILE]`` or ``robustbench:``.

    Raises:
        UserError: a published file that is not on this machine; the message says where to put it.
    """
    text = str(name)
    if not is_published(text):
        return weights_file(name)
    return _Zoo.parsed(text).file() if text.startswith(_ROBUSTBENCH) else _Hub.parsed(text).weights()


def find_timm_weights(name: str) -> Path:
    """The file of weights that timm publishes for ``timm:NAME``.

    Raises:
        UserError: it is not on this machine, or there is none.
    """
    return _timm_hub(name).weights()


def fetch(name: str, weights: str | None = None) -> None:
    """Get what the model ``name`` and its ``weights`` need from the network, into the Hub's cache or into `ROOT`.

    Raises:
        UserError: it cannot be had.
    """
    if is_published(name):
        _Zoo.parsed(name).fetch() if name.startswith(_ROBUSTBENCH) else _Hub.parsed(name).fetch(_CONFIG)
    if weights == TIMM:
        _timm_hub(name).fetch()
    elif weights is not None and is_published(weights):
        _Zoo.parsed(weights).fetch() if weights.startswith(_ROBUSTBENCH) else _Hub.parsed(weights).fetch()


def build_published(
    name: str,
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int],
    *,
    load: bool,
    new_head: bool,
    **options: Any,
) -> nn.Module:
    """The model that ``hf:ORG/MODEL`` (a model of timm) or ``robustbench:DATASET/THREAT/NAME`` names.

    Args:
        name: ``robustbench:NAME`` alone is of ``cifar10/Linf``.
        num_classes, in_channels, image_size: of the data.
        load: with its published weights; otherwise random ones, for others to be loaded into.
        new_head: of a ``hf:`` model for other classes, a random last layer is allowed.
        options: further arguments of timm's function; RobustBench's takes none.

    Raises:
        UserError: it is not on this machine, is no such model, or has other classes than the data.
    """
    if name.startswith(_ROBUSTBENCH):
        return _Zoo.parsed(name).build(num_classes, load=load, options=options)
    hub = _Hub.parsed(name)
    if hub.path is not None:
        raise UserError(f"model {name!r}: names a file; expected hf:ORG/MODEL")
    return build_timm(
        f"local-dir:{hub.model_folder(load)}",
        num_classes,
        in_channels,
        image_size,
        pretrained=True,
        fetch=load,
        new_head=new_head,
        shown=name,
        **options,
    )


class _Hub(NamedTuple):
    """``hf:ORG/MODEL[@REVISION][/FILE]``."""

    name: str
    repo: str
    revision: str | None
    path: str | None

    @classmethod
    def parsed(cls, name: str) -> _Hub:
        _, _, rest = name.partition(":")
        found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([\w./-]+))?", rest)
        if found is None or any(part in ("", ".", "..") for part in rest.split("/")):
            raise UserError(f"{name!r} names no model of the Hub; expected hf:ORG/MODEL or hf:ORG/MODEL/FILE")
        return cls(name, *found.groups())

    def weights(self) -> Path:
        return self._first_of([self.path] if self.path else list(_WEIGHTS))

    def model_folder(self, load: bool) -> Path:
        """The folder with the configuration and (``load``) the weights, checked to be of a model of timm."""
        config = self._first_of([_CONFIG])
        try:
            described = json.loads(config.read_bytes())
        except (OSError, ValueError) as error:
            raise UserError(f"{config}: cannot be read as JSON ({error})") from error
        if not isinstance(described, dict) or not isinstance(described.get("architecture"), str):
            raise UserError(
                f"{config}: has no 'architecture'; expected a model of timm (for others: module:function, "
                "docs/extending.md)"
            )
        if load and self.weights().parent != config.parent:
            raise UserError(f"{self.name}: {config} and {self.weights()} are not in one folder")
        return config.parent

    def fetch(self, *more: str) -> None:
        hub = _hub_library(self.name)
        try:
            for file in more:
                hub.hf_hub_download(self.repo, file, revision=self.revision)
            self._try_each(lambda file: hub.hf_hub_download(self.repo, file, revision=self.revision))
        except Exception as error:  # no network, no such model, gated, a full disk: the library's words say which
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{self.name}: cannot be fetched ({reason}); {self._by_hand()}") from error

    def _try_each(self, get: Callable[[str], object]) -> None:
        files = [self.path] if self.path else list(_WEIGHTS)
        for file in files[:-1]:
            try:
                get(file)
            except Exception:  # the last one's error is raised
                continue
            return
        get(files[-1])

    def _first_of(self, files: list[str]) -> Path:
        for file in files:
            if (self._folder / file).is_file():
                return self._folder / file
        hub = _hub_library(self.name)
        for file in files:
            found = hub.try_to_load_from_cache(self.repo, file, revision=self.revision)
            if isinstance(found, str):
                return Path(found)
        raise UserError(
            f"{self.name}: {files[0]} is not on this machine; add --model.download true to fetch it, or "
            f"{self._by_hand()}"
        )

    def _by_hand(self) -> str:
        return f"put {self.path or f'{_CONFIG} and {_WEIGHTS[0]}'} of {self.repo} into the folder {self._folder}"

    @property
    def _folder(self) -> Path:
        return ROOT / self.repo


class _Zoo(NamedTuple):
    """``robustbench:[DATASET/THREAT/]NAME``."""

    name: str
    dataset: str
    threat: str
    model: str

    @classmethod
    def parsed(cls, name: str) -> _Zoo:
        parts = name.removeprefix(_ROBUSTBENCH).split("/")
        if len(parts) == 1:
            parts = ["cifar10", "Linf", *parts]
        safe = all(re.fullmatch(r"[\w.+-]*\w[\w.+-]*", part) for part in parts)
        if len(parts) != 3 or not safe or parts[0] not in _CLASSES:
            raise UserError(
                f"{name!r} names no model of RobustBench; expected robustbench:DATASET/THREAT/NAME, with "
                f"{', '.join(_CLASSES)}, and for example Linf"
            )
        return cls(name, *parts)

    def file(self) -> Path:
        if not self._file.is_file():
            raise self._missing()
        return self._file

    def build(self, num_classes: int, *, load: bool, options: dict[str, Any]) -> nn.Module:
        if options:
            raise UserError(f"model {self.name!r}: its options are {options}; expected none")
        if num_classes != _CLASSES[self.dataset]:
            refuse_other_classes(self.name, _CLASSES[self.dataset], num_classes)
        ensemble = self._file.with_name(f"{self._file.name}_m0.pt")
        if load and not self._file.is_file() and not ensemble.is_file():
            raise self._missing()
        return self._load() if load else self._call(self._constructor)

    def fetch(self) -> None:
        self._load()

    def _missing(self) -> UserError:
        return UserError(
            f"{self.name}: its weights are not on this machine; add --model.download true to fetch them, or put them "
            f"into {self._file}"
        )

    def _load(self) -> nn.Module:
        library = self._library
        return self._call(
            lambda: library.load_model(
                model_name=self.model, model_dir=str(ROOT), dataset=self.dataset, threat_model=self.threat
            )
        )

    def _constructor(self) -> nn.Module:
        zoo = optional_import("robustbench.model_zoo", purpose=f"model {self.name!r}", extra="robustbench")
        enums = optional_import("robustbench.model_zoo.enums", purpose=f"model {self.name!r}", extra="robustbench")
        models = zoo.model_dicts[enums.BenchmarkDataset(self.dataset)][enums.ThreatModel(self.threat)]
        return models[self.model]["model"]()  # type: ignore[no-any-return]

    def _call(self, make: Callable[[], nn.Module]) -> nn.Module:
        try:
            return make()
        except UserError:
            raise
        except Exception as error:  # an unknown name is a KeyError; the network and files may raise anything
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(f"{self.name}: RobustBench cannot load it ({type(error).__name__}: {reason})") from error

    @property
    def _library(self) -> Any:
        return optional_import("robustbench", purpose=f"model {self.name!r}", extra="robustbench")

    @property
    def _file(self) -> Path:
        return ROOT / self.dataset / self.threat / f"{self.model}.pt"


def _hub_library(name: str) -> Any:
    return optional_import("huggingface_hub", purpose=name, extra="vision")


def _timm_hub(name: str) -> _Hub:
    """Where the Hub has the weights of ``timm:NAME``."""
    if not name.startswith("timm:"):
        raise UserError(f"model.weights is timm, but model.name is {name!r}; expected timm:NAME")
    timm = optional_import("timm", purpose=f"model {name!r}", extra="vision")
    published = timm.get_pretrained_cfg(name.removeprefix("timm:"))
    if published is None or not published.hf_hub_id:
        raise UserError(f"model {name!r}: timm has no weights for it on the Hub")
    file = published.hf_hub_filename
    return _Hub.parsed(f"hf:{published.hf_hub_id}" + (f"/{file}" if file else ""))
