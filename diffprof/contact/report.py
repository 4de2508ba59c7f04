"""The report of a contact: `contact.json`, `contact.html`, and the kernels measured as tables. No torch."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffprof.contact.agreement import data_of, rows, summary
from diffprof.contact.parts import PARTS, Place
from diffprof.contact.store import read, write

MOST_BYTES = 12_000_000
"""Of a report; longer lists are cut, and say so."""

LONGEST = 2000
"""Characters of a value on the page."""

SHOWN = 400
"""Rows of a table on the page; the JSON has all."""

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
    write(folder / "contact.html", page(document, parts).encode())
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


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A measured row under the names of the tables."""
    own = {
        k: v for k, v in row.items() if k not in ("predicted_us", "least_us", "family", "op", "dtype", "us")
    }
    named = {"gemm_dtype": row["dtype"], "attn_dtype": row["dtype"], "causal": 0, "kernel_source": row["op"]}
    shape = " ".join(f"{name}={value}" for name, value in own.items())
    return {**row, **named, "shape": shape}


def _table(columns: Sequence[str], found: Iterable[Mapping[str, Any]]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue().encode()


# --- the page ----------------------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #1c2733; }
h1 { font-size: 1.6rem; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-top: 1px solid #d5dde5; padding-top: 1rem; }
table { border-collapse: collapse; font-size: 13px; margin: .6rem 0; }
td, th { padding: .2rem .7rem; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #9aa8b6; }
tr:nth-child(even) > td { background: #f4f7fa; }
pre { background: #f4f7fa; padding: .6rem; overflow: auto; font-size: 12px; }
.failed { color: #a02020; }
.ok { color: #1f6f3f; }
.note { color: #51606e; }
"""


def page(document: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """The report as one page without scripts and without anything to load."""
    title = "Rehearsal of first contact" if document["rehearsal"] else "First contact"
    wrong = document["disagreements"]
    body = [
        f"<h1>{title}: {_text(document['device'])}</h1>",
        f"<p class=note>Beside it: {_text(document['simulated_beside'])}. {_text(_about(document))}</p>",
        f"<h2>What disagreed ({len(wrong)})</h2>",
        "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in wrong[:SHOWN]) + "</ul>"
        if wrong
        else "<p>Nothing of what was compared.</p>",
        "<h2>Agreement</h2>",
        _rows(("figure", "value"), [(name, _short(value)) for name, value in document["figures"].items()]),
    ]
    if document["not_begun"]:
        body.append(f"<p class=failed>Not begun: {_text(', '.join(document['not_begun']))}.</p>")
    body += [_part(found) for found in parts.values()]
    head = f"<meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"


def _about(document: Mapping[str, Any]) -> str:
    if document["rehearsal"]:
        return (
            "The CPU stands in for the GPU: its times are compared with nothing, and what the device's "
            "dispatcher sees is told by the simulator with the CPU's values."
        )
    return "Times are compared where both are known: 25 % apart is a disagreement."


def _part(found: Mapping[str, Any]) -> str:
    left = found.get("left_out") or ()
    state = "finished" if found.get("finished") else "not finished"
    title = _text(found.get("title", found["part"]))
    text = f"<h2>{title}</h2><p class=note>{state}, {found.get('seconds', '?')} s"
    text += f"; left out for want of time: {_text(', '.join(left))}" if left else ""
    return text + "</p>" + "".join(_item(item) for item in found["items"])


def _item(item: Mapping[str, Any]) -> str:
    ok = item["status"] == "ok"
    head = f"<b class={'ok' if ok else 'failed'}>{_text(item['status'])}</b> {_text(item['key'])}"
    head += "" if item["seconds"] is None else f" <span class=note>{item['seconds']} s</span>"
    if not ok:
        more = f"<pre>{_text(item['traceback'])}</pre>" if item.get("traceback") else ""
        return f"<details><summary>{head}: {_text(item['error'])}</summary>{more}</details>"
    return f"<details><summary>{head}</summary>{_value(item['data'])}</details>"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return _rows(("", ""), [(name, each) for name, each in value.items()])
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        names = list(dict.fromkeys(name for each in value for name in each))
        return _rows(names, [[each.get(name) for name in names] for each in value])
    if isinstance(value, list) and value and all(isinstance(each, list) for each in value):
        return _rows((), value)
    return _text(_short(value))


def _rows(names: Sequence[str], found: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in names)
    lines = [f"<tr>{''.join(f'<td>{_value(each)}</td>' for each in row)}</tr>" for row in found[:SHOWN]]
    more = f"<p class=note>{len(found) - SHOWN} more in contact.json.</p>" if len(found) > SHOWN else ""
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>{more}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return ", ".join(_short(each) for each in value)
    text = "not measured" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{len(text):,} characters, in contact.json"


def _text(value: Any) -> str:
    return html.escape(str(value))
