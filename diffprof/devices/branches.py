"""Code that goes another way on CUDA than on the device it runs on now: said, since it can't be seen."""

from __future__ import annotations

import functools
import inspect
import linecache
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from diffprof.callsite import Place, is_machinery, make_site, places, stack
from diffprof.pipeline import components, replaced
from diffprof.recording import Unseen

_ASKS = re.compile(r"""\.type\s*(==|in|!=)\s*[\[(]?["']cuda["']|["']cuda["']\s+in\s+str\(""")
WHY = "a simulated device is not called cuda: on a GPU this line may take the other side"


@contextmanager
def branches_noted() -> Iterator[dict[Place, str]]:
    """Places outside PyTorch that ask `torch.cuda.is_available()` while the context is open."""
    asked: dict[Place, str] = {}
    answer = torch.cuda.is_available

    def is_available() -> bool:
        caller = next(stack())
        if not is_machinery(caller.f_code.co_filename):
            asked.setdefault(places([caller])[0], "torch.cuda.is_available()")
        return answer()

    with replaced(torch.cuda, "is_available", is_available):
        yield asked


def device_type_branches(pipe: Any) -> Iterator[Place]:
    """Lines in the classes of the pipeline and of its components that compare a device's type with cuda."""
    parts = [pipe, *components(pipe).values()]
    for cls in dict.fromkeys(cls for part in parts for cls in type(part).__mro__):
        filename = getattr(sys.modules.get(cls.__module__), "__file__", None)
        # A class's own lines are found by parsing its file, which takes tens of milliseconds.
        if not filename or is_machinery(filename) or not _file_asks(filename):
            continue
        try:
            lines, first = inspect.getsourcelines(cls)
        except (OSError, TypeError):
            continue
        for offset, line in enumerate(lines):
            if _ASKS.search(line):
                yield filename, first + offset, cls.__qualname__


@functools.cache
def _file_asks(filename: str) -> bool:
    return _ASKS.search("".join(linecache.getlines(filename))) is not None


def as_unseen(places_found: Iterable[Place]) -> Iterator[Unseen]:
    """The branches as rows of a recording, one a line."""
    for place in dict.fromkeys(places_found):
        site = make_site((place,), None)
        yield Unseen(kind="branch", what=f"a branch on CUDA at {site.file}:{site.line}", why=WHY, site=site)
