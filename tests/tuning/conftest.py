"""A small pipeline on the CPU, fixes made up for a test, and a check that the process is as before."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from diffprof.judge import plan as planning
from diffprof.model.fix import Code, Fix, Recipe, Safety, Stage
from diffprof.model.report import Report
from diffprof.tuning import engine

CALL = {"prompt": "a cat", "num_inference_steps": 2, "height": 64, "width": 64, "output_type": "np"}


@pytest.fixture(scope="session")
def built() -> Any:
    """tiny-sdxl on the CPU with real random values."""
    from diffprof.devices import resolve_device
    from diffprof.targets import Options, resolve

    held: list[Any] = []
    resolve("tiny-sdxl").run(lambda call: held.append(call.pipe), resolve_device("cpu"), Options())
    return held[0]


def settings() -> dict[str, Any]:
    """The process's global state that fixes may touch."""
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    from diffprof.targets.process import SETTINGS

    return {
        "settings": [read() for read, _ in SETTINGS],
        "inductor": inductor.get_config_copy(),
        "dynamo": dynamo.get_config_copy(),
        "filters": list(warnings.filters),
        "rng": torch.get_rng_state().tolist(),
    }


@pytest.fixture
def unchanged() -> Iterator[None]:
    """Fails a test that leaves a global setting changed."""
    before = settings()
    yield
    after = settings()
    assert {name for name in before if before[name] != after[name]} == set()


def made(
    key: str, code: Any, safety: Safety = Safety.EXACT, stage: Stage = Stage.SCHEDULER, **more: Any
) -> Recipe:
    """A recipe with this code. modelled, fits: the recipe's; the others: the fix's."""
    own = {name: more.pop(name) for name in ("modelled", "fits") if name in more}
    tolerance = 1e-2 if safety is Safety.NUMERIC else None
    fix = Fix(key, f"Do {key}", safety, stage, why="because", **{"tolerance": tolerance, **more})
    return Recipe(fix, code if callable(code) else lambda recording, findings: code, **own)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the fixes that there are, for findings of these rules; `offer.named(report)` names them."""

    def offer(*given: Recipe, rule: str = "SYN002") -> None:
        table = {r.fix.key: r for r in sorted(given, key=lambda r: r.fix.stage)}
        monkeypatch.setattr(planning, "recipes", lambda: table)
        monkeypatch.setattr(engine, "recipes", lambda: table)
        judged = engine.make_report

        def named(report: Report) -> Report:
            found = tuple(
                replace(f, fixes=tuple(table) if f.rule.startswith(rule) else ()) for f in report.findings
            )
            return replace(report, findings=found)

        monkeypatch.setattr(engine, "make_report", lambda recording: named(judged(recording)))
        offer.named = named  # type: ignore[attr-defined]

    return offer


HOST_TIMESTEPS = Code(
    definitions="""\
def _host_timesteps(scheduler):
    set_timesteps, step = scheduler.set_timesteps, scheduler.step
    steps = []

    def set_timesteps_on_host(*args, **kwargs):
        set_timesteps(*args, **kwargs)
        steps[:] = scheduler.timesteps.tolist()

    def step_on_host(model_output, timestep, *args, **kwargs):
        return step(model_output, steps.pop(0), *args, **kwargs)

    scheduler.set_timesteps, scheduler.step = set_timesteps_on_host, step_on_host
""",
    optimize="_host_timesteps(pipe.scheduler)",
)
"""DDIM indexes its tables with host values: exact, and nothing blocks."""
