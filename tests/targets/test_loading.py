"""Models that are made and loaded without their weights, whatever the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from huggingface_hub import constants

from diffprof.analyzers.setup.probe import probe_setup
from diffprof.devices import resolve_device
from diffprof.devices.simulated.host_placeholders import is_weight_stand_in
from diffprof.model.errors import TargetError
from diffprof.targets import Options, known, resolve
from diffprof.targets.adapter_files import RANK
from diffprof.targets.builtin import HUB_COMPONENTS, builtin_named, builtin_targets, hub_component

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")

Write = Callable[[str, str], Path]

HEAD = """
import accelerate
import torch
import diffusers
from diffusers import DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

CHECKPOINT = {checkpoint!r}
SIZES = dict(
    block_out_channels=(1280, 1280), down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
)
TEXT = dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=4, num_attention_heads=8)

class Pipe:
    def __init__(self, model, **more):
        self.components = dict(model=model, **more)

    def __call__(self):
        pass
"""


@pytest.fixture
def sim() -> Iterator[Any]:
    device = resolve_device("sim")
    with device.active():
        yield device


@pytest.fixture
def built(tiny_checkpoint: Path, write: Write, sim: Any) -> Callable[..., Any]:
    """What a function body makes of a pipeline, as (its components, notes, what is unseen)."""

    def built(body: str, **options: Any) -> Any:
        head = HEAD.format(checkpoint=str(tiny_checkpoint))
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        file = write("make.py", "")
        file.write_text(f"{head}\ndef make():\n{lines}")
        target = resolve(f"{file}:make")
        return target.run(
            lambda s: (s.pipe.components, s.notes, s.unseen, type(s.pipe)), sim, Options(**options)
        )

    return built


def resident() -> int:
    """Bytes of memory that this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


MADE = {
    "constructor": "return Pipe(UNet2DConditionModel(**SIZES))",
    "from_config": "return Pipe(UNet2DConditionModel.from_config(SIZES))",
    "in half precision": "return Pipe(UNet2DConditionModel(**SIZES).to(torch.float16))",
    "moved": "return Pipe(UNet2DConditionModel(**SIZES).to('cuda', torch.float16))",
    "on the device": "with torch.device('cuda'):\n    return Pipe(UNet2DConditionModel(**SIZES))",
    "transformers": "return Pipe(CLIPTextModel(CLIPTextConfig(**TEXT)))",
    "transformers, from a config": "return Pipe(CLIPTextModel._from_config(CLIPTextConfig(**TEXT)).cuda())",
    "init_empty_weights": (
        "with accelerate.init_empty_weights():\n    model = UNet2DConditionModel(**SIZES)\nreturn Pipe(model)"
    ),
    "to_empty": (
        "with torch.device('meta'):\n    model = UNet2DConditionModel(**SIZES)\n"
        "return Pipe(model.to_empty(device='cuda'))"
    ),
    "dispatch": "return Pipe(accelerate.dispatch_model(UNet2DConditionModel(**SIZES), {'': 0}))",
    "written to": (
        "model = UNet2DConditionModel(**SIZES)\n"
        "for p in model.parameters():\n"
        "    p.data.normal_()\n    p.data += 1\n    p.data.copy_(torch.ones(1))\n"
        "return Pipe(model)"
    ),
    "joined": (
        "model = torch.nn.Linear(4096, 8192)\n"
        "model.weight = torch.nn.Parameter(torch.cat([model.weight.data] * 4))\nreturn Pipe(model)"
    ),
}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for its memory")
@pytest.mark.parametrize("body", MADE.values(), ids=MADE.keys())
def test_a_model_made_in_a_factory_takes_no_memory(built: Any, body: str) -> None:
    before = resident()
    components, *_ = built(body)
    parameters = list(components["model"].parameters())
    assert sum(p.numel() for p in parameters) > 50e6
    assert {p.device.type for p in parameters} == {"sim"}
    assert resident() - before < 60 << 20, "of more than 200 MB of weights"


