"""diffprof finds what makes a diffusers pipeline slow, with or without the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Report", "__version__", "load_report", "optimize", "scan", "watch"]

if TYPE_CHECKING:
    from diffprof.report import Report, load_report
    from diffprof.scanning import scan, watch
    from diffprof.tuning.live import optimize

_LAZY = {
    "scan": "diffprof.scanning",
    "watch": "diffprof.scanning",
    "optimize": "diffprof.tuning.live",
    "Report": "diffprof.report",
    "load_report": "diffprof.report",
}


def __getattr__(name: str) -> Any:
    # `diffprof.scanning` needs torch; showing a report must not pay for it.
    if name not in _LAZY:
        raise AttributeError(f"module 'diffprof' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
