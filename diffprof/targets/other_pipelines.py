"""The pipelines of a script beside the one whose call is scanned."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffprof.model.callsite import is_machinery, make_site, stack
from diffprof.model.pipeline import is_pipeline
from diffprof.model.recording import Unseen

_MAKERS = ("from_pretrained", "from_pipe", "from_single_file", "from_config")

WHY = (
    "the first call of a pipeline is what is scanned, and the script is left after it. Scan this one through "
    "a factory that returns it with its call (file.py:function)"
)


def others_of(pipe: Any, namespace: dict[str, Any], file: Path) -> list[Unseen]:
    """The pipelines that the script has made beside `pipe`, and those that it would make after this call."""
    frames = [f for f in stack() if not is_machinery(f.f_code.co_filename)]
    own = {id(each) for each in (pipe, *getattr(pipe, "components", {}).values())}
    made: dict[int, tuple[str, Any]] = {}
    for scope in (*(f.f_locals for f in frames), namespace):
        for name, value in list(scope.items()):
            if id(value) not in own and not isinstance(value, type) and is_pipeline(value):
                made.setdefault(id(value), (name, value))
    rows = [
        Unseen(what=f"another pipeline of the script, {name} ({type(value).__name__})", why=WHY)
        for name, value in made.values()
    ]
    at = next((f.f_lineno for f in frames if Path(f.f_code.co_filename) == file), None)
    if at is not None:
        rows += [
            Unseen(
                what=f"another pipeline of the script, made later by {call}",
                why=WHY,
                site=make_site(((str(file), line, "<module>"),), None),
            )
            for line, call in _made_after(file, at)
        ]
    return rows


def _made_after(file: Path, line: int) -> Iterator[tuple[int, str]]:
    """(line, call) of what makes a pipeline below a line, by the names that diffusers gives its classes."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if not (isinstance(node, ast.Call) and node.lineno > line):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in _MAKERS:
            function = function.value
        name = ast.unparse(function).rsplit(".", 1)[-1]
        if name.endswith("Pipeline") or name.startswith("AutoPipeline"):
            yield node.lineno, ast.unparse(node.func)
