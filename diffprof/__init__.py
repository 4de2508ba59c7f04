"""diffprof finds what makes a diffusers pipeline slow, with or without the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffprof.model.methods import METHODS

__version__ = "0.1.0"
__all__ = ["Report", "__version__", "allowed", "fit", "load_report", "optimize", "predict", "scan", "watch"]

if TYPE_CHECKING:
    from diffprof.judge.allowed import allowed
    from diffprof.live.watch import watch
    from diffprof.model.report import Report, load_report
    from diffprof.scanning.fitting import fit
    from diffprof.scanning.predicting import predict
    from diffprof.scanning.scan import scan
    from diffprof.tuning.live import optimize

_LAZY = {
    "allowed": "diffprof.judge.allowed",
    "scan": "diffprof.scanning.scan",
    "watch": "diffprof.live.watch",
    "optimize": "diffprof.tuning.live",
    "fit": "diffprof.scanning.fitting",
    "predict": "diffprof.scanning.predicting",
    "Report": "diffprof.model.report",
    "load_report": "diffprof.model.report",
}

METHODS.update(
    {
        "repr": "diffprof.views:one_line",
        "notebook": "diffprof.views.html.notebook:render_cell",
        "render": "diffprof.views:render",
        "failure": "diffprof.views.concise:failure",
        "contact": "diffprof.views.html.contact:render_contact",
        **{
            name: f"diffprof.guard.assertions:{name}"
            for name in (
                "assert_no_waits",
                "assert_fullgraph",
                "assert_no_recompiles",
                "assert_max_memory",
                "assert_time_ratio",
            )
        },
    }
)


def __getattr__(name: str) -> object:
    # `diffprof.scanning.scan` needs torch; showing a report must not pay for it.
    if name not in _LAZY:
        raise AttributeError(f"module 'diffprof' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
