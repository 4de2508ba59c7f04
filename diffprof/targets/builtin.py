"""The built-in architectures: published configurations in the package, in the folder layout of a checkpoint.

`about.json` beside them says what they are and how many parameters each component has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ARCHITECTURES = Path(__file__).parent / "architectures"


@dataclass(frozen=True)
class BuiltinInfo:
    """One built-in architecture. parameters: per component; source: where its configuration is published;
    call: the arguments it is called with unless others are given."""

    name: str
    description: str
    source: str
    parameters: dict[str, int]
    call: dict[str, Any]
    folders: tuple[Path, ...]
    """Where its configurations are; a later one stands in for components that the earlier do not have."""


@cache
def builtin_targets() -> tuple[BuiltinInfo, ...]:
    """All built-in architectures, by name."""
    return tuple(_read(about.parent.name) for about in sorted(ARCHITECTURES.glob("*/about.json")))


def _read(name: str) -> BuiltinInfo:
    folder = ARCHITECTURES / name
    about = json.loads((folder / "about.json").read_text())
    return BuiltinInfo(
        name=name,
        description=about["description"],
        source=about["source"],
        parameters=about["parameters"],
        call=about["call"],
        folders=(folder, *([ARCHITECTURES / about["inherits"]] if "inherits" in about else [])),
    )
