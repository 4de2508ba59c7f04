"""Names of the units that the stock pages count memory in: they divide by 1024 and write GB."""

from __future__ import annotations

import re
from typing import Any

_COLUMN = re.compile(r"\(([KMG])B\)")
_FIGURE = re.compile(r"(\d) ?([KMG])B\b")


def binary_units(text: str) -> str:
    """`Allocated (GB)` -> `Allocated (GiB)`, `17.7GB` -> `17.7 GiB`."""
    return _FIGURE.sub(r"\1 \2iB", _COLUMN.sub(r"(\1iB)", text))


def in_binary_units(content: dict[str, Any]) -> dict[str, object]:
    """A table or curve of the memory page, with the units in its columns, its order and its peaks named as
    what they are; rows are left alone."""
    about = dict(content["metadata"])
    if "sort" in about:
        about["sort"] = binary_units(about["sort"])
    if "peaks" in about:
        about["peaks"] = {device: binary_units(peak) for device, peak in about["peaks"].items()}
    columns = [{**column, "name": binary_units(column["name"])} for column in content["columns"]]
    return {**content, "metadata": about, "columns": columns}
