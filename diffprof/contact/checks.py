"""Part 2: what only a CUDA device can show. Each check raises AssertionError where it does not hold; the
tests marked `gpu` are these. On the CPU those run that do not need a device of their own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffprof.contact.parts import Place
from diffprof.contact.store import Work

if TYPE_CHECKING:
    from diffprof.devices.simulated import Blocking

Check = Callable[[Place], dict[str, Any]]

TINY = ("--steps", "2", "--height", "64", "--width", "64")


def items(place: Place) -> Iterator[tuple[str, Work]]:
    for name, check in (*CHECKS.items(), *(CUDA_CHECKS.items() if place.real else ())):
        yield name, partial(check, place)


# --- whole commands --------------------------------------------------------------------------------------


def scan(place: Place) -> dict[str, Any]:
    """`diffprof scan tiny-sdxl`: waits, times, kernels and memory are measured on the device named."""
    with workplace() as folder:
        _command("scan", "tiny-sdxl", "--device", place.device, *TINY, "--scheduler", "DDIMScheduler")
        recording = _stored(folder, "report.json")["recording"]
    assert recording["timing"]["median"] > 0, recording["timing"]
    assert len(recording["syncs"]) > 0
    assert recording["kernels"]
    if place.real:
        assert recording["device"]["spec"].startswith("cuda:")
        memory = recording["memory"]
        assert memory["weights_bytes"] <= memory["peak_bytes"] <= memory["capacity_bytes"], memory
        assert 0 < recording["timing"]["device_busy"] <= 1, recording["timing"]
        unheard = [gap["what"] for gap in recording["unseen"] if gap["kind"] == "doubt"]
        assert not unheard, unheard
    return {"call_s": recording["timing"]["median"], "sites": len(recording["syncs"])}


def ladder(place: Place) -> dict[str, Any]:
    """`diffprof ladder`: each rung has a time, or says why not; none of them holds what another left."""
    with workplace() as folder:
        rungs = ("--rung", "bf16", "--rung", "sdpa")
        _command("ladder", "tiny-sdxl", "--device", place.device, *TINY, *rungs)
        found = _stored(folder, "ladder.json")["rungs"]
    assert [rung["name"] for rung in found] == ["bf16", "sdpa"]
    assert all(rung["seconds"] for rung in found), found
    if place.real:
        peaks = [rung["memory_gb"] for rung in found]
        assert max(peaks) < 1.5 * min(peaks), peaks
    return {rung["name"]: [rung["seconds"], rung["memory_gb"]] for rung in found}


def fix(place: Place) -> dict[str, object]:
    """`diffprof fix --apply`: an exact fix is kept, and leaves the output as it was."""
    with workplace() as folder:
        _command("scan", "tiny-sdxl", "--device", place.device, *TINY, "--scheduler", "DDIMScheduler")
        _command("fix", "--apply", "--select", "host-timesteps")
        runs = [json.loads(file.read_text()) for file in folder.glob("traces/*/report.json")]
    (outcome,) = [o for run in runs for o in run["outcomes"] or () if o["fix"] == "host-timesteps"]
    assert outcome["status"] == "kept", outcome["why"]
    assert outcome["difference"]["bit_equal"] is True, outcome["difference"]
    return {name: outcome[name] for name in ("status", "why", "before_ms", "after_ms", "in_loop_after")}


def quantize_table(place: Place) -> dict[str, object]:
    """`diffprof quantize-table`: every scheme is timed, or says why not."""
    with workplace():
        few = ("--steps", "1", "--height", "64", "--width", "64", "--budget", "15", "--no-cache")
        text = _command("quantize-table", "tiny-sdxl", "--device", place.device, *few, "--format", "json")
    found = json.loads(text)
    timed = [t for row in found["shapes"] for t in row["timings"] or ()]
    assert timed
    assert all(t["median_us"] or t["why_not"] for t in timed)
    return {"shapes": len(found["shapes"]), "timed": sum(1 for t in timed if t["median_us"])}


# --- the boundary ----------------------------------------------------------------------------------------


def both_witnesses(place: Place) -> dict[str, object]:
    """The dispatcher's table and the sync debug mode name the same waits."""
    import torch

    from diffprof.devices import cuda_runtime, resolve_device
    from diffprof.devices.cuda import BlockingMode, sync_warnings
    from diffprof.devices.simulated import Observer

    class Kinds(Observer):
        def blocking(self, event: Blocking) -> None:
            kinds.append(str(event.kind))

    kinds: list[str] = []
    heard: list[str] = []
    device = resolve_device(place.device)
    with device.active() as where:
        x = torch.ones(4, device=where)
        with sync_warnings(heard.append), BlockingMode(Kinds(), cuda_runtime.RUNTIME.holds):
            x.sum().item()
            x.nonzero()
            x.cpu()
    assert kinds == ["value-read", "data-dependent-shape", "device-to-host"], kinds
    assert len(heard) == 3, heard
    return {"kinds": kinds, "warnings": len(heard)}


