"""What of a module's source some code needs, so that nothing idle is written out."""

from __future__ import annotations

import ast
import functools
from collections.abc import Sequence


def needed(imports: Sequence[str], definitions: str, used: str) -> tuple[tuple[str, ...], str]:
    """What of a module some code needs: definitions that it names, and those that they name, and their
    imports. A statement that defines nothing goes with the definition before it."""
    pieces = _pieces(definitions)
    wanted, reached = _named(ast.parse(used)), set[str]()
    while wanted != reached:
        reached = set(wanted)
        wanted = wanted.union(*(within for names, within, _ in pieces if names & reached))
    kept = "".join(text for names, _, text in pieces if names & wanted).strip("\n")
    return tuple(filter(None, (_used(line, wanted) for line in imports))), f"{kept}\n" if kept else ""


@functools.cache
def _pieces(definitions: str) -> list[tuple[set[str], set[str], str]]:
    """(names that it defines, names that it uses, text) of each."""
    lines = definitions.splitlines(keepends=True)
    pieces: list[tuple[set[str], set[str], str]] = []
    end = 0
    for node in ast.parse(definitions).body:
        text = "".join(lines[end : node.end_lineno])
        end = node.end_lineno or end
        defined = _defined(node)
        if not defined and pieces:
            names, within, before = pieces.pop()
            pieces.append((names, within | _named(node), before + text))
        else:
            pieces.append((defined, _named(node), text))
    return pieces


def _used(statement: str, wanted: set[str]) -> str:
    """An import of what is wanted alone; empty where nothing is."""
    (node,) = ast.parse(statement).body
    if not isinstance(node, (ast.Import, ast.ImportFrom)):
        return ""
    node.names = [each for each in node.names if (each.asname or each.name.partition(".")[0]) in wanted]
    return ast.unparse(node) if node.names else ""


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}


def _named(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
