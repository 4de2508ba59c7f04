"""For each quantization rule, a recording that fires exactly it, and its mended form."""

from __future__ import annotations

from typing import Any

from diffprof.model.recording import Grade, LinearRow, Quantization, Recording, SchemeTiming, Selection
from tests.builders import make_recording

MODULE = "blocks.0.ff"


def make_timing(gain_us: float = 40.0, **more: Any) -> SchemeTiming:
    """100 us before, timed in 11 rounds with a spread of 2 us."""
    defaults: dict[str, Any] = {
        "scheme": "int8-dynamic",
        "mode": "compiled",
        "grade": Grade.MEASURED,
        "original_us": 100.0,
        "median_us": 100.0 - gain_us,
        "spread_us": 1.0,
        "gain_us": gain_us,
        "gain_spread_us": 2.0,
        "rounds": 11,
    }
    return SchemeTiming(**{**defaults, **more})


def make_row(*timings: SchemeTiming, **more: Any) -> LinearRow:
    """One linear of the UNet, called once in each of four steps."""
    defaults: dict[str, Any] = {
        "m": 2048,
        "in_features": 1280,
        "out_features": 5120,
        "dtype": "bfloat16",
        "modules": (f"unet.{MODULE}",),
        "count": 4,
        "per_step": 1.0,
        "phases": {"denoise": 4},
        "share": 0.1,
        "timings": timings,
        "scheme": timings[0].scheme if timings else None,
        "worth_it": False,
        "why": "no gain",
    }
    return LinearRow(**{**defaults, **more})


def make_quantization(**more: Any) -> Quantization:
    """Decided by compiled timings, with a floor of 20 dB; nothing chosen."""
    defaults: dict[str, Any] = {
        "grade": Grade.MEASURED,
        "mode": "compiled",
        "min_sqnr_db": 20.0,
        "accuracy": "activations of the call",
    }
    return Quantization(**{**defaults, **more})


def make_selection(**more: Any) -> Selection:
    """The one linear of `make_row`, in int8."""
    defaults: dict[str, Any] = {
        "component": "unet",
        "scheme": "int8-dynamic",
        "modules": (MODULE,),
        "config": "Config()",
        "filter_source": "def filter_fn(module, fqn): ...",
        "snippet": "quantize_(pipe.unet, Config(), filter_fn)",
        "saves_ms": 0.16,
    }
    return Selection(**{**defaults, **more})


def recorded(*rows: LinearRow, **more: Any) -> Recording:
    """A recording of these linears and nothing else."""
    return make_recording(syncs=(), linears=rows, quantization=make_quantization(**more))


GAINS = make_row(make_timing(), worth_it=True, why="1.67 times as fast", sqnr_db={f"unet.{MODULE}": 38.0})
LOSES = make_row(make_timing(-30.0))
QUANTIZED = make_row(make_timing(-30.0), quantized="int8-dynamic")

BAD: dict[str, Recording] = {
    "QNT001": recorded(GAINS, selections=(make_selection(),)),
    "QNT002": recorded(LOSES),
    "QNT003": recorded(make_row(make_timing(), sqnr_db={f"unet.{MODULE}": 12.0})),
    "QNT004": recorded(QUANTIZED),
    "QNT005": recorded(disorder=("unet.x.lora_A.default is part of a LoRA adapter and is quantized",)),
}

GOOD: dict[str, Recording] = {
    "QNT001": recorded(make_row(make_timing(), quantized="int8-dynamic")),
    "QNT002": recorded(GAINS, selections=(make_selection(),)),
    "QNT003": recorded(GAINS, selections=(make_selection(),)),
    "QNT004": recorded(make_row(make_timing(), quantized="int8-dynamic")),
    "QNT005": recorded(GAINS, selections=(make_selection(),)),
}
