"""Hold predictions for several GPUs against published seconds, and write the table of
`diffprof/docs/several-gpus.md`.

    python tests/benchmarks/bench_parallel.py
"""

from __future__ import annotations

import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from diffprof.gpu import parallel
from diffprof.scanning.parallel import predict_parallel
from diffprof.targets import Options
from diffprof.views.markdown_text import table

PAGE = Path(__file__).parents[2] / "diffprof/docs/several-gpus.md"
PUBLISHED = Path(__file__).with_name("published_parallel.toml")
START, END = "<!-- published -->\n", "<!-- end -->\n"


def main() -> None:
    sources = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))["source"]
    rows = [row for source in sources for row in held(source)]
    errors = np.array([row[-1] for row in rows])
    several = np.array([row[-1] for row in rows if row[3] > 1])
    shown = [(*row[:-3], f"{row[-3]:.2f}", f"{row[-2]:.2f}", f"{100 * row[-1]:+.0f}%") for row in rows]
    text = table(("source", "GPU", "mode", "GPUs", "split", "published s", "predicted s", "error"), shown)
    told = (
        f"{len(several)} figures of several GPUs: median error {100 * np.median(np.abs(several)):.0f} %, "
        f"mean {100 * several.mean():+.0f} %; with the {len(errors) - len(several)} of one GPU beside them "
        f"{100 * np.median(np.abs(errors)):.0f} %.\n"
    )
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{START}{told}\n{text}\n{END}{after}", encoding="utf-8")


def held(source: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Rows with published and predicted seconds, and the error."""
    counts = sorted({u * r for u, r in (row["split"] for row in source["rows"])} - {1})
    plain = mock.patch.multiple(parallel, SHARE_OPS=1, CHUNK_OPS=0)
    with plain if source.get("plain") else nullcontext():
        found = predict_parallel(
            source["target"],
            devices=(source["device"],),
            gpus=counts,
            modes=(source["mode"],),
            steps=source["steps"],
            options=Options(**source.get("options", {})),
        )
    by_split = {(each.gpus, each.parallel): each.seconds for each in found}
    rows = []
    for row in source["rows"]:
        ulysses, ring = row["split"]
        gpus = ulysses * ring
        name = (
            None if gpus == 1 else "unified" if min(ulysses, ring) > 1 else "ring" if ring > 1 else "ulysses"
        )
        predicted = by_split[gpus, name]
        assert predicted is not None
        error = predicted / row["seconds"] - 1.0
        rows.append(
            (
                source["name"],
                source["device"],
                source["mode"],
                gpus,
                name or "",
                row["seconds"],
                predicted,
                error,
            )
        )
    return rows


if __name__ == "__main__":
    main()
