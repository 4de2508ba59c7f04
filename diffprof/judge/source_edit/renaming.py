"""Names of a source text replaced, all else kept as it is."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Mapping


def rename(source: str, names: Mapping[str, str]) -> str:
    """The source with these names replaced, layout and strings kept."""
    if not re.search("|".join(map(re.escape, names)), source):
        return source
    lines = source.splitlines(keepends=True)
    places = [
        token
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.NAME and token.string in names
    ]
    for token in reversed(places):
        row, column = token.start
        line = lines[row - 1]
        lines[row - 1] = line[:column] + names[token.string] + line[column + len(token.string) :]
    return "".join(lines)