LOADED = {
    "pipeline": ("return DiffusionPipeline.from_pretrained(CHECKPOINT{0})", "unet"),
    "pipeline by keyword": (
        "return DiffusionPipeline.from_pretrained(pretrained_model_name_or_path=CHECKPOINT{0})",
        "unet",
    ),
    "model": ("return Pipe(UNet2DConditionModel.from_pretrained(CHECKPOINT, subfolder='unet'{0}))", "model"),
    "model by keyword": (
        "options = dict(pretrained_model_name_or_path=CHECKPOINT, subfolder='unet'{0})\n"
        "return Pipe(UNet2DConditionModel.from_pretrained(**options))",
        "model",
    ),
    "transformers": (
        "return Pipe(CLIPTextModel.from_pretrained(CHECKPOINT, subfolder='text_encoder'{0}))",
        "model",
    ),
    "accelerate": (
        "with accelerate.init_empty_weights():\n"
        "    model = UNet2DConditionModel.from_config(CHECKPOINT + '/unet')\n"
        "return Pipe(accelerate.load_checkpoint_and_dispatch(model, 'nowhere', device_map='auto'))",
        "model",
    ),
}


@pytest.mark.parametrize(("body", "name"), LOADED.values(), ids=LOADED.keys())
def test_loading_without_weights(built: Any, body: str, name: str) -> None:
    components, _, unseen, _ = built(body.format(""), weights=False)
    assert {p.device.type for p in components[name].parameters()} == {"sim"}
    assert unseen == []


@pytest.mark.parametrize("argument", ["variant='fp16'", "use_safetensors=True", "low_cpu_mem_usage=False"])
@pytest.mark.parametrize("how", ["pipeline", "model", "transformers"])
def test_arguments_of_files_change_nothing(built: Any, how: str, argument: str) -> None:
    body, _ = LOADED[how]
    *_, unseen, _ = built(body.format(f", {argument}"), weights=False)
    assert unseen == []


@pytest.mark.parametrize("how", ["pipeline", "model", "transformers"])
@pytest.mark.parametrize("given", ["dtype=torch.bfloat16", "torch_dtype=torch.bfloat16", "dtype='bfloat16'"])
def test_the_dtype_is_honoured(built: Any, how: str, given: str) -> None:
    body, name = LOADED[how]
    components, *_ = built(body.format(f", {given}"), weights=False)
    assert components[name].dtype is torch.bfloat16


def test_a_dtype_for_each_component(built: Any) -> None:
    body, _ = LOADED["pipeline"]
    each = ", torch_dtype={'unet': torch.float16, 'default': torch.bfloat16}"
    components, *_ = built(body.format(each), weights=False)
    assert (components["unet"].dtype, components["vae"].dtype) == (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    ("how", "device_map"),
    [
        ("pipeline", "'balanced'"),
        ("pipeline", "'cuda'"),
        ("model", "'auto'"),
        ("model", "{'': 'cuda:0'}"),
        ("transformers", "{'': 0}"),
    ],
)
def test_a_device_map_places_what_is_loaded(built: Any, how: str, device_map: str, weights: bool) -> None:
    body, name = LOADED[how]
    components, notes, unseen, _ = built(body.format(f", device_map={device_map}"), weights=weights)
    assert {p.device.type for p in components[name].parameters()} == {"sim"}
    assert notes == [], "it was there when the factory returned"
    assert unseen == []


@pytest.mark.parametrize(
    ("how", "given", "name"),
    [
        ("pipeline", "quantization_config=object()", "quantization_config"),
        ("model", "quantization_config=object()", "quantization_config"),
        ("transformers", "quantization_config={'load_in_8bit': True}", "quantization_config"),
        ("model", "device_map={'conv_in': 'cpu', '': 'cuda'}", "device_map"),
        ("pipeline", "adapter='x.safetensors'", "adapter"),
    ],
)
def test_what_is_not_honoured_is_named_with_its_line(built: Any, how: str, given: str, name: str) -> None:
    body, _ = LOADED[how]
    *_, unseen, _ = built(body.format(f", {given}"), weights=False)
    (row,) = unseen
    assert row.what.startswith(f"{name} of ")
    assert row.kind == "left-out"
    assert row.site.file.endswith("make.py")


