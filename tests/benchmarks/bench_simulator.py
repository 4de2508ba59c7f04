"""Speed of the simulated device on SDXL at full size; prints figures, judges nothing.

    python tests/benchmarks/bench_simulator.py [--steps 3]

CPU seconds of this process. The ratio compares one UNet forward with the same forward on `meta`.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch

from diffprof.devices.simulated import Observer, empty_weights, place, simulated_gpu
from diffprof.devices.simulated.session import SESSION

CONFIGS = Path(__file__).parents[2] / "diffprof" / "targets" / "architectures" / "sdxl"


class Count(Observer):
    def __init__(self) -> None:
        self.ops = self.waits = 0
        self.signatures: set[int] = set()

    def op(self, signature: Any) -> None:
        self.ops += 1
        self.signatures.add(signature.id)

    def blocking(self, event: Any) -> None:
        self.waits += 1


def config(part: str) -> dict[str, Any]:
    return json.loads((CONFIGS / part / "config.json").read_text())


def build() -> tuple[torch.nn.Module, ...]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    return (
        UNet2DConditionModel.from_config(config("unet")),
        AutoencoderKL.from_config(config("vae")),
        CLIPTextModel(CLIPTextConfig(**config("text_encoder"))),
        CLIPTextModelWithProjection(CLIPTextConfig(**config("text_encoder_2"))),
    )


def denoise(unet: Any, device: Any, dtype: torch.dtype) -> None:
    unet(
        torch.zeros(2, 4, 128, 128, device=device, dtype=dtype),
        torch.ones((), device=device),
        torch.zeros(2, 77, 2048, device=device, dtype=dtype),
        added_cond_kwargs={
            "text_embeds": torch.zeros(2, 1280, device=device, dtype=dtype),
            "time_ids": torch.zeros(2, 6, device=device, dtype=dtype),
        },
    )


def timed(label: str, run: Any) -> tuple[Any, float]:
    start = time.process_time()
    out = run()
    seconds = time.process_time() - start
    print(f"{label:<34}{seconds:8.3f} s")
    return out, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    steps = parser.parse_args().steps
    timed("import", lambda: __import__("diffusers").StableDiffusionXLPipeline)
    count = Count()
    dtype = torch.float16
    with simulated_gpu(count) as device, torch.no_grad():

        def make() -> tuple[torch.nn.Module, ...]:
            with empty_weights(dtype):
                made = build()
            return tuple(place(m.to(dtype), values="unknown") for m in made)

        (unet, vae, first, second), _ = timed("build and place", make)
        print(f"{'parameters':<34}{sum(p.numel() for p in unet.parameters()) / 1e9:8.3f} 1e9 (UNet)")
        ids = torch.zeros(1, 77, dtype=torch.long, device=device)
        _, cold = timed(
            f"encode, {steps} steps, decode: cold",
            lambda: (
                [e(ids) for e in (first, second)],
                [denoise(unet, device, dtype) for _ in range(steps)],
                vae.decode(torch.zeros(1, 4, 128, 128, device=device, dtype=dtype)),
            ),
        )
        print(f"{'ops':<34}{SESSION.ops:8d}   {SESSION.ops / cold:,.0f} a second")
        print(f"{'memo hits, misses':<34}{SESSION.hits:8d} {SESSION.misses:8d}")
        print(f"{'launches, distinct':<34}{count.ops:8d} {len(count.signatures):8d}")
        _, warm = timed("UNet forward, warm", lambda: denoise(unet, device, dtype))
        print(f"{'device memory, peak':<34}{SESSION.peak / 2**30:8.2f} GiB")
    with torch.device("meta"), torch.no_grad():
        from diffusers import UNet2DConditionModel

        plain = UNet2DConditionModel.from_config(config("unet")).to(dtype)
        denoise(plain, "meta", dtype)
        _, meta = timed("UNet forward on meta", lambda: denoise(plain, "meta", dtype))
    print(f"{'simulated / meta':<34}{warm / meta:8.3f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{'peak memory of the process':<34}{peak:8.2f} GiB")


if __name__ == "__main__":
    main()
