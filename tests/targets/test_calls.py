from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from diffprof.model.errors import UsageError
from diffprof.targets import Options, from_object
from diffprof.targets.calls import bound, default_call, outputs, swap_scheduler, with_options
from diffprof.targets.construct import parse_dtype


class Pipe:
    vae_scale_factor = 8

    def __init__(self) -> None:
        self.components = {"unet": SimpleNamespace(config=SimpleNamespace(sample_size=4))}

    def __call__(
        self,
        prompt: str | None = None,
        image: Any = None,
        height: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        num_images_per_prompt: int = 1,
        ip_adapter_image: Any = None,
    ) -> None: ...


def test_options_replace_arguments_where_they_were_given() -> None:
    args, kwargs = with_options(
        Pipe(), ("a cat", None, 64), {"guidance_scale": 1.0}, Options(height=32, steps=2, batch=4)
    )
    assert args == ("a cat", None, 32)
    assert kwargs == {"guidance_scale": 1.0, "num_inference_steps": 2, "num_images_per_prompt": 4}


def test_without_options_arguments_are_as_they_were() -> None:
    args, kwargs = ("a cat",), {"height": 8}
    assert with_options(Pipe(), args, kwargs, Options()) == (args, kwargs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options(width=64), "no argument 'width' (--width)"),
        (Options(call={"num_inference_step": 3}), "Did you mean num_inference_steps"),
        (Options(call={"nonsense": 3}), "It takes: prompt, image, height"),
    ],
)
def test_what_the_call_does_not_take_is_refused(options: Options, said: str) -> None:
    with pytest.raises(UsageError) as error:
        with_options(Pipe(), (), {}, options)
    assert said in str(error.value)


class Lenient:
    def __call__(self, prompt: str = "", **kwargs: Any) -> Any:
        assert "prompt" not in kwargs
        return kwargs.pop("callback", None) or kwargs["legacy"]


class Handing:
    def __call__(self, prompt: str = "", **kwargs: Any) -> dict[str, Any]:
        return dict(**kwargs)


def test_a_name_that_the_call_would_swallow_is_refused() -> None:
    taken = {"callback": 1, "legacy": 2}
    assert with_options(Lenient(), (), {}, Options(call=taken))[1] == taken
    with pytest.raises(UsageError, match="no argument 'steps'"):
        with_options(Lenient(), (), {}, Options(call={"steps": 3}))
    assert with_options(Handing(), (), {}, Options(call={"steps": 3}))[1] == {"steps": 3}


def test_batch_is_given_as_the_call_takes_it() -> None:
    class Unconditional:
        def __call__(self, batch_size: int = 1) -> None: ...

    class Prompts:
        def __call__(self, prompt: Any = None) -> None: ...

    class Neither:
        def __call__(self, seed: int = 0) -> None: ...

    assert with_options(Unconditional(), (), {}, Options(batch=3))[1] == {"batch_size": 3}
    assert with_options(Prompts(), ("x",), {}, Options(batch=2))[0] == (["x", "x"],)
    with pytest.raises(UsageError, match="batch"):
        with_options(Neither(), (), {}, Options(batch=2))


def test_a_call_is_made_up_from_the_signature() -> None:
    made = default_call(Pipe(), Options())
    assert set(made) == {"prompt", "image", "num_inference_steps"}
    assert made["num_inference_steps"] == 3
    assert made["image"].size == (32, 32)
    assert default_call(Pipe(), Options(height=16, width=24))["image"].size == (24, 16)


def test_a_share_of_the_steps_is_made_up_for() -> None:
    class FromImage:
        def __call__(
            self, prompt: str, image: Any = None, strength: float = 0.3, num_inference_steps: int = 50
        ) -> None: ...

    class All:
        def __call__(self, strength: float = 1.0, num_inference_steps: int = 50) -> None: ...

    pipe = FromImage()
    pipe.components = {}  # type: ignore[attr-defined]
    assert default_call(pipe, Options())["num_inference_steps"] == 10
    assert default_call(All(), Options())["num_inference_steps"] == 3


def test_an_argument_that_can_t_be_made_up_is_asked_for() -> None:
    class Needs:
        def __call__(self, class_labels: list[int], audio_latents: torch.Tensor) -> None: ...

    Needs.__call__.__annotations__.update(class_labels=list[int], audio_latents=torch.Tensor)
    with pytest.raises(UsageError, match="audio_latents"):
        default_call(Needs(), Options())
    assert default_call(Needs(), Options(call={"audio_latents": 0})) == {"class_labels": [0]}


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp16", torch.float16), ("torch.bfloat16", torch.bfloat16), ("float", torch.float32)]
)
def test_dtypes_are_read(name: str, dtype: torch.dtype) -> None:
    assert parse_dtype(name) is dtype


@pytest.mark.parametrize("name", ["int8", "nonsense", "device", ""])
def test_other_dtypes_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        parse_dtype(name)


def test_arguments_are_described_by_name_in_the_order_of_the_signature() -> None:
    given = bound(Pipe(), ("a cat",), {"num_inference_steps": 3, "height": 8})
    assert list(given) == ["prompt", "height", "num_inference_steps"]