LORA = "pipe.load_lora_weights('nobody/has-it', weight_name='x.safetensors', adapter_name='style')"


@pytest.mark.parametrize("after", ["", "pipe.set_adapters(['style'], [0.8])", "pipe.fuse_lora()"])
@pytest.mark.parametrize("before", ["", "pipe.to('cuda')"])
def test_an_adapter_stands_in_for_a_file_that_is_not_here(
    built: Any, before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    load = LOADED["pipeline"][0].format("").replace("return ", "pipe = ")
    components, _, unseen, _ = built("\n".join([load, before, LORA, after, "return pipe"]), weights=False)
    layers = [m for m in components["unet"].modules() if "style" in getattr(m, "lora_A", ())]
    assert layers
    assert {layer.lora_A["style"].weight.shape[0] for layer in layers} == {RANK}
    assert all(layer.merged == ("fuse" in after) for layer in layers)
    (row,) = unseen
    assert "nobody/has-it" in row.what
    assert row.kind == "left-out"
    assert row.site.file.endswith("make.py")


def test_an_adapter_that_is_given_is_taken_as_it_is(built: Any) -> None:
    load = LOADED["pipeline"][0].format("").replace("return ", "pipe = ")
    make = "from diffprof.corpus.adapted import lora_weights"
    given = "pipe.load_lora_weights(lora_weights(pipe.unet, 'unet', 2), adapter_name='style')"
    components, _, unseen, _ = built("\n".join([load, make, given, "return pipe"]), weights=False)
    layers = [m for m in components["unet"].modules() if "style" in getattr(m, "lora_A", ())]
    assert {layer.lora_A["style"].weight.shape[0] for layer in layers} == {2}
    assert unseen == []


def test_weights_that_are_quantized_in_place_are_named_as_left_out(built: Any) -> None:
    quantization = pytest.importorskip("torchao.quantization")
    assert quantization
    load = LOADED["model"][0].format("").replace("return ", "pipe = ")
    quantize = (
        "from torchao.quantization import Int8WeightOnlyConfig, quantize_\n"
        "quantize_(pipe.components['model'].cuda(), Int8WeightOnlyConfig())\nreturn pipe"
    )
    components, _, unseen, _ = built(f"{load}\n{quantize}", weights=False)
    (row,) = unseen
    assert row.kind == "left-out"
    assert row.site.file.endswith("make.py")
    (setup,) = (part for part in probe_setup(Held(components))["setup"].parts)
    assert setup.left_as_is


class Held:
    def __init__(self, components: dict[str, Any]) -> None:
        self.components = components


def test_entries_of_the_configuration_can_be_changed(built: Any) -> None:
    body, name = LOADED["model"]
    components, _, unseen, _ = built(body.format(", in_channels=9"), weights=False)
    assert components[name].conv_in.weight.shape[1] == 9
    assert unseen == []


CUSTOM = """
from diffusers import StableDiffusionPipeline

class MyPipeline(StableDiffusionPipeline):
    def __call__(self, n=1):
        return n
"""


def test_a_custom_pipeline_is_of_its_own_class(built: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CUSTOM)
    body, _ = LOADED["pipeline"]
    given = f", custom_pipeline={str(tmp_path / 'mine.py')!r}"
    *_, unseen, cls = built(body.format(f"{given}, trust_remote_code=True"), weights=False)
    assert cls.__name__ == "MyPipeline"
    assert unseen == []
    with pytest.raises(TargetError) as error:
        built(body.format(given.replace("mine", "theirs")), weights=False)
    assert "custom_pipeline=" in error.value.what


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("pipeline.py", ", custom_pipeline={folder!r}"),
        ("mine.py", ", custom_pipeline='mine'"),
        ("mine.py", ""),
    ],
    ids=["a folder", "a file of the checkpoint", "the checkpoint's own"],
)
def test_other_forms_of_a_custom_pipeline(
    built: Any, tmp_path: Path, tiny_checkpoint: Path, name: str, given: str
) -> None:
    import json
    import shutil

    own = tmp_path / "own"
    shutil.copytree(tiny_checkpoint, own)
    (own / name).write_text(CUSTOM)
    if not given:
        index = json.loads((own / "model_index.json").read_text())
        (own / "model_index.json").write_text(json.dumps({**index, "_class_name": ["mine", "MyPipeline"]}))
    more = given.format(folder=str(own)) + ", trust_remote_code=True"
    *_, unseen, cls = built(f"return DiffusionPipeline.from_pretrained({str(own)!r}{more})", weights=False)
    assert cls.__name__ == "MyPipeline"
    assert unseen == []


