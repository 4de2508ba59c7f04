"""One tiny pipeline with real values on the CPU, and a bench on which fixes are put and taken off again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from diffprof.analyzers.setup.probe import probe_setup
from diffprof.corpus import CASES
from diffprof.devices import resolve_device
from diffprof.judge.recipes import find_recipe
from diffprof.model.fix import Code, Skipped
from diffprof.model.recording import Recording, Setup, TargetInfo
from diffprof.targets import Options, from_object, resolve
from diffprof.targets.components import components_of
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.tuning.subject import Mark, Subject
from tests.builders import make_recording

OPTIONS = Options(steps=2, height=64, width=64, call={"output_type": "np"})


class Bench:
    """A pipeline that fixes are tried on."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    @property
    def pipe(self) -> Any:
        return self.subject.pipe

    def setup(self) -> Setup:
        return probe_setup(self.pipe)["setup"]

    def recording(self, **more: Any) -> Recording:
        """The pipeline as it stands, on the CPU where nothing else is said."""
        call = self.subject.call
        target = TargetInfo(
            spec="corpus:sdxl",
            kind="builtin",
            pipeline=type(self.pipe).__name__,
            components=components_of(self.pipe),
            call=call.describe_call(),
            dtypes=call.dtypes(),
            steps=2,
            weights="real",
        )
        given = {"target": target, "device": resolve_device("cpu").info(), "setup": self.setup()}
        return make_recording(**{**given, **more})

    def code(self, key: str, findings: Sequence[Any] = (), **more: Any) -> Code | Skipped:
        return find_recipe(key).code(self.recording(**more), findings)

    def image(self) -> np.ndarray:
        return np.asarray(self.subject.call.run().images)

    def mark(self) -> Mark:
        return self.subject.mark()

    def restore(self, mark: Mark) -> None:
        self.subject.restore(mark)

    def apply(self, key: str, **more: Any) -> Code:
        """Run the fix's code for the pipeline as it stands, and give it back."""
        code = self.code(key, **more)
        assert isinstance(code, Code), code
        self.subject.apply(key, code)
        return code


@pytest.fixture(scope="module")
def fresh() -> Bench:
    """The smallest SDXL as it is built, float32, two steps of 64 x 64 pixels."""
    held: list[Any] = []
    resolve("corpus:sdxl").run(held.append, resolve_device("cpu"), OPTIONS)
    return Bench(Subject(held[0]))


@pytest.fixture
def bench(fresh: Bench) -> Iterator[Bench]:
    """The pipeline of the module, put back as it was after the test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    clean = fresh.mark()
    yield fresh
    fresh.restore(clean)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain_image(fresh: Bench) -> np.ndarray:
    """What the pipeline makes as it is built."""
    return fresh.image()


@pytest.fixture(scope="module")
def built_flux() -> Bench:
    """A transformer whose attention goes through diffusers' dispatcher, and which takes its caches."""
    case = CASES["flux"].build()
    kwargs = {**case.kwargs, "num_inference_steps": 3, "output_type": "np"}
    kwargs["generator"] = torch.Generator("cpu").manual_seed(0)
    target = from_object(case.pipe, kwargs=kwargs)
    return Bench(Subject(PipelineCall(case.pipe, (), kwargs, target, "real")))


@pytest.fixture
def flux(built_flux: Bench) -> Iterator[Bench]:
    clean = built_flux.mark()
    yield built_flux
    built_flux.restore(clean)


def settings() -> dict[str, Any]:
    """The process's settings that a fix of the setup could leave changed."""
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    from diffprof.targets.process import SETTINGS

    return {
        "settings": [read() for read, _ in SETTINGS],
        "tf32": (
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        ),
        "dtype": torch.get_default_dtype(),
        "inductor": inductor.get_config_copy(),
        "dynamo": dynamo.get_config_copy(),
    }


def add_lora(pipe: Any, name: str = "style", scale: float = 0.5) -> None:
    """An adapter with weights that show, on the attention of the denoiser."""
    from peft import LoraConfig

    pipe.unet.add_adapter(
        LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v", "to_out.0"]),
        adapter_name=name,
    )
    pipe.unet.set_adapters([name], [scale])
