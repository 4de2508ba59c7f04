"""Names out of a recording as Python source. A recording may be somebody else's file: what stands in it is
data, and must not become a statement."""

from __future__ import annotations

import keyword
import shlex


class NotAName(ValueError):
    """What stands where a name belongs can't be one."""


def dotted(name: str) -> str:
    """A name such as `unet` or `prior_pipe.prior`, fit to stand in source.

    Raises NotAName for anything but identifiers with dots between, and for names that begin with two
    underscores.
    """
    for part in str(name).split("."):
        if not part.isidentifier() or keyword.iskeyword(part) or part.startswith("__"):
            raise NotAName(f"{str(name)[:60]!r} is no name of a component")
    return name


def quoted(text: str) -> str:
    """A Python literal of the text, in double quotes where it holds none."""
    literal = repr(str(text))
    return f'"{literal[1:-1]}"' if literal[0] == "'" and '"' not in literal else literal


def shell(word: object) -> str:
    """One word of a command that a person may copy into a shell."""
    return shlex.quote(str(word))
