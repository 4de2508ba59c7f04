"""Which methods of the library are kept as copies of others: `# Copied from diffusers.x.Y.method`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from diffprof.model.library_patch import FilePatch

_COPIED = re.compile(r"# Copied from (diffusers\.[\w.]+)")


def copies_of(patch: FilePatch, folder: Path) -> list[str]:
    """`module.Class.method` of each copy of a method that the patch changes."""
    changed = set(_changed(patch))
    found = []
    for file in sorted(folder.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        for number, line in enumerate(lines):
            match = _COPIED.search(line)
            if match and match[1] in changed:
                name = next((m[1] for each in lines[number:] if (m := re.match(r"\s*def (\w+)", each))), "")
                found.append(f"`{file.stem}.{name}`")
    return found


def _changed(patch: FilePatch) -> list[str]:
    """The methods that differ, by the names that such comments give them."""
    before, after = (_methods(text) for text in (patch.before, patch.after))
    module = patch.file.removesuffix(".py").replace("/", ".")
    return [f"{module}.{name}" for name, text in after.items() if before.get(name) not in (None, text)]


def _methods(text: str) -> dict[str, str]:
    return {
        f"{cls.name}.{node.name}": ast.unparse(node)
        for cls in ast.parse(text).body
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
        if isinstance(node, ast.FunctionDef)
    }
