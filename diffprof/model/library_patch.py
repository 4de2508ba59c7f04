"""A patch of the library, and what checking it found."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class FilePatch:
    """file: as sites name it. done: what was changed, in words. left: (line, rule, why it is not edited)."""

    file: str
    before: str
    after: str
    done: tuple[str, ...]
    left: tuple[tuple[int, str, str], ...] = ()

    @property
    def changes(self) -> bool:
        """Whether anything is edited."""
        return self.before != self.after

    @property
    def diff(self) -> str:
        """Unified, of a checkout, as `git apply` takes it."""
        name = f"src/{self.file}"
        old, new = (text.splitlines(keepends=True) for text in (self.before, self.after))
        return "".join(difflib.unified_diff(old, new, f"a/{name}", f"b/{name}"))


@dataclass(frozen=True)
class Ran:
    """A pipeline before the patch and after it: waits in its loop, those in the changed files; whether every
    tensor that it gives has the same bits. error: why it could not be called, if so."""

    name: str
    waits: tuple[int, int] = (0, 0)
    here: tuple[int, int] = (0, 0)
    bit_equal: bool = False
    error: str = ""


@dataclass(frozen=True)
class PatchCheck:
    """pipelines: those that run the changed files. waits, ms: of the report's own target, before and after;
    None where it can't be built again."""

    pipelines: tuple[Ran, ...]
    waits: tuple[int, int] | None = None
    ms: tuple[float, float] | None = None

    @property
    def holds(self) -> bool:
        """Whether waits are gone, and nothing else changed."""
        ran = [each for each in self.pipelines if not each.error]
        gone = any(each.waits[1] < each.waits[0] for each in ran)
        return gone and all(each.bit_equal and each.waits[1] <= each.waits[0] for each in ran)
