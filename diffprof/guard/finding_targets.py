"""What a project has that can be scanned: functions that make a pipeline, and scripts that run one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SKIPPED = ("node_modules", "site-packages", "build", "dist", "venv", "__pycache__", "tests", "test")
_MAKES = re.compile(r"(make|build|create|load|get|setup)_?\w*|\w*pipe(line)?")
_PIPELINE = re.compile(r"\b\w*Pipeline\w*\b")
_CONFTEST = re.compile(r"(conftest|test_\w*|\w*_test|setup|noxfile)\.py")


class FoundTarget(NamedTuple):
    """name: of the target in the configuration. spec: as `diffprof scan` takes it."""

    name: str
    spec: str


def candidates(root: Path) -> Iterator[FoundTarget]:
    """In the project's own files, factories before scripts; a name that is taken gets a number."""
    taken: set[str] = set()
    for file in sorted(_sources(root)):
        for name, spec in _in_file(file, file.relative_to(root).as_posix()):
            free = next(f"{name}{n}" for n in ("", *range(2, 1000)) if f"{name}{n}" not in taken)
            taken.add(free)
            yield FoundTarget(free, spec)


def _sources(root: Path) -> Iterator[Path]:
    for file in root.rglob("*.py"):
        folders = file.relative_to(root).parts[:-1]
        hidden = any(part.startswith(".") or part in _SKIPPED for part in folders)
        installed = any((parent / "pyvenv.cfg").exists() for parent in file.parents if parent != root)
        if not hidden and not installed and not _CONFTEST.fullmatch(file.name):
            yield file


def _in_file(file: Path, path: str) -> Iterator[tuple[str, str]]:
    text = file.read_text(encoding="utf-8", errors="replace")
    if "diffusers" not in text and not _PIPELINE.search(text):
        return
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    classes: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _is_pipeline(node, classes):
            classes.add(node.name)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and _is_factory(node, classes)]
    for node in found:
        yield (
            re.sub(r"^(make|build|create|load|get)_", "", node.name).replace("_", "-"),
            f"{path}:{node.name}",
        )
    if not found and _is_script(tree):
        yield file.stem.replace("_", "-"), path


def _is_pipeline(node: ast.ClassDef, classes: set[str]) -> bool:
    bases = [ast.unparse(base) for base in node.bases]
    return any(base in classes or _PIPELINE.search(base) for base in bases)


def _is_factory(node: ast.FunctionDef, classes: set[str]) -> bool:
    """Whether it can be called without arguments and gives a pipeline, as far as its text tells."""
    needed = len(node.args.args) + len(node.args.posonlyargs) - len(node.args.defaults)
    if needed or None in node.args.kw_defaults or not _MAKES.fullmatch(node.name):
        return False
    if node.returns is not None and _PIPELINE.search(ast.unparse(node.returns)):
        return True
    returns = [each for each in ast.walk(node) if isinstance(each, ast.Return) and each.value is not None]
    return bool(returns) and any(_makes_one(each, classes) for each in ast.walk(node))


def _makes_one(node: ast.AST, classes: set[str]) -> bool:
    """`SomePipeline(...)`, `SomePipeline.from_pretrained(...)`, or a class of the file that is one."""
    if not isinstance(node, ast.Call):
        return False
    made = ast.unparse(node.func).split(".")
    return made[0] in classes or any(_PIPELINE.fullmatch(part) for part in made)


def _is_script(tree: ast.Module) -> bool:
    """Whether running it makes a pipeline: at the top, or below `if __name__ == "__main__"`."""
    runs = [node for node in tree.body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    main = any("__name__" in ast.unparse(node.test) for node in runs if isinstance(node, ast.If))
    places = tree.body if main else runs
    return any(_makes_one(each, set()) for node in places for each in ast.walk(node))
