"""The code of compile fixes: what is compiled, with which options; graphs are traced, and run as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo

from diffprof.gpu.mode import Mode
from diffprof.judge.plan import make_plan
from diffprof.judge.recipes import find_recipe
from diffprof.model.fix import Code, Simulated, Skipped
from diffprof.model.recording import CaptureRow, Grade, PhaseSpan, Timeline
from diffprof.scanning.scan import scan_target
from tests.analyzers.setup.conftest import Bench, settings
from tests.analyzers.setup.examples import CPU, CUDA, denoiser, recorded, vae


@dataclass
class Asked:
    """Arguments of every torch.compile, and graphs that were traced."""

    arguments: list[dict[str, Any]] = field(default_factory=list)
    graphs: list[torch.fx.GraphModule] = field(default_factory=list)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """What is compiled is traced, and runs the graphs as they are."""
    seen = Asked()
    own = torch.compile

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.graphs.append(graph)
        return graph.forward

    def compile(model: Any, **given: Any) -> Any:
        seen.arguments.append(given)
        return own(model, backend=keep, fullgraph=given.get("fullgraph", False))

    monkeypatch.setattr(torch, "compile", compile)
    yield seen
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.nightly
@pytest.mark.parametrize(("key", "compiled"), [("compile", "whole"), ("compile-blocks", "regional")])
def test_the_picture_stays_and_undoing_takes_the_compilation_off(
    bench: Bench, plain_image: np.ndarray, asked: Asked, key: str, compiled: str
) -> None:
    before_all = settings()
    clean = bench.mark()
    code = bench.apply(key, device=CUDA)
    assert "fullgraph=True" in code.optimize
    parts = {part.name: part.compiled for part in bench.setup().parts}
    assert parts["unet"] == compiled
    assert parts["vae"] == ("whole" if key == "compile" else None)
    flags = asked.arguments[0]["options"]
    assert flags["conv_1x1_as_mm"] is True
    assert flags["epilogue_fusion"] is False
    assert flags.get("triton.cudagraphs", False) is (key == "compile")
    assert np.abs(bench.image() - plain_image).max() <= find_recipe(key).fix.tolerance
    assert asked.graphs
    bench.restore(clean)
    assert settings() == before_all
    assert {part.compiled for part in bench.setup().parts} == {None}
    assert np.array_equal(bench.image(), plain_image)


def written(key: str, **more: Any) -> Code | Skipped:
    parts = more.pop("parts", (denoiser(compiled=None), vae(compiled=None)))
    recording = recorded(*parts, device=more.pop("device", CUDA))
    from msgspec.structs import replace

    return find_recipe(key).code(replace(recording, **more), ())


def test_all_flags_are_options_of_inductor() -> None:
    code = written("compile")
    assert isinstance(code, Code)
    space: dict[str, Any] = {"torch": torch}
    exec("import torch._inductor\n" + code.definitions, space)
    import torch._inductor.config as inductor

    known = inductor.get_config_copy()
    assert set(space["_OPTIONS"]) <= set(known)


def test_on_a_cpu_inductors_own_choices_stand() -> None:
    code = written("compile-blocks", device=CPU)
    assert isinstance(code, Code)
    assert statements(code) == ["pipe.unet.compile_repeated_blocks(fullgraph=True)"]
    assert code.definitions == ""


def statements(code: Code) -> list[str]:
    """The lines that are no comments."""
    return [line for line in code.optimize.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("key", ["compile", "compile-blocks"])
def test_what_compiling_takes_and_how_it_is_kept_stands_beside_it(key: str) -> None:
    """Seconds by blocks, where there are blocks; the calls that keep it are PyTorch's."""
    code = written(key)
    assert isinstance(code, Code)
    assert "67.4 s as a whole, 9.6 s by blocks (Flux on an H100, published)" in code.optimize
    named = set(re.findall(r"torch\.compiler\.(\w+)", code.optimize))
    assert named == {"save_cache_artifacts", "load_cache_artifacts"} <= set(dir(torch.compiler))
    plain = written("compile", parts=(denoiser(compiled=None, repeated=()),))
    assert isinstance(plain, Code)
    assert "# The first call compiles.\n" in plain.optimize


@pytest.mark.parametrize("broken", ["unet", "vae.decode"])
def test_a_component_that_breaks_is_not_asked_for_one_graph(broken: str) -> None:
    rows = tuple(
        CaptureRow(component=name, graphs=2, fullgraph_ready=name != broken)
        for name in ("unet", "vae.encode", "vae.decode")
    )
    code = written("compile", captures=rows)
    assert isinstance(code, Code)
    unet, decode = statements(code)
    assert ("fullgraph" in unet, "fullgraph" in decode) == (broken != "unet", broken != "vae.decode")


def calls(*steps: int) -> Timeline:
    """A denoiser called in these steps."""
    spans = tuple(PhaseSpan(name="denoise", step=step, part="denoiser") for step in steps)
    return Timeline(grade=Grade.SIMULATED, phases=spans)


def test_a_denoiser_that_is_called_twice_a_step_is_compiled_without_graphs() -> None:
    """The first result would be overwritten by the second replay before the two are put together."""
    once, twice = (written("compile", timeline=calls(*steps)) for steps in ((0, 1), (0, 0, 1, 1)))
    assert isinstance(once, Code)
    assert isinstance(twice, Code)
    assert '"max-autotune"' in once.definitions
    assert '"max-autotune-no-cudagraphs"' in twice.definitions


def test_blocks_are_never_replayed_as_graphs() -> None:
    code = written("compile-blocks")
    assert isinstance(code, Code)
    assert '"max-autotune-no-cudagraphs"' in code.definitions
    recipe = find_recipe("compile-blocks")
    assert recipe.modelled is not None
    assert recipe.modelled(recorded(), ()) == Simulated(compiled=True, graphs=False)


def test_what_there_is_nothing_of_to_compile() -> None:
    assert written("compile", parts=(vae(compiled=None),)) == Skipped("no denoiser was recognized")
    assert written("compile-blocks", parts=(denoiser(repeated=()),)) == Skipped(
        "the denoiser does not name its repeated blocks"
    )


@pytest.mark.slow
def test_a_call_that_is_compiled_is_told_what_more_compiling_would_do() -> None:
    titles = []
    for mode in (Mode(), Mode(compiled=("unet",), graphs=False), Mode(compiled=("unet",))):
        report = scan_target("tiny-sdxl", device="sim:h100", settings={"mode": mode})
        titles += [step.title for step in make_plan(report).steps if step.fix == "compile"]
    assert titles == [
        "Compile the denoiser and VAE decoder",
        "Compile with CUDA graphs and the published flags",
    ], "what is replayed as graphs is compiled as far as it goes"
