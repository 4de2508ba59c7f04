"""Lint, types, import contracts, and documents that equal what the code prints."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from diffprof.cli.docs import BLOCKS, pages, with_blocks

ROOT = Path(__file__).parent.parent

CHECKS = {
    "ruff check": ["ruff", "check"],
    "ruff format": ["ruff", "format", "--check"],
    "mypy": ["mypy"],
    "import contracts": ["importlinter.cli"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "mypy" else ()) for name in CHECKS]
)
def test_check_passes(name: str) -> None:
    module, *args = CHECKS[name]
    if module == "importlinter.cli":
        command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    else:
        command = [sys.executable, "-m", module, *args]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_pages_hold_what_the_code_prints() -> None:
    texts = {name: file.read_text(encoding="utf-8") for name, file in pages().items()}
    for block in BLOCKS:
        assert sum(f"<!-- generated: {block} -->" in text for text in texts.values()) == 1
    for name, text in texts.items():
        assert with_blocks(text) == text, f"{name}: run `python -m diffprof.cli.docs`"


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 160
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    docs = {file.relative_to(ROOT).as_posix() for file in (ROOT / "diffprof" / "docs").glob("*.md")}
    assert docs - set(links) == set(), "every page is a link away"
    for file in pages().values():
        inside = re.findall(r"\]\((?!http)([^)#]+)", file.read_text(encoding="utf-8"))
        assert [link for link in inside if not (file.parent / link).exists()] == []


def test_blocks_are_replaced_whole() -> None:
    old = "a\n<!-- generated: rules -->\nSTALE\n<!-- end -->\nb\n"
    new = with_blocks(old)
    assert new.startswith("a\n<!-- generated: rules -->\n| code |")
    assert new.endswith("|\n<!-- end -->\nb\n")
    assert "STALE" not in new
    assert with_blocks(new) == new


MOST_LINES = 60
"""Of a function."""


@functools.cache
def _trees() -> dict[str, ast.Module]:
    files = sorted((ROOT / "diffprof").rglob("*.py"))
    return {f.relative_to(ROOT).as_posix(): ast.parse(f.read_text(encoding="utf-8")) for f in files}


@pytest.mark.slow
def test_a_public_class_name_lives_in_one_place() -> None:
    places = defaultdict(list)
    for file, tree in _trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(file)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


DIALECT = {
    *("scene", "hollow", "invented", "withheld", "lane", "reckoned", "dressing", "hostside", "tape"),
    *("road", "border", "ink"),
}
"""Words that names are not made of, in either number: the field has others for what they meant."""
DIALECT_ALONE = {"stand", "keeping", "standing", "said", "needed", "carried", "nothing", "sheet", "dress"}
"""Words that say too little where a module or class is called that and no more."""


def _words(name: str) -> set[str]:
    """`_LaneColumns` -> lane, column: those of an identifier, in the singular."""
    split = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return {word.lower().removesuffix("s") for word in split}


def _identifiers(node: ast.AST) -> Iterator[str]:
    """Every name that a node gives or reads."""
    for field in ("id", "attr", "arg", "name", "asname"):
        if isinstance(name := getattr(node, field, None), str):
            yield from name.split(".")


def test_names_are_of_the_field() -> None:
    assert _words("_LaneColumns") == {"lane", "column"}
    found = defaultdict(set)
    for file, tree in _trees().items():
        modules = Path(file).with_suffix("").parts
        classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for name in (*modules, *classes):
            if name.strip("_").lower() in DIALECT_ALONE:
                found[file].add(name)
        for name in {*modules, *(name for node in ast.walk(tree) for name in _identifiers(node))}:
            if _words(name) & DIALECT:
                found[file].add(name)
    assert dict(found) == {}


MOST_IN_A_CIRCLE = 3
CORE = "diffprof.devices.simulated."
"""Its tensors, operators and dispatch need each other."""


def test_few_files_import_each_other() -> None:
    graph = grimp.build_graph("diffprof", exclude_type_checking_imports=True)
    circles = {
        frozenset({module} | graph.find_upstream_modules(module) & graph.find_downstream_modules(module))
        for module in graph.modules
    }
    large = [sorted(circle) for circle in circles if len(circle) > MOST_IN_A_CIRCLE]
    assert [circle for circle in large if not all(module.startswith(CORE) for module in circle)] == []


PRIVATE = (
    *("devices/", "analyzers/graph_breaks/", "analyzers/quantization/timing.py", "analyzers/syncs/shims/"),
    *(
        "targets/pipeline_call.py",
        "targets/process.py",
        "targets/redirect.py",
        "targets/twin/copy_customizations.py",
    ),
    *("tuning/compiled_twin.py", "tuning/ladder/measured.py", "contact/broken.py", "contact/graphs.py"),
)
"""Where private names of torch are used: the simulated GPU, and probes and fixes that can't do without."""


def _private_of_torch(node: ast.AST) -> bool:
    names = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
    names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{each.name}" for each in node.names]
    return any(re.match(r"torch\.(\w+\.)*_(?!_)", name) for name in names)


@pytest.mark.slow
def test_private_names_of_torch_are_used_in_few_places() -> None:
    found = {file for file, tree in _trees().items() if any(map(_private_of_torch, ast.walk(tree)))}
    places = tuple(f"diffprof/{place}" for place in PRIVATE)
    assert {file for file in found if not file.startswith(places)} == set()
    assert [place for place in places if not any(file.startswith(place) for file in found)] == []


MOST_ANY = 699
"""Of `Any` in annotations: lower it with each that gets a type."""


@pytest.mark.slow
def test_any_gets_no_more() -> None:
    found = Counter(
        file
        for file, tree in _trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "Any"
    )
    assert found.total() <= MOST_ANY, found.most_common(10)


@pytest.mark.slow
def test_no_function_is_long() -> None:
    lines = {
        f"{file}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for file, tree in _trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
    assert sorted(lines.values())[len(lines) // 2] < 10
