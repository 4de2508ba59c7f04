"""Quantization chosen by timing on this CPU, applied, and timed end to end in the same run.

    python tests/benchmarks/bench_quantization.py [target] [budget seconds] [pairs of calls]

On one thread; CPU seconds, since machines are shared. Calls with and without the choice alternate.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")


def keep_freed_memory() -> None:
    """Make glibc's malloc keep what is freed. Else how many pages a call faults in (0.1 to 2 s of 16 s here)
    hangs on what was freed before it, and hides what is measured."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: nothing by mmap
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing given back


def main(target: str, budget_s: float, pairs: int) -> None:
    """Print the table, the choice, and what it really saves."""
    import numpy as np
    import torch

    from diffprof.analyzers.quantization.accuracy import sqnr
    from diffprof.analyzers.quantization.apply import apply_choice
    from diffprof.analyzers.quantization.probe import Instruments, probe_quantization
    from diffprof.devices import resolve_device
    from diffprof.targets import Options, resolve
    from diffprof.targets.undo import restored

    torch.set_num_threads(1)
    keep_freed_memory()
    device = resolve_device("cpu")

    def play(pipeline_call: Any) -> None:
        begin = time.thread_time()
        tools = Instruments(clock=time.thread_time)
        found = probe_quantization(pipeline_call, device, budget_s=budget_s, cache=False, instruments=tools)
        print(f"probe: {time.thread_time() - begin:.0f} s CPU, budget {budget_s:g} s")
        choice = found["quantization"]
        for row in found["linears"]:
            print(
                f"{row.m:7} {row.in_features:5} {row.out_features:6} {row.kind:8} x{row.count:<4} {row.why}"
            )
        for selection in choice.selections:
            print(f"{selection.component}: {len(selection.modules)} layers with {selection.scheme}")
        print(f"left out: {len(choice.left_out)} shapes; not available: {', '.join(choice.unavailable)}")
        spent: dict[str, list[float]] = {"as it is": [], "quantized": []}

        def call(name: str) -> Any:
            """The second call after a change: the first one also fills the allocator's caches."""
            pipeline_call.run()
            begin = time.thread_time()
            made = pipeline_call.run().images
            spent[name].append(time.thread_time() - begin)
            return torch.as_tensor(np.asarray(made))

        for _ in range(pairs):
            before = call("as it is")
            with restored(pipeline_call.pipe):
                apply_choice(pipeline_call.pipe, choice.selections)
                after = call("quantized")
        for name, seconds in spent.items():
            print(
                f"{name:10} {statistics.median(seconds):8.3f} s CPU a call: {[round(s, 2) for s in seconds]}"
            )
        ratios = [b / a for a, b in zip(spent["as it is"], spent["quantized"], strict=True)]
        predicted = 1 - choice.saves_ms / (choice.call_ms or 1)
        noise = sqnr(before, after)
        print(f"ratio {statistics.median(ratios):.3f}, predicted {predicted:.3f}; image {noise:.0f} dB")

    with device.active():
        resolve(target).run(play, device, Options())


if __name__ == "__main__":
    given = sys.argv[1:]
    main(
        given[0] if given else f"{Path(__file__).with_name('mid_sdxl.py')}:make",
        float(given[1]) if len(given) > 1 else 120.0,
        int(given[2]) if len(given) > 2 else 3,
    )
