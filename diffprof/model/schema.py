"""The JSON Schema of what diffprof stores and prints: a report, a ladder. `python -m diffprof.cli.docs`
writes the file that the wheel carries."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from inspect import cleandoc
from pathlib import Path
from typing import Any

import msgspec

from diffprof.model.ladder import Ladder
from diffprof.model.recording import SCHEMA
from diffprof.model.report import Report

SCHEMA_FILE = "report.schema.json"


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12, made from the structs. Keys that a later version adds are allowed by it."""
    (report, ladder), definitions = msgspec.json.schema_components(
        [Report, Ladder], ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"diffprof-report-{SCHEMA}",
        "title": "What diffprof stores and prints with --format json",
        "anyOf": [report, ladder],
        "$defs": dict(sorted(definitions.items())),
    }


def as_text() -> str:
    """The file's text."""
    return msgspec.json.format(msgspec.json.encode(_flush(schema())), indent=1).decode() + "\n"


def _flush(part: object) -> object:
    """Descriptions without the indentation of the code, which msgspec took off before 0.23."""
    if isinstance(part, Mapping):
        return {
            key: cleandoc(value) if key == "description" and isinstance(value, str) else _flush(value)
            for key, value in part.items()
        }
    return [_flush(each) for each in part] if isinstance(part, list | tuple) else part


def shipped() -> str:
    """The file that this installation carries."""
    return files("diffprof.model").joinpath(SCHEMA_FILE).read_text(encoding="utf-8")


def write_schema() -> None:
    """Write that file anew."""
    Path(__file__).with_name(SCHEMA_FILE).write_text(as_text(), encoding="utf-8")
