"""The built-in architectures: published configurations in the package, without weights.

One is a file `NAME.json`, or a folder in a checkpoint's layout with an `about.json`. A file names its
components by class and by what differs from the class' defaults; what several have in common is named:

    "vae": "parts/flux-vae"                                   a shared part
    "unet": "sdxl/unet"                                       another architecture's
    "unet": {"of": "sdxl/unet", "config": {"in_channels": 9}}  the same, but for these entries
    "vae": {"class": "diffusers.AutoencoderKLWan"}            a class with its defaults
    "safety_checker": null                                    none

`inherits` takes over the components and settings of another; `settings` are the pipeline's own arguments;
`adapters` are put on when it is built (`adapters.py`); `missing` stands in for what a library gives that need
not be there (`stand_ins.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, cached_property
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ARCHITECTURES = Path(__file__).parent / "architectures"
HUB_COMPONENTS = Path(__file__).parent / "hub_components.json"

STEPS = 3
"""Denoising steps of a default call: a first, a last, and a steady one between."""

TINY = "tiny-"
"""What the names of shrunk architectures begin with."""


@dataclass(frozen=True)
class ComponentSpec:
    """One component: its class as `library.Class`, and what its configuration file holds."""

    cls: str
    config: Mapping[str, object] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The name of its configuration file in a checkpoint."""
        for kind, name in _FILES.items():
            if kind in self.cls:
                return name
        return "config.json"


_FILES = {
    "Tokenizer": "tokenizer_config.json",
    "Scheduler": "scheduler_config.json",
    "Processor": "preprocessor_config.json",
    "SafetyChecker": "preprocessor_config.json",
    "FeatureExtractor": "preprocessor_config.json",
    "Guidance": "guider_config.json",
}


@dataclass(frozen=True)
class BuiltinInfo:
    """One built-in architecture.

    source: the checkpoint it stands for; licence: of that checkpoint. parameters: per component, as built;
    checked_by: per component, what the count is checked by: (a figure such as "12B", where it is published);
    the figure is None where a conversion script builds this configuration and loads the checkpoint into it.
    stated: the same of figures that are known to be published there and were not read again.
    call: the arguments it is called with unless others are given; steps: how many the model card makes.
    dtype: the model card's, by component where it is not one for all, or None where it names none.
    """

    name: str
    description: str
    source: str
    parameters: dict[str, int]
    call: dict[str, Any]
    aliases: tuple[str, ...] = ()
    licence: str | None = None
    dtype: str | dict[str, str] | None = None
    steps: int | None = None
    checked_by: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    stated: dict[str, tuple[str | None, str]] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """Whether the parameter counts were held against a source that was read."""
        return bool(self.checked_by)

    @property
    def tiny(self) -> str | None:
        """The name of its small form; None of one that is small."""
        return None if self.name.startswith(TINY) else TINY + self.name

    @cached_property
    def pipeline(self) -> str:
        """The class of diffusers."""
        return str(_described(self.name)["pipeline"])

    @property
    def components(self) -> Mapping[str, ComponentSpec | None]:
        """Its parts by name; None: it has none of that name."""
        components: Mapping[str, ComponentSpec | None] = _described(self.name)["components"]
        return components

    def mentions(self, word: str) -> bool:
        """Whether its names, description, checkpoint or pipeline hold `word`, in any case and however its
        parts are joined."""
        told = (self.name, *self.aliases, self.description, self.source, self.pipeline)
        return any(folded(word) in folded(each) for each in told)

    @contextmanager
    def checkpoint(self) -> Iterator[Path]:
        """Its configurations as a checkpoint's folder, which goes when the context closes."""
        described = _described(self.name)
        index = {"_class_name": described["pipeline"], **described["settings"]}
        index |= {"_adapters": described["adapters"], "_missing": described["missing"]}
        with TemporaryDirectory(prefix="diffprof-") as folder:
            for name, part in described["components"].items():
                index[name] = [None, None] if part is None else part.cls.rsplit(".", 1)
                if part is not None:
                    (Path(folder) / name).mkdir()
                    (Path(folder) / name / part.file).write_text(json.dumps(part.config))
            (Path(folder) / "model_index.json").write_text(json.dumps(index))
            yield Path(folder)


@cache
def builtin_targets() -> tuple[BuiltinInfo, ...]:
    """All built-in architectures, by name."""
    files = {file.stem: file for file in ARCHITECTURES.glob("*.json")}
    folders = {about.parent.name: about for about in ARCHITECTURES.glob("*/about.json")}
    return tuple(
        _info(name, json.loads(file.read_text())) for name, file in sorted({**files, **folders}.items())
    )


def builtin_named(name: str) -> BuiltinInfo | None:
    """The architecture of that name or alias, in any case."""
    name = name.lower()
    return next((info for info in builtin_targets() if name in (info.name, *info.aliases)), None)


def shrinkable(name: str) -> BuiltinInfo | None:
    """The architecture that `tiny-` and its name or alias stands for, in small. One that is stored under that
    name is not meant, nor a smaller one of what is small."""
    name = name.lower()
    info = builtin_named(name.removeprefix(TINY)) if name.startswith(TINY) else None
    return None if info is None or info.tiny is None or builtin_named(name) is not None else info