def events(place: Place) -> dict[str, object]:
    """Events time kernels alone: work whose launches take the CPU long is as fast as without."""
    import time

    import torch

    from diffprof.devices import resolve_device
    from diffprof.devices.stopwatches import EventRunner

    device = resolve_device(place.device)
    with device.active() as where:
        matrix = torch.randn(2048, 2048, device=where, dtype=torch.bfloat16)
        runner = EventRunner(device.index)  # type: ignore[attr-defined]

        def slowly() -> None:
            end = time.perf_counter() + 500e-6
            while time.perf_counter() < end:
                pass
            matrix @ matrix

        quick = min(runner.microseconds(lambda: matrix @ matrix) for _ in range(5))
        slow = min(runner.microseconds(slowly) for _ in range(5))
    assert runner.host_bound == 0, "the fills ended before the work was queued"
    assert slow < 1.3 * quick + 5, (quick, slow)
    return {"quick_us": quick, "slow_us": slow, "fills": runner.fills}


def parked(place: Place) -> dict[str, object]:
    """What only undoing needs leaves the device, and comes back with its bytes."""
    import torch

    from diffprof.devices import cuda_runtime, resolve_device
    from diffprof.devices.storages import Storages
    from diffprof.targets.undo import Snapshot

    device = resolve_device(place.device)
    runtime, index = cuda_runtime.RUNTIME, device.index  # type: ignore[attr-defined]
    with device.active() as where:
        layer = torch.nn.Linear(4096, 4096, device=where)
        values = layer.weight.detach().clone()
        storages = Storages(where)
        before = Snapshot(layer, storages=storages)
        held = runtime.allocated_bytes(index)
        layer.to(torch.bfloat16)
        storages.park([layer])
        halved = runtime.allocated_bytes(index)
        before.restore()
        same = torch.equal(layer.weight, values)
    saved = held - halved
    assert same
    assert saved == 4096 * 4096 * 2 + 4096 * 2, saved
    return {"saved_bytes": saved}


CHECKS: dict[str, Check] = {"scan": scan, "fix": fix, "ladder": ladder, "quantize-table": quantize_table}
CUDA_CHECKS: dict[str, Check] = {"both-witnesses": both_witnesses, "events": events, "parked": parked}


@contextmanager
def workplace() -> Iterator[Path]:
    """An empty working directory for commands."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="diffprof-contact-") as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def _command(*args: str) -> str:
    """Run a command of diffprof in this process; gives its standard output."""
    from click.testing import CliRunner

    from diffprof.cli.app import app

    result = CliRunner().invoke(app, [*args, "-q"], prog_name="diffprof")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, f"{' '.join(args)} ended with {result.exit_code}: {result.stderr[-800:]}"
    return result.stdout


def _stored(folder: Path, name: str) -> Any:
    (file,) = folder.glob(f"traces/*/{name}")
    return json.loads(file.read_text())