def test_missing_weights_name_the_way_out(built: Any, tmp_path: Path, tiny_checkpoint: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(tiny_checkpoint, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    for body in (
        f"return Pipe(UNet2DConditionModel.from_pretrained({str(bare)!r}, subfolder='unet'))",
        f"return Pipe(CLIPTextModel.from_pretrained({str(bare)!r}, subfolder='text_encoder'))",
        f"return DiffusionPipeline.from_pretrained({str(bare)!r})",
    ):
        with pytest.raises(TargetError) as error:
            built(body)
        assert "--no-weights" in error.value.hint
    components, *_ = built(f"return DiffusionPipeline.from_pretrained({str(bare)!r})", weights=False)
    assert set(components) >= {"unet", "vae", "text_encoder"}
    with pytest.raises(TargetError) as error:
        built(f"return Pipe(UNet2DConditionModel.from_pretrained({str(tmp_path)!r}))", weights=False)
    assert "--no-weights" not in error.value.hint
    assert "its configuration is needed" in error.value.hint
    with pytest.raises(TargetError) as error:
        built(f"return UNet2DConditionModel.from_single_file({str(bare / 'a.safetensors')!r})", weights=False)
    assert "has to be on this machine" in error.value.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "stands_in"),
    [
        (
            "diffusers.StableDiffusionXLPipeline.from_single_file('https://x.org/dreams.safetensors')",
            "the built-in sdxl",
        ),
        (
            "diffusers.FluxPipeline.from_single_file('flux.1-schnell-fp8.safetensors')",
            "the built-in flux-schnell",
        ),
        (
            "Pipe(diffusers.FluxTransformer2DModel.from_single_file('a/flux1-dev-Q2_K.gguf'))",
            "transformer of the built-in",
        ),
    ],
)
def test_a_single_file_that_is_not_here_has_a_built_in_architecture(
    built: Any, load: str, stands_in: str
) -> None:
    components, _, unseen, _ = built(f"return {load}", weights=False)
    assert any(isinstance(part, torch.nn.Module) for part in components.values())
    assert [row.kind for row in unseen if stands_in in row.what and row.site is not None] == ["left-out"]


def test_a_single_file_has_the_architecture_of_its_config(built: Any, tiny_checkpoint: Path) -> None:
    load = f"StableDiffusionPipeline.from_single_file('dreams.safetensors', config={str(tiny_checkpoint)!r})"
    components, *_ = built(f"return {load}", weights=False)
    held = json.loads((tiny_checkpoint / "unet" / "config.json").read_text())
    assert list(components["unet"].config.block_out_channels) == held["block_out_channels"]


def test_other_failures_do_not_name_it(built: Any) -> None:
    with pytest.raises(TargetError) as error:
        built("raise OSError('no file named x')")
    assert "--no-weights" not in error.value.hint


def test_a_failure_after_a_value_made_up_here_says_so(built: Any) -> None:
    with pytest.raises(TargetError) as error:
        built("return [][0]")
    assert "made up" not in error.value.hint
    made = (
        "model = torch.nn.Linear(64, 4096).cuda()\nn = int(model(torch.ones(1, 64, device='cuda')).sum())\n"
    )
    with pytest.raises(TargetError) as error:
        built(f"{made}return [][n]")
    assert "raised IndexError" in error.value.what
    assert "may follow from a value that was made up" in error.value.hint
    assert "make.py" in error.value.hint


def test_what_only_cuda_runs_is_not_said_to_fail_by_itself(built: Any) -> None:
    for line in ("torch._C._cuda_init()", "torch._C._cuda_getDevice()"):
        with pytest.raises(TargetError) as error:
            built(line)
        assert "With CUDA it runs" in error.value.hint


