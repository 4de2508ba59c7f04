"""Traces that others recorded on real accelerators, by repository and commit, and what they hold.

`python -m tests.chrome_trace.public_traces FOLDER` fetches what is not in FOLDER yet (6 MB). None of them
is part of this repository: `public_traces.json` holds sums of them, which `sums` computes from the raw JSON.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HTA = "facebookresearch/HolisticTraceAnalysis", "f4d0062c382f42bd8a74838bcdad1916c7d5d2da"
TRACE_LENS = "AMD-AGI/TraceLens", "171dd74721ca1ec45709e5805b68ae1f65e27811"


@dataclass(frozen=True)
class Public:
    """A trace in a public repository. name: of its file here, without `.json.gz`."""

    name: str
    source: tuple[str, str]
    path: str

    @property
    def url(self) -> str:
        repository, commit = self.source
        return f"https://raw.githubusercontent.com/{repository}/{commit}/{self.path}"


FETCHED = (
    Public("queue-length-a100", HTA, "tests/data/negative_queue_length_values_check/rank0.json.gz"),
    Public("inference-mtia", HTA, "tests/data/mtia_inference_trace/mtia_inference_rank_0.json.gz"),
    Public("training-v100", HTA, "tests/data/trace_diff/test/test.json.gz"),
    Public(
        "timesformer-h100",
        TRACE_LENS,
        "tests/traces/h100/facebook_timesformer-base-finetuned-k400__1016002.json.gz",
    ),
    Public(
        "timesformer-mi300",
        TRACE_LENS,
        "tests/traces/mi300/facebook_timesformer-base-finetuned-k400__1016002.json.gz",
    ),
    Public(
        "decode-mi300",
        TRACE_LENS,
        "tests/traces/inference/sglang_decode/sglang_Qwen3-8B_decode.json.gz",
    ),
)

_WAITING = re.compile(r"ynchroni[sz]e|^(?:cuda|cu|hip)Memcpy(?!.*(?:Async|Peer))")


def sums(path: Path) -> dict[str, Any]:
    """Blocked and busy time in microseconds, and counts, straight from the JSON.

    Blocked: in synchronizes, in copies that are blocking by name, in copies to pageable memory, and in copies
    from there with a synchronize next on their thread. Busy: at least one stream of the device that works
    longest.
    """
    document = json.loads(gzip.decompress(path.read_bytes()))
    events = sorted((e for e in document["traceEvents"] if e.get("ph") == "X"), key=lambda e: float(e["ts"]))
    pageable = {
        e["args"]["correlation"]: e["name"]
        for e in events
        if e["cat"] == "gpu_memcpy" and "Pageable" in e["name"]
    }
    blocked, busy, counts = 0.0, defaultdict(list), {"kernels": 0, "copies": 0}
    staged: dict[Any, float] = {}
    for e in events:
        cat, args, thread = e["cat"], e.get("args", {}), (e["pid"], e["tid"])
        if cat.endswith(("_runtime", "_driver")) and e["pid"] != args.get("device"):
            copied = pageable.get(args.get("correlation"), "") if "emcpy" in e["name"] else ""
            waits = _WAITING.search(e["name"]) or copied.endswith("Pageable)")
            before = staged.pop(thread, 0.0) if "ynchroni" in e["name"] else 0.0
            blocked += float(e["dur"]) + before if waits else 0.0
            staged[thread] = float(e["dur"]) if copied and not waits else 0.0
        elif cat in ("kernel", "gpu_memcpy", "gpu_memset", "mtia_ccp_events") and "event_" not in e["name"]:
            busy[e["pid"]].append((float(e["ts"]), float(e["ts"]) + float(e["dur"])))
            counts["copies"] += cat == "gpu_memcpy" or e["name"].startswith("dma_")
            counts["kernels"] += cat.startswith(("kernel", "mtia")) and not e["name"].startswith("dma_")
    return {
        "blocked_us": round(blocked, 3),
        "busy_us": round(max(map(_union, busy.values()), default=0), 3),
        **counts,
    }


def _union(spans: list[tuple[float, float]]) -> float:
    covered, reach = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return covered


def fetch(folder: Path) -> None:
    """Put what is not there yet into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in FETCHED:
        target = folder / f"{each.name}.json.gz"
        if not target.exists():
            with urllib.request.urlopen(each.url, timeout=60) as answer:
                target.write_bytes(answer.read())
            print(f"{each.name}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
