"""A line of source in the user's own editor."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffprof.model.recording import Site

_GOTO = {"code": "--goto {file}:{line}", "codium": "--goto {file}:{line}", "subl": "{file}:{line}"}
"""Editors that do not take `+line file`, which vi, emacs, nano and most others do."""


def source_file(site: Site, path: Sequence[str] = sys.path) -> Path | None:
    """The file of a site on this machine, if it is here: the user's as typed, a package's from `path`."""
    folders = [Path()] if site.user_code else [Path(folder) for folder in path if folder]
    for folder in folders:
        file = folder / site.file
        if file.is_file():
            return file
    return None


def editor_command(file: Path, line: int, environment: Mapping[str, str] = os.environ) -> list[str] | None:
    """What opens a file at a line: $VISUAL, $EDITOR, or an editor that is installed; None without one."""
    named = environment.get("VISUAL") or environment.get("EDITOR")
    words = (
        shlex.split(named) if named else [name for name in ("vim", "vi", "nano") if shutil.which(name)][:1]
    )
    if not words:
        return None
    form = _GOTO.get(Path(words[0]).name, "+{line} {file}")
    return [*words, *(part.format(file=file, line=max(line, 1)) for part in form.split())]
