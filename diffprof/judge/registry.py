"""The registry of analyzers: diffprof's own, and those that other packages bring by an entry point.

Everything that lists analyzers reads it: the scan, the rules, the fixes, the command's options, the views.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from diffprof.model.analyzer import Analyzer
from diffprof.model.errors import UsageError

GROUP = "diffprof.analyzers"
FOLDER = "diffprof.analyzers"
OWN = ("syncs", "kernels", "setup", "graph_breaks", "quantization", "allowances")
"""Folders of it, in the order in which their probes run."""


@cache
def analyzers() -> tuple[Analyzer, ...]:
    """All of them: diffprof's own, then those of other packages.

    Raises UsageError for an entry point that can't be loaded, or takes a name or a prefix that is taken.
    """
    found = [import_module(f"{FOLDER}.{folder}").ANALYZER for folder in OWN]
    for point in sorted(entry_points(group=GROUP), key=lambda each: each.name):
        try:
            found.append(_checked(point.load(), found))
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise UsageError(
                f"The analyzer {point.name!r} ({point.value}) can't be used: {error}.",
                "Upgrade or uninstall the package that brings it.",
            ) from error
    return tuple(found)


def _checked(new: object, found: list[Analyzer]) -> Analyzer:
    if not isinstance(new, Analyzer):
        raise TypeError("it is no diffprof.model.analyzer.Analyzer")
    for each in found:
        if each.name == new.name or each.prefix == new.prefix:
            raise ValueError(f"{each.name} has the name or the prefix {each.prefix} already")
    return new


def names() -> tuple[str, ...]:
    """What a scan can look at."""
    return tuple(each.name for each in analyzers() if not each.always)


def default_names() -> tuple[str, ...]:
    """What a scan looks at unless told: all that takes seconds, not minutes."""
    return tuple(each.name for each in analyzers() if each.default)


def watched_names() -> tuple[str, ...]:
    """What a scan looks at in the one call that it watches, without a run of its own."""
    return tuple(each.name for each in analyzers() if each.watched)


def find_analyzer(name: str) -> Analyzer:
    """The analyzer of a name.

    Raises UsageError for a name that is none's.
    """
    for each in analyzers():
        if each.name == name:
            return each
    raise UsageError(f"There is no analyzer {name!r}.", f"Choose from: {', '.join(names())}, or say all.")


def in_order(chosen: Iterable[str]) -> tuple[str, ...]:
    """Names in the order in which their probes run."""
    asked = set(chosen)
    return tuple(name for name in names() if name in asked)


def owner(module: str) -> Analyzer:
    """The analyzer in whose folder a module stands.

    Raises ValueError for a module that stands in none.
    """
    for each in analyzers():
        if module.startswith(f"{each.package}."):
            return each
    raise ValueError(f"{module} is in no analyzer's folder")
