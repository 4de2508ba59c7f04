"""Code that goes another way on CUDA than on the device it runs on now: said, since it can't be seen."""

from __future__ import annotations

import functools
import inspect
import linecache
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from diffprof.model.callsite import Place, importable_path, is_machinery, make_site, places, stack
from diffprof.model.pipeline import Pipeline, components, replaced
from diffprof.model.recording import Unseen

_TEXT = r"""["']cuda["']\s+in\s+str\("""
_ASKS = re.compile(rf"""\.type\s*(==|in|!=)\s*[\[(]?["']cuda["']|{_TEXT}""")
WHY = "a simulated device is not called cuda: on a GPU this line may take the other side"


@contextmanager
def branches_noted() -> Iterator[dict[Place, str]]:
    """Places outside PyTorch that ask `torch.cuda.is_available()` while the context is open, and are not told
    what they would be on CUDA."""
    asked: dict[Place, str] = {}
    answer = torch.cuda.is_available

    def is_available() -> bool:
        caller, told = next(stack()), answer()
        if not told and not is_machinery(caller.f_code.co_filename):
            asked.setdefault(places([caller])[0], "torch.cuda.is_available()")
        return told

    with replaced(torch.cuda, "is_available", is_available):
        yield asked


def device_type_branches(pipe: Pipeline) -> Iterator[Place]:
    """Lines in the methods of the pipeline and of its components that compare a device's type with cuda. The
    user's own may be told that it is."""
    told_own = isinstance(vars(torch.device)["type"], property)
    parts = [pipe, *components(pipe).values()]
    for cls in dict.fromkeys(cls for part in parts for cls in type(part).__mro__):
        filename = getattr(sys.modules.get(cls.__module__), "__file__", None)
        if not filename or is_machinery(filename):
            continue
        asking = _asking_lines(filename, _TEXT if told_own and importable_path(filename)[1] else _ASKS)
        for method in vars(cls).values() if asking else ():
            code = getattr(inspect.unwrap(method) if callable(method) else None, "__code__", None)
            if code is not None:
                lines = {line for _, _, line in code.co_lines() if line}
                yield from ((filename, line, code.co_qualname) for line in asking if line in lines)


@functools.cache
def _asking_lines(filename: str, asks: str | re.Pattern[str]) -> tuple[int, ...]:
    text = "".join(linecache.getlines(filename))
    return tuple(text.count("\n", 0, match.start()) + 1 for match in re.finditer(asks, text))


def as_unseen(places_found: Iterable[Place]) -> Iterator[Unseen]:
    """The branches as rows of a recording, one a line."""
    for place in dict.fromkeys(places_found):
        site = make_site((place,), None)
        yield Unseen(kind="branch", what=f"a branch on CUDA at {site.file}:{site.line}", why=WHY, site=site)
