"""What a scan is asked for, by the names of the command's options: sorted into options of the target,
settings of the analyzers, and arguments of the call."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffprof.judge.registry import analyzers as known_analyzers
from diffprof.judge.registry import default_names, find_analyzer
from diffprof.judge.registry import names as all_names
from diffprof.targets import Options


@dataclass(frozen=True)
class Asked:
    """A scan as it is asked for."""

    options: Options
    analyzers: tuple[str, ...]
    settings: dict[str, object]


def sorted_out(
    named: Mapping[str, Any],
    *,
    options: Options | None = None,
    analyzers: str | Sequence[str] = "",
    settings: Mapping[str, object] | None = None,
    of_call: Iterable[str] = (),
) -> Asked:
    """named: options of `diffprof scan` by name (`steps`, `no_weights`, `vary`, ...), and arguments of the
    call. of_call: names that the call takes itself, which stay its arguments. analyzers: names, `all`, or as
    the command takes them."""
    rest = dict(named)
    given = settings or {}
    found = {**given, **{to: rest.pop(name) for name, to in _settings().items() if name in rest}}
    if rest.pop("no_cache", False):
        found["cache"] = False
    taken = set(of_call)
    mine = {name: rest.pop(name) for name in _OPTIONS if name in rest and name not in taken}
    if rest.pop("no_weights", False):
        mine["weights"] = False
    chosen = options or Options()
    call = {**chosen.call, **mine.pop("call", {}), **rest.pop("set", {}), **rest}
    return Asked(dataclasses.replace(chosen, **mine, call=call), chosen_analyzers(analyzers, found), found)


def _settings() -> dict[str, str]:
    """Option of the command -> setting of the analyzers."""
    own = {option.name: option.setting for each in known_analyzers() for option in each.options}
    return {"compiled": "compiled", **own}


_OPTIONS = tuple(field.name for field in dataclasses.fields(Options))


def chosen_analyzers(named: str | Sequence[str], settings: Mapping[str, object]) -> tuple[str, ...]:
    """The analyzers that are named, or the default ones; an option of an analyzer that takes long asks for it
    as well.

    Raises UsageError for one that is not there.
    """
    names = named.split(",") if isinstance(named, str) else list(named)
    chosen = [name.strip().replace("_", "-") for name in names if name.strip()] or list(default_names())
    if chosen == ["all"]:
        return all_names()
    for name in chosen:
        find_analyzer(name)
    asked = [each.name for each in known_analyzers() if each.asked_for(settings)]
    return tuple(dict.fromkeys([*chosen, *asked]))