def stands_for(checkpoint: str) -> BuiltinInfo | None:
    """The built-in form of a checkpoint on the hub."""
    return next((info for info in builtin_targets() if info.source.lower() == checkpoint.lower()), None)


def copied(checkpoint: str) -> BuiltinInfo | None:
    """The built-in form of a checkpoint of that name, whoever holds it and in whichever library's format. It
    may be another's with the same name."""
    return next((info for info in builtin_targets() if _model(info.source) == _model(checkpoint)), None)


def resembles(checkpoint: str) -> BuiltinInfo | None:
    """The built-in form of the checkpoint whose name is most like this one's; None where none is."""
    by_model = {_model(info.source): info for info in reversed(builtin_targets())}
    wanted = _model(checkpoint)
    begun = sorted((model for model in by_model if model.startswith(wanted)), key=len)
    near = begun or get_close_matches(wanted, by_model, n=1, cutoff=0.8)
    return by_model[near[0]] if near else None


def folded(text: str) -> str:
    """In one case, without what joins words and numbers: `LTX-Video` and `ltx video` are one."""
    return re.sub(r"[\s_.-]+", "", text.lower())


def _model(checkpoint: str) -> str:
    """`Org/Name-Diffusers` -> `name`."""
    return folded(checkpoint.rsplit("/", 1)[-1]).removesuffix("diffusers")


def _info(name: str, about: Mapping[str, Any]) -> BuiltinInfo:
    steps = about.get("steps")
    # Of an image, `strength` says which share of the steps is made.
    strength = about["call"].get("strength", 1)
    few = {} if steps is None else {"num_inference_steps": min(ceil(STEPS / strength), steps)}
    return BuiltinInfo(
        name=name,
        description=about["description"],
        source=about["source"],
        parameters=about["parameters"],
        call={**about["call"], **few},
        aliases=tuple(about.get("aliases", ())),
        licence=about.get("licence"),
        dtype=about.get("dtype"),
        steps=steps,
        checked_by=_sourced(about.get("checked_by", {})),
        stated=_sourced(about.get("stated", {})),
    )


def _sourced(told: dict[str, Any]) -> dict[str, tuple[str | None, str]]:
    return {part: (figure, where) for part, (figure, where) in told.items()}


@cache
def _described(name: str) -> dict[str, Any]:
    """pipeline, settings and components (Part or None by name) of an architecture."""
    folder = ARCHITECTURES / name
    own = _folder(folder) if folder.is_dir() else json.loads((ARCHITECTURES / f"{name}.json").read_text())
    base = _described(own["inherits"]) if "inherits" in own else {}
    parts = {part: _part(entry) for part, entry in own["components"].items()}
    return {
        "pipeline": own.get("pipeline") or base["pipeline"],
        "settings": {**base.get("settings", {}), **own.get("settings", {})},
        "adapters": own.get("adapters", {}),
        "missing": own.get("missing", {}),
        "components": {**base.get("components", {}), **parts},
    }


def _folder(folder: Path) -> dict[str, Any]:
    """An architecture's folder in the form of a file; a component without a folder is the inherited one."""
    index = json.loads((folder / "model_index.json").read_text())
    listed = {name: entry for name, entry in index.items() if isinstance(entry, list)}
    held = {name: _only_file(folder / name) for name in listed if (folder / name).is_dir()}
    return {
        **json.loads((folder / "about.json").read_text()),
        "pipeline": index["_class_name"],
        "settings": {k: v for k, v in index.items() if k not in listed and not k.startswith("_")},
        "components": {name: {"class": ".".join(listed[name]), "config": held[name]} for name in held},
    }


def _only_file(folder: Path) -> object:
    (file,) = folder.iterdir()
    return json.loads(file.read_text())


def _part(entry: str | Mapping[str, Any] | None) -> ComponentSpec | None:
    if entry is None:
        return None
    if isinstance(entry, str):
        entry = {"of": entry}
    taken = _taken(entry["of"]) if "of" in entry else None
    config = {**(taken.config if taken else {}), **entry.get("config", {})}
    return ComponentSpec(entry.get("class") or (taken.cls if taken else ""), config)


def _taken(reference: str) -> ComponentSpec:
    """`parts/NAME`, or `ARCHITECTURE/COMPONENT`."""
    owner, name = reference.split("/")
    found = _shared(name) if owner == "parts" else _described(owner)["components"][name]
    assert found is not None, reference
    return found


@cache
def hub_component(repo: str) -> tuple[ComponentSpec, str] | None:
    """What a repository on the hub holds that is one component alone, and of which architecture it is; None
    where that is not known."""
    known = json.loads(HUB_COMPONENTS.read_text())
    entry = next((entry for name, entry in known.items() if name.lower() == repo.lower()), None)
    part = _part(entry)
    return None if part is None or entry is None else (part, entry.get("of") or part.cls)


@cache
def _shared(name: str) -> ComponentSpec | None:
    return _part(json.loads((ARCHITECTURES / "parts" / f"{name}.json").read_text()))
