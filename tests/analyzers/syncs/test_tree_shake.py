from __future__ import annotations

from diffprof.analyzers.syncs.tree_shake import needed

LARGEST = 'LARGEST = 8\n"""Elements."""\n'
IDLE = "\n\ndef _idle():\n    return contextlib.nullcontext()\n"
INNER = "\n\n# Why it is so.\ndef _inner(x):\n    return functools.partial(torch.add, x, LARGEST)\n"
OUTER = "\n\n@functools.cache\ndef _outer(x):\n    return _inner(x)\n"
IMPORTS = ("import contextlib", "import functools", "import torch.nn", "from torch import ones as _ones")


def test_what_is_named_and_what_that_names_is_kept() -> None:
    imports, kept = needed(IMPORTS, LARGEST + IDLE + INNER + OUTER, "_outer(pipe)")
    assert imports == ("import functools", "import torch.nn")
    assert kept == LARGEST + INNER + OUTER


def test_a_definition_keeps_its_comment_and_a_constant_its_docstring() -> None:
    assert needed(IMPORTS, IDLE + INNER + LARGEST + OUTER, "_inner(1)")[1] == INNER.lstrip("\n") + LARGEST


def test_nothing_is_needed_by_nothing() -> None:
    assert needed(IMPORTS, IDLE, "") == ((), "")
