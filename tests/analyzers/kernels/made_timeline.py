"""Timelines of a denoising loop in a few words, for examples and tests of rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffprof.model.recording import Grade, KernelKind, PhaseSpan, Timeline


@dataclass
class MadeTimeline:
    """Adds events to a loop of `steps` equal steps; every kernel is launched by the denoiser unless said."""

    steps: int = 4
    device_scale: float = 1.0
    kinds: list[KernelKind] = field(default_factory=list)
    denoiser: list[tuple[int, float, float, int]] = field(default_factory=list)
    scheduler: list[tuple[int, float, float, int]] = field(default_factory=list)
    between: list[tuple[int, float, float, int]] = field(default_factory=list)

    def launch(
        self,
        name: str,
        device_us: float,
        host_us: float = 10.0,
        *,
        times: int = 1,
        part: str = "denoiser",
        sync: int = -1,
        **more: Any,
    ) -> MadeTimeline:
        """`times` kernels of one kind in every step."""
        fields: dict[str, Any] = {"op": name, "family": "pointwise", "dtype": "bfloat16", **more}
        self.kinds.append(KernelKind(name=name, device_us=device_us, **fields))
        self._part(part).extend([(len(self.kinds) - 1, host_us, device_us, sync)] * times)
        return self

    def wait(self, row: int = -2, host_us: float = 10.0, *, part: str = "scheduler") -> MadeTimeline:
        """The host waits in every step."""
        self._part(part).append((-1, host_us, 0.0, row))
        return self

    def python(self, host_us: float, *, part: str = "between") -> MadeTimeline:
        """Python that launches nothing."""
        self._part(part).append((-1, host_us, 0.0, -1))
        return self

    def _part(self, name: str) -> list[tuple[int, float, float, int]]:
        return {"denoiser": self.denoiser, "scheduler": self.scheduler, "between": self.between}[name]

    def timeline(self, **more: Any) -> Timeline:
        """All steps, one after the other."""
        events: list[tuple[int, float, float, int]] = []
        phases: list[PhaseSpan] = []
        for step in range(self.steps):
            for part, items in (
                ("denoiser", self.denoiser),
                ("scheduler", self.scheduler),
                (None, self.between),
            ):
                if items:
                    first = len(events)
                    events += items
                    phases.append(
                        PhaseSpan(name="denoise", step=step, part=part, first=first, last=len(events))
                    )
        fields: dict[str, Any] = {
            "grade": Grade.SIMULATED,
            "kinds": tuple(self.kinds),
            "phases": tuple(phases),
            "kind": tuple(e[0] for e in events),
            "module": (-1,) * len(events),
            "host_us": tuple(e[1] for e in events),
            "device_us": tuple(e[2] for e in events),
            "stream": (0,) * len(events),
            "sync": tuple(e[3] for e in events),
            "launch_latency_us": 5.0,
            "sync_latency_us": 6.0,
        }
        return Timeline(**{**fields, **more})


def fed(**more: Any) -> MadeTimeline:
    """A healthy loop: long matmuls, a host far ahead, a scheduler of two short kernels."""
    return (
        MadeTimeline(**more)
        .launch("linear", 400.0, times=50, family="gemm", op="linear", flops=8e10)
        .launch("mul", 5.0, times=2, part="scheduler")
    )