class TestScheduler:
    @pytest.fixture
    def pipe(self, shapes: Any) -> Any:
        from diffprof.targets import resolve

        return resolve("tiny-sdxl").run(lambda call: call.pipe, shapes, Options())

    @pytest.mark.parametrize("name", ["DDIMScheduler", "ddim"])
    def test_it_is_made_from_the_configuration_of_the_old_one(self, pipe: Any, name: str) -> None:
        swap_scheduler(pipe, name)
        assert type(pipe.scheduler).__name__ == "DDIMScheduler"
        assert pipe.scheduler.config.beta_end == 0.012
        assert pipe.config["scheduler"][1] == "DDIMScheduler"

    def test_the_beginning_of_one_name_is_enough(self, pipe: Any) -> None:
        swap_scheduler(pipe, "unipc")
        assert type(pipe.scheduler).__name__ == "UniPCMultistepScheduler"

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("DDIMSchedular", "Did you mean"),
            ("Euler", "Which of EulerAncestralDiscreteScheduler, EulerDiscreteScheduler?"),
            ("nonsense", "It has: "),
            ("FlowMatchEulerDiscreteScheduler", "scale_model_input"),
        ],
    )
    def test_others_are_refused(self, pipe: Any, name: str, said: str) -> None:
        before = pipe.scheduler
        with pytest.raises(UsageError) as error:
            swap_scheduler(pipe, name)
        assert said in str(error.value)
        assert pipe.scheduler is before


class Noisy:
    """A pipeline with every kind of state that a call may change."""

    components: dict[str, Any]

    def __init__(self) -> None:
        self.scheduler = SimpleNamespace(
            sigmas=torch.arange(3.0), seen=[], count=0, step=print, set_timesteps=print
        )
        self.components = {"scheduler": self.scheduler}

    def __call__(self, generator: Any = None, generators: Any = ()) -> list[float]:
        s = self.scheduler
        s.sigmas += 1
        s.seen.append(s.count)
        s.count += 1
        drawn = [torch.rand(1, generator=g).item() for g in (generator, None, *generators)]
        return [*drawn, float(np.random.rand()), s.sigmas[0].item(), len(s.seen), s.count]


def test_every_call_starts_from_the_same_states(cpu: Any, unchanged: None) -> None:
    pipe = Noisy()
    arguments = {
        "generator": torch.Generator().manual_seed(1),
        "generators": [torch.Generator().manual_seed(2)],
    }

    def play(call: Any) -> None:
        first = call.run()
        torch.rand(3)
        np.random.rand(2)
        assert call.run() == first == call.run()

    states = torch.get_rng_state(), np.random.get_state()
    from_object(pipe, (), arguments).run(play, cpu, Options())
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])


def test_a_call_leaves_the_default_generators_alone(cpu: Any, unchanged: None) -> None:
    from_object(Noisy()).run(lambda call: call.run(), cpu, Options())


def test_a_live_pipeline_keeps_its_scheduler(cpu: Any, tiny: Any) -> None:
    import runpy

    pipe = runpy.run_path(str(tiny / "tiny_pipeline.py"))["tiny"]()
    before = pipe.scheduler

    def play(call: Any) -> str:
        assert "num_inference_steps" in inspect.signature(type(call.pipe).__call__).parameters
        return type(call.pipe.scheduler).__name__

    assert from_object(pipe).run(play, cpu, Options(scheduler="ddpm")) == "DDPMScheduler"
    assert pipe.scheduler is before
    assert cpu.places == []


def test_what_is_no_pipeline_is_refused(cpu: Any) -> None:
    with pytest.raises(UsageError, match="int is not a pipeline"):
        from_object(3).run(lambda call: None, cpu, Options())


def test_arguments_become_plain_values(cpu: Any) -> None:
    from PIL import Image

    class Takes:
        components: ClassVar[dict[str, Any]] = {}

        def __call__(self, **kwargs: Any) -> None: ...

    given = {
        "latents": torch.zeros(1, 4, 8, 8, dtype=torch.float16),
        "image": Image.new("RGB", (8, 6)),
        "generator": [torch.Generator().manual_seed(5)],
        "array": np.zeros((2, 3)),
        "callback": print,
        "sigmas": [1.0, 0.5],
        "nested": {"scale": 0.5, "dtype": torch.float16},
    }
    described, dtypes = from_object(Takes(), (), given).run(
        lambda call: (call.describe_call(), call.dtypes()), cpu, Options()
    )
    assert dtypes == {"latents": "float16"}
    assert described == {
        "latents": "tensor 1x4x8x8 float16 on cpu",
        "image": "image 8x6 RGB",
        "generator": ["generator on cpu, seed 5"],
        "array": "array 2x3 float64",
        "callback": "function print",
        "sigmas": [1.0, 0.5],
        "nested": {"scale": 0.5, "dtype": "torch.float16"},
    }


class Painter:
    def __call__(self, prompt=None, prompt_embeds=None, image=None, width=None, num_images_per_prompt=1): ...


class Filmer:
    def __call__(self, prompt=None, num_frames=81, num_videos_per_prompt=1): ...


class Singer:
    def __call__(self, prompt=None, audio_length_in_s=10.0): ...


@pytest.mark.parametrize(
    ("pipe", "given", "made"),
    [
        (Painter(), {"prompt": "a cat"}, ("image", 1)),
        (Painter(), {"prompt": ["a cat", "a dog"], "num_images_per_prompt": 3}, ("image", 6)),
        (Painter(), {"prompt": None, "prompt_embeds": torch.zeros(4, 77, 8)}, ("image", 4)),
        (Painter(), {"image": torch.zeros(3, 64, 64)}, ("image", 1)),
        (Painter(), {"image": torch.zeros(2, 3, 64, 64)}, ("image", 2)),
        (Filmer(), {"prompt": "a cat", "num_videos_per_prompt": 2}, ("clip", 2)),
        (Singer(), {"prompt": "a song"}, (None, 1)),
    ],
)
def test_what_a_call_makes(pipe: object, given: dict, made: tuple) -> None:
    assert outputs(pipe, given) == made