def test_weights_that_stay_on_the_host_stand_for_none(built: Any) -> None:
    body = (
        "model = UNet2DConditionModel(**SIZES)\npipe = StableDiffusionPipeline.from_pretrained(CHECKPOINT)\n"
        "pipe.unet = model\npipe.enable_model_cpu_offload()\nreturn pipe"
    )
    components, *_ = built(body)
    assert all(is_weight_stand_in(p) for p in components["unet"].parameters())


def test_tensors_for_a_pipeline_left_on_the_cpu_go_along(built: Any, write: Write, sim: Any) -> None:
    file = write(
        "other.py",
        """
        import torch

        class Pipe:
            def __init__(self):
                self.components = {"model": torch.nn.Linear(2, 2)}

            def __call__(self, embeds, more=None, n=1):
                pass

        def make():
            return Pipe(), dict(embeds=torch.ones(1, 2), more=[torch.zeros(1)], n=3)

        def there():
            pipe = Pipe()
            pipe.components["model"].to("cuda")
            return pipe, dict(embeds=torch.ones(1, 2), more=[torch.zeros(1, device="cuda")])
        """,
    )

    def play(call: Any) -> Any:
        return str(call.kwargs["embeds"].device), str(call.kwargs["more"][0].device), len(call.notes)

    assert resolve(f"{file}:make").run(play, sim, Options()) == ("cuda:0", "cuda:0", 2)
    assert resolve(f"{file}:there").run(play, sim, Options()) == ("cpu", "cuda:0", 0), "as it was written"


def test_configurations_of_a_known_checkpoint_come_with_diffprof(
    built: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_given", lambda checkpoint: False)  # no network, or terms not accepted
    parts, _, unseen, kind = built(
        """from transformers import CLIPTokenizer
name = "stable-diffusion-v1-5/stable-diffusion-v1-5"
unet = UNet2DConditionModel.from_pretrained(name, subfolder="unet")
tokenizer = CLIPTokenizer.from_pretrained(pretrained_model_name_or_path=name, subfolder="tokenizer")
scheduler = DDIMScheduler.from_pretrained(name, subfolder="scheduler")
return StableDiffusionPipeline.from_pretrained(
    name, unet=unet, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None
)""",
        weights=False,
    )
    info = builtin_named("sd15")
    assert info is not None
    assert sum(p.numel() for p in parts["unet"].parameters()) == info.parameters["unet"]
    assert sum(p.numel() for p in parts["vae"].parameters()) == info.parameters["vae"]
    assert parts["tokenizer"].model_max_length == 77
    assert kind.__name__ == "StableDiffusionPipeline"
    told = [each for each in unseen if each.what.startswith("configurations of stable-diffusion-v1-5/")]
    assert [each.why for each in told] == [
        "the hub does not give them here: those of the built-in `sd15` stand in"
    ]


@pytest.mark.parametrize("repo", sorted(json.loads(HUB_COMPONENTS.read_text())))
def test_what_a_repository_holds_alone_is_known_too(repo: str) -> None:
    found = hub_component(repo.upper())
    assert found is not None
    part, of = found
    assert getattr(diffusers, part.cls.rpartition(".")[2]).from_config is not None
    assert of.partition("/")[0] in {info.name for info in builtin_targets()} | {"diffusers.AutoencoderTiny"}


def test_a_component_s_own_repository_needs_no_network(
    built: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "_given", lambda checkpoint: False)
    parts, _, unseen, _ = built(
        """from diffusers import AutoencoderKL
name = "stable-diffusion-v1-5/stable-diffusion-v1-5"
vae = AutoencoderKL.from_pretrained("stabilityai/sd-vae-ft-mse", torch_dtype=torch.float16)
return StableDiffusionPipeline.from_pretrained(name, vae=vae, safety_checker=None)""",
        weights=False,
    )
    assert next(parts["vae"].parameters()).dtype == torch.float16
    assert any(each.what == "configurations of stabilityai/sd-vae-ft-mse" for each in unseen)
