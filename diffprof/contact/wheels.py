"""What a machine needs that has PyTorch, NumPy, accelerate and peft, and no network."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib import metadata

from packaging.requirements import Requirement

THERE = {"torch", "numpy", "accelerate", "peft"}
"""On the machine, with all that they need themselves."""

NOT_NEEDED = {"tensorboard", "torch-tb-profiler", "textual"}
"""Of diffprof's own: a contact opens no viewer."""


def needed() -> list[tuple[str, str]]:
    """(name, version) of each wheel to take along, diffprof's own among them, as installed here."""
    present = set(_closure(THERE))
    wanted = set(_closure({"diffprof"}, NOT_NEEDED)) - present
    return sorted((name, metadata.version(name)) for name in wanted)


def _closure(names: set[str], without: Collection[str] = ()) -> Iterator[str]:
    """These distributions and all that they require, by normalised names; those that aren't installed are
    left out."""
    seen: set[str] = set(without)
    waiting = sorted(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        yield name
        waiting += [each.name for each in map(Requirement, requires) if _applies(each)]


def _applies(requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is None or marker.evaluate({"extra": ""})
