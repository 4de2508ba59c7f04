"""The registry of fixes: what the analyzers' folders bring."""

from __future__ import annotations

from functools import cache

from diffprof.judge.registry import analyzers
from diffprof.model.errors import UsageError
from diffprof.model.fix import Recipe


@cache
def recipes() -> dict[str, Recipe]:
    """Every fix by key, in the order of application.

    Raises ValueError for a key that stands twice.
    """
    found: dict[str, Recipe] = {}
    for analyzer in analyzers():
        for recipe in getattr(analyzer.part("fixes"), "RECIPES", ()):
            if recipe.fix.key in found:
                raise ValueError(f"fix {recipe.fix.key} stands twice")
            found[recipe.fix.key] = recipe
    ordered = sorted(found.values(), key=lambda recipe: recipe.fix.stage)
    return {recipe.fix.key: recipe for recipe in ordered}


def find_recipe(key: str) -> Recipe:
    """The fix with this key.

    Raises UsageError naming near ones.
    """
    known = recipes()
    if key in known:
        return known[key]
    from difflib import get_close_matches

    near = get_close_matches(key, known, n=3, cutoff=0.4)
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    raise UsageError(f"There is no fix {key!r}.", f"{hint}`diffprof fix` lists those of a run.")
