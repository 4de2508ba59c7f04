"""Lint, types, import contracts, and documents that equal what the code prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffprof.cli.docs import BLOCKS, with_blocks

ROOT = Path(__file__).parent.parent

CHECKS = {
    "ruff check": ["ruff", "check"],
    "ruff format": ["ruff", "format", "--check"],
    "mypy": ["mypy"],
    "import contracts": ["importlinter.cli"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_check_passes(name: str) -> None:
    module, *args = CHECKS[name]
    if module == "importlinter.cli":
        command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    else:
        command = [sys.executable, "-m", module, *args]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_readme_holds_what_the_code_prints() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in BLOCKS:
        assert f"<!-- generated: {name} -->" in text
    assert with_blocks(text) == text, "run `python -m diffprof.cli.docs README.md`"


def test_blocks_are_replaced_whole() -> None:
    old = "a\n<!-- generated: rules -->\nSTALE\n<!-- end -->\nb\n"
    new = with_blocks(old)
    assert new.startswith("a\n<!-- generated: rules -->\n| code |")
    assert new.endswith("|\n<!-- end -->\nb\n")
    assert "STALE" not in new
    assert with_blocks(new) == new
