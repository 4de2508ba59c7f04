"""The report of a contact: `contact.json`, `contact.html`, and the kernels measured as tables. No torch."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffprof.contact.agreement import data_of, rows, summary
from diffprof.contact.parts import PARTS, Place
from diffprof.contact.store import read, write
from diffprof.model.methods import method

MOST_BYTES = 12_000_000
"""Of a report; longer lists are cut, and say so."""

GEMM = ("gemm_dtype", "framework", "version", "kernel_source", "m", "n", "k", "us")
ATTENTION = (
    *("causal", "framework", "version", "kernel_source", "attn_dtype", "batch_size", "tokens", "num_heads"),
    *("head_dim", "us"),
)
OTHER = ("gpu", "family", "op", "dtype", "shape", "us", "version")


def write_report(folder: Path, place: Place) -> None:
    """From what is stored now, whole or not."""
    parts = {part.key: found for part in PARTS if (found := read(folder / "parts" / f"{part.key}.json"))}
    document = {
        "device": place.device,
        "simulated_beside": place.simulated,
        "rehearsal": not place.real,
        "short": place.short,
        **summary(parts, timed=place.real),
        "not_begun": [part.key for part in PARTS if part.key not in parts],
        "parts": parts,
    }
    data = json.dumps(document, indent=1, default=str).encode()
    if len(data) > MOST_BYTES:
        data = json.dumps({**document, "parts": "left out: over 12 MB; parts/ has them"}, indent=1).encode()
    write(folder / "contact.json", data)
    write(folder / "contact.html", method("contact")(document, parts).encode())
    if place.real:
        _write_kernels(folder, parts)
        _write_calibration(folder, parts)


# --- tables of kernels -------------------------------------------------------------------------------------


def _write_kernels(folder: Path, parts: Mapping[str, Any]) -> None:
    found = [row for row in rows(parts) if row.get("us")]
    if not found:
        return
    device = data_of(parts, "environment").get("device", {})
    version = data_of(parts, "environment").get("software", {}).get("packages", {}).get("torch")
    shared = {"framework": "PyTorch", "version": version, "gpu": device.get("name")}
    for name, columns, family in (("gemm", GEMM, "gemm"), ("attention", ATTENTION, "attention")):
        mine = [{**shared, **_columns(row)} for row in found if row["family"] == family]
        write(folder / f"kernels-{name}.csv", _table(columns, mine))
    rest = [{**shared, **_columns(row)} for row in found if row["family"] not in ("gemm", "attention")]
    write(folder / "kernels-other.csv", _table(OTHER, rest))


def _write_calibration(folder: Path, parts: Mapping[str, Any]) -> None:
    """The file that `diffprof calibrate --from` takes."""
    found = data_of(parts, "kernels").get("calibration")
    if found:
        write(folder / f"calibration-{found['gpu']}.npz", base64.b64decode(found["file"]))


def _columns(row: Mapping[str, object]) -> dict[str, object]:
    """A measured row under the names of the tables."""
    own = {
        k: v for k, v in row.items() if k not in ("predicted_us", "least_us", "family", "op", "dtype", "us")
    }
    named = {"gemm_dtype": row["dtype"], "attn_dtype": row["dtype"], "causal": 0, "kernel_source": row["op"]}
    shape = " ".join(f"{name}={value}" for name, value in own.items())
    return {**row, **named, "shape": shape}


def _table(columns: Sequence[str], found: Iterable[Mapping[str, object]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue().encode()
