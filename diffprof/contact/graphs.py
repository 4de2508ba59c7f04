"""Part 8: graph breaks and recompiles: what a capture says, and what Dynamo and Inductor do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from diffprof.contact.parts import Place
from diffprof.contact.store import Work


def items(place: Place) -> Iterator[tuple[str, Work]]:
    for name in ("clean", "break", "recompile"):
        yield name, partial(compared, place, name)


def compared(place: Place, planted: str) -> dict[str, Any]:
    """Graph breaks and compiles: told by a scan, and counted while the model is compiled and called."""
    from diffprof.contact import broken
    from diffprof.scanning.scan import scan_target

    target = f"{broken.__file__}:{planted}_pipeline"
    found = scan_target(target, device=place.device, analyzers=("syncs", "graph-breaks"))
    recording = found.recording
    captures = [row for row in recording.captures or () if row.component == "unet"]
    return {
        "told": {
            "breaks": sum(row.breaks for row in captures),
            "recompiles": sum(row.count for row in recording.recompiles or () if row.component == "unet"),
            "fullgraph_ready": all(row.fullgraph_ready for row in captures),
        },
        "counted": _counted(place, planted),
        "rules": sorted({f.rule for f in found.findings if f.rule.startswith("GRB")}),
    }


def _counted(place: Place, planted: str) -> dict[str, object]:
    import torch
    from torch._dynamo.utils import counters

    from diffprof.contact import broken
    from diffprof.devices import resolve_device

    device = resolve_device(place.device)
    torch._dynamo.reset()
    counters.clear()
    with device.active() as where, torch.no_grad():
        pipe, call = getattr(broken, f"{planted}_pipeline")()
        pipe.unet.to(where)
        pipe.unet.compile(backend="inductor" if place.real else "eager")
        pipe(**call)
    breaks = len(counters["graph_break"])
    frames = int(counters["frames"]["ok"])
    torch._dynamo.reset()
    return {"breaks": breaks, "frames": frames, "graphs": int(counters["stats"]["unique_graphs"])}
