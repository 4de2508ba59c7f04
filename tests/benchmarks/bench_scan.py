"""Full-size SDXL on a simulated GPU: where a scan's time goes, beside one plain UNet forward on `meta`.

    python tests/benchmarks/bench_scan.py [steps]

All in one process and one run, on one thread; CPU seconds beside wall seconds, since machines are shared.
"""

from __future__ import annotations

import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")


class Clock:
    """Wall and CPU seconds since it was last asked."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def lap(self) -> tuple[float, float]:
        taken = time.perf_counter() - self.wall, time.process_time() - self.cpu
        self.start()
        return taken


def show(name: str, taken: tuple[float, float]) -> None:
    print(f"{name:<28} {taken[0]:8.2f} s wall {taken[1]:8.2f} s CPU")


def meta_forward() -> tuple[float, float]:
    """One forward of the SDXL UNet on `meta`, classifier-free guidance at 1024 px."""
    import torch

    from diffprof.devices import resolve_device
    from diffprof.targets import Options, resolve

    device = resolve_device("sim:a100-80gb")
    held = []
    with device.active():
        resolve("sdxl").run(lambda call: held.append(call.pipe.unet.config), device, Options())
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(held[0]).eval()
        inputs = {
            "sample": torch.empty(2, 4, 128, 128),
            "timestep": torch.tensor(1.0),
            "encoder_hidden_states": torch.empty(2, 77, 2048),
            "added_cond_kwargs": {"text_embeds": torch.empty(2, 1280), "time_ids": torch.empty(2, 6)},
        }
        with torch.no_grad():
            clock = Clock()
            unet(**inputs)
            return clock.lap()


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    total = Clock()
    clock = Clock()
    from diffusers import StableDiffusionXLPipeline

    assert StableDiffusionXLPipeline
    importing = clock.lap()
    import resource

    from diffprof.devices.simulated.session import SESSION
    from diffprof.scanning.scan import scan_target
    from diffprof.targets import Options

    show("import of the pipeline class", importing)
    clock.start()
    recording = scan_target("sdxl", device="sim:a100-80gb", options=Options(steps=steps)).recording
    scanned = clock.lap()
    whole = total.lap()
    seconds = recording.seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    show("build and scan", scanned)
    for name, value in seconds.items():
        print(f"  {name:<26} {value:8.2f} s wall")
    ops = recording.ops or 0
    print(f"{'operations':<28} {ops:8,} ({ops / seconds['scan']:,.0f} a second)")
    print(f"{'memo':<28} {SESSION.hits:8,} hits, {SESSION.misses:,} misses")
    print(f"{'blocking operations':<28} {sum(row.count for row in recording.syncs or ()):8,}")
    print(f"{'peak memory':<28} {peak:8.2f} GB")
    print(f"{'all / import':<28} {whole[1] / importing[1]:8.2f} (CPU seconds)")
    forward = meta_forward()
    show("plain UNet forward on meta", forward)
    print(f"{'scan / that forward':<28} {seconds['scan'] / forward[0]:8.2f} (wall seconds)")


if __name__ == "__main__":
    main()
