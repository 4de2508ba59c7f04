"""What the fixes of waits claim: no wait is left in the loop, and not a bit of the output changes."""

from __future__ import annotations

import copy
import gc
import inspect
from typing import Any

import diffusers as df
import pytest
import torch

from diffprof.analyzers.syncs.fixes import RECIPES
from diffprof.analyzers.syncs.probe import SyncObserver
from diffprof.corpus import CASES, CorpusCase, modules_of
from diffprof.devices.simulated import Observer, observing, place, simulated_gpu
from diffprof.judge.judging import make_report
from diffprof.model.fix import Code, Safety, Skipped
from diffprof.model.recording import TargetInfo
from diffprof.model.report import Report
from diffprof.targets import Options
from diffprof.targets.calls import scheduler_names
from diffprof.targets.components import components_of
from diffprof.targets.pipeline import PhaseTracker
from tests.analyzers.syncs.applied import (
    DeviceSigmas,
    MadeOnDevice,
    apply,
    around,
    fixes_for,
    give_scheduler,
    in_loop,
    on,
    source,
)
from tests.builders import make_finding, make_recording, make_site, make_sync
from tests.shares import one_in

BLOCKING = {
    "CogVideoXDDIMScheduler": {"host-timesteps"},
    "DDIMInverseScheduler": {"host-timesteps"},
    "DDIMParallelScheduler": {"host-timesteps"},
    "DDIMScheduler": {"host-timesteps"},
    "DDPMParallelScheduler": {"host-timesteps"},
    "DDPMScheduler": {"host-timesteps"},
    "DPMSolverMultistepInverseScheduler": {"set-begin-index"},
    "DeviceSigmas": {"scheduler-tables-on-host"},
    "LCMScheduler": {"host-timesteps"},
    "MadeOnDevice": {"scheduler-tables-on-host"},
    "PNDMScheduler": {"host-timesteps"},
    "SASolverScheduler": {"host-timesteps"},
    "TCDScheduler": {"host-timesteps"},
    "UniPCMultistepScheduler": {"upload-once"},
}
"""Schedulers that block in the loop of SDXL, with the fixes that their findings name."""


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- no wait is left -----------------------------------------------------------------------------------


@pytest.mark.nightly
def test_nothing_blocks_in_the_loop_of_full_size_sdxl() -> None:
    def play(call: Any, scan: Any) -> None:
        own = call.pipe.scheduler
        for name, expected in BLOCKING.items():
            give_scheduler(call.pipe, name)
            before = scan(call)
            codes = fixes_for(before)
            assert set(codes) == expected, name
            assert all(f.fixes for f in before.in_loop), name
            apply(call.pipe, codes)
            after = scan(call).recording
            assert in_loop(after) == [], name
            assert outside(after) <= outside(before.recording) + 1, "timesteps are read once"
            call.pipe.scheduler = own

    with on("sim:a100-80gb", "sdxl", Options(steps=4)) as run:
        run(play)


def outside(recording: Any) -> int:
    return sum(row.count for row in recording.syncs if not row.in_loop)


@pytest.mark.nightly
def test_every_scheduler_that_takes_the_call_is_free_of_waits_or_made_so() -> None:
    blocking = set()

    def play(call: Any, scan: Any) -> None:
        own = call.pipe.scheduler
        for name in scheduler_names(call.pipe):
            call.pipe.scheduler = own
            try:
                give_scheduler(call.pipe, name)
                before = scan(call)
            except Exception:
                continue
            if before.in_loop:
                blocking.add(name)
                apply(call.pipe, fixes_for(before))
                assert in_loop(scan(call).recording) == [], name
        call.pipe.scheduler = own

    with on("sim:a100-80gb", "tiny-sdxl", Options(steps=3)) as run:
        run(play)
    assert blocking == {name for name in BLOCKING if hasattr(df, name)}


# --- not a bit changes ---------------------------------------------------------------------------------


def made(name: str, case: str = "sdxl", steps: int = 4, **config: Any) -> CorpusCase:
    built = CASES[case].build()
    give_scheduler(built.pipe, name, **config)
    built.kwargs["num_inference_steps"] = steps
    return built


def slim(case: CorpusCase) -> CorpusCase:
    """The same call of a UNet with a single level and no attention, which ends at the latents: what the
    scheduler does is the same."""
    case.kwargs["output_type"] = "latent"
    own = dict(case.pipe.unet.config)
    own |= {
        "block_out_channels": own["block_out_channels"][:1],
        "down_block_types": ("DownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("UpBlock2D",),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "transformer_layers_per_block": 1,
    }
    torch.manual_seed(0)
    case.pipe.unet = df.UNet2DConditionModel(**{k: v for k, v in own.items() if k[0] != "_"})
    return case


class Run:
    """A case on the simulated device with known values, and what each of its calls gives and waits for."""

    def __init__(self, case: CorpusCase, device: Any) -> None:
        self.case, self.device = case, device

    def call(self, **kwargs: Any) -> tuple[list[torch.Tensor], Report]:
        tracker = PhaseTracker()
        observer = SyncObserver(self.case.pipe, tracker)
        self.case.kwargs.update(kwargs)
        with observing(observer), tracker.watching(self.case.pipe), torch.no_grad():
            output = self.case.call(self.device)
        parts = components_of(self.case.pipe)
        target = TargetInfo(spec="case", kind="object", pipeline="case", components=parts)
        return output, make_report(make_recording(*observer.sync_rows(), target=target))


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) > 0 and all(map(torch.equal, one, other))


@pytest.mark.parametrize("name", one_in(3, dict(zip(BLOCKING, BLOCKING, strict=True))))
def test_the_image_is_bit_identical(name: str) -> None:
    on_cpu = slim(made(name)).call()
    with simulated_gpu() as device:
        case = slim(made(name))
        place(case.pipe, values="known")
        run = Run(case, device)
        before, report = run.call()
        assert same(before, on_cpu)
        assert report.in_loop
        codes = fixes_for(report)
        assert sum(code.lines for code in codes.values()) <= 25
        was = type(case.pipe.scheduler)
        apply(case.pipe, codes)
        after, again = run.call()
        assert same(after, before)
        assert in_loop(again.recording) == []
        assert is_still(case.pipe.scheduler, was)
    fixed = slim(made(name))
    apply(fixed.pipe, codes)
    assert same(fixed.call(), on_cpu)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler", "SASolverScheduler"])
def test_a_timestep_that_is_no_view_of_the_table(name: str) -> None:
    """Nobody's address says which it is: it waits, as before."""
    sample = torch.ones(1, 4, 2, 2)
    with simulated_gpu() as device:
        case = slim(made(name))
        place(case.pipe, values="known")
        _, report = Run(case, device).call()
        plain = copy.deepcopy(case.pipe.scheduler)
        apply(case.pipe, fixes_for(report))
        given = []
        for scheduler in (plain, case.pipe.scheduler):
            scheduler.set_timesteps(3, device=device)
            generator = torch.Generator().manual_seed(0)
            x = sample.to(device)
            for t in scheduler.timesteps:
                x = scheduler.step(x, t.clone(), x, generator=generator).prev_sample
            given.append(x.cpu())
    assert torch.equal(*given)


def is_still(scheduler: Any, was: type) -> bool:
    """Whether it is saved, and looks to `inspect`, as one of the class that it was."""
    alike = all(
        inspect.signature(getattr(scheduler, name)) == inspect.signature(getattr(was(), name))
        for name in ("step", "set_timesteps", "scale_model_input")
    )
    return alike and isinstance(scheduler, was) and type(scheduler).__name__ == was.__name__


CONFIGS = [
    ("DDPMScheduler", {"variance_type": "fixed_small_log"}),
    ("DDIMScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True, "set_alpha_to_one": True}),
    ("PNDMScheduler", {"skip_prk_steps": False}),
    ("TCDScheduler", {"original_inference_steps": 10}),
    ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    (
        "UniPCMultistepScheduler",
        {"predict_x0": False, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
    ),
    ("SASolverScheduler", {"predictor_order": 3, "corrector_order": 4}),
    ("DPMSolverMultistepInverseScheduler", {"solver_order": 3}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), CONFIGS)
@pytest.mark.parametrize("inference", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_configurations_and_several_calls(name: str, config: dict[str, Any], inference: bool) -> None:
    alike_in_several_calls(name, config, inference)


@pytest.mark.slow
def test_several_calls_in_inference_mode() -> None:
    alike_in_several_calls("PNDMScheduler", {}, True)


def alike_in_several_calls(name: str, config: dict[str, Any], inference: bool) -> None:
    with torch.inference_mode(inference), simulated_gpu() as device:
        plain, fixed = (slim(made(name, steps=5, **config)) for _ in range(2))
        place(plain.pipe, values="known")
        place(fixed.pipe, values="known")
        one, other = Run(plain, device), Run(fixed, device)
        first, report = one.call()
        expected = {5: first, 7: one.call(num_inference_steps=7)[0]}
        apply(fixed.pipe, fixes_for(report))
        for steps in (7, 5, 7):
            got, after = other.call(num_inference_steps=steps)
            assert same(got, expected[steps])
            assert in_loop(after.recording) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["LCMScheduler", "DDIMScheduler", "DDPMScheduler", "UniPCMultistepScheduler"]
)
@pytest.mark.parametrize("case", ["sdxl-img2img", "sdxl-inpaint", "sdxl-refiner"])
def test_a_schedule_that_begins_in_the_middle(name: str, case: str) -> None:
    with simulated_gpu() as device:
        plain, fixed = (slim(made(name, case, 6)) for _ in range(2))
        place(plain.pipe, values="known")
        place(fixed.pipe, values="known")
        expected, report = Run(plain, device).call()
        apply(fixed.pipe, fixes_for(report))
        got, after = Run(fixed, device).call()
        assert same(got, expected)
        assert in_loop(after.recording) == []


def hooks_of(pipe: Any) -> int:
    modules = {id(m): m for part in modules_of(pipe) for m in part.modules()}
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules.values())


ELSEWHERE = {
    "sd21-v-prediction": {"SYN001", "SYN003"},
    "marigold-depth": {"SYN002"},
    "wan-t2v": {"SYN008"},
    "shap-e": {"SYN001"},
    "cogvideox": {"SYN002"},
    "stable-cascade-prior": {"SYN001", "SYN008"},
    # `torch.tensor([t])` in the pipeline's loop, and `add_noise` of what comes of it.
    "sd15-inpaint-plain-unet": {"SYN005", "SYN007"},
    "kandinsky22-inpaint": {"SYN007"},
    "hunyuan-dit": {"SYN007", "SYN008"},
    "auraflow": {"SYN007", "SYN008"},
    # `if t >= boundary`, `float(sigmas[i])`, a guidance scale for each frame, in the pipeline and its mixins.
    "wan22-two-transformers": {"SYN001"},
    "stable-video-diffusion": {"SYN001"},
    "sdxl-pag": {"SYN001"},
    "ace-step": {"SYN001"},
    # Timesteps that the pipeline makes itself, for copies of the scheduler.
    "skyreels-v2-diffusion-forcing": {"SYN001", "SYN003"},
    # Timesteps on the host, and constants that the pipeline or a part of a model makes and sends.
    "ddpm": {"SYN008"},
    "ldm-text-to-image": {"SYN008"},
    "kandinsky5-image": {"SYN008"},
    "dit-class-conditional": {"SYN008"},
    "chroma": {"SYN008"},
    "animatediff-free-noise": {"SYN008"},
    # Masks and lengths of the prompt, and a hook that compares the timestep, in parts of a model.
    "hunyuan-image": {"SYN003"},
    "mochi": {"SYN003"},
    "wan-pyramid-attention-broadcast": {"SYN001"},
}
"""Pipelines -> rules that find something in their loops. Nothing is left there."""


@pytest.mark.slow
@pytest.mark.parametrize("name", one_in(4, dict(zip(ELSEWHERE, ELSEWHERE, strict=True))))
def test_other_pipelines(name: str) -> None:
    with simulated_gpu() as device:
        case = CASES[name].build()
        place(case.pipe, values="known")
        run = Run(case, device)
        expected, report = run.call()
        assert {f.rule for f in report.in_loop} >= ELSEWHERE[name]
        codes = fixes_for(report, shims=True)
        namespace = apply(case.pipe, codes)
        hooks = hooks_of(case.pipe)
        with around(codes, namespace):
            got, after = run.call()
        assert hooks_of(case.pipe) == hooks
        assert same(got, expected)
        assert in_loop(after.recording) == []


@pytest.mark.slow
def test_what_the_model_computes_is_asked_as_before() -> None:
    """Sizes are read on the host; the experts that the model chose are not known there."""
    with simulated_gpu() as device:
        case = CASES["hidream-moe"].build()
        place(case.pipe, values="known")
        run = Run(case, device)
        expected, report = run.call()
        codes = fixes_for(report, shims=True)
        with around(codes, apply(case.pipe, codes)):
            got, after = run.call()
        assert same(got, expected)
        assert {f.site.function for f in after.in_loop if f.site} == {"MOEFeedForwardSwiGLU.moe_infer"}


TABLES = {
    "cogview4": 16,
    "easyanimate": 8,
    "stable-audio": 12,
    "lumina2": 12,
    "lumina-next": 2,
}
"""Pipelines whose denoisers are given, keep or make tensors on the host -> uploads of them in the loop."""


@pytest.mark.parametrize("name", TABLES)
def test_host_tensors_of_a_denoiser(name: str) -> None:
    def sent(report: Report) -> list[Any]:
        rows = [row for row in report.recording.syncs or () if row.in_loop and row.kind == "host-to-device"]
        return [row for row in rows if "/models/" in row.site.file]

    with simulated_gpu() as device:
        case = CASES[name].build()
        place(case.pipe, values="known")
        run = Run(case, device)
        expected, report = run.call()
        assert sum(row.count for row in sent(report)) == TABLES[name]
        codes = fixes_for(report, shims=True)
        assert "host-tensors-once" in codes
        apply(case.pipe, codes)
        for first in (True, False):
            got, after = run.call()
            assert same(got, expected)
            assert all(sum(map(bool, row.by_step)) == 1 for row in sent(after)), "in one step, not in each"
            assert first or sum(row.count for row in sent(after)) <= 1


def host_tensors_once() -> Any:
    namespace: dict[str, Any] = {}
    code = fixes_code("host-tensors-once")
    exec("\n".join(code.imports) + "\n" + code.definitions, namespace)
    return namespace["_host_tensors_once"]


def test_what_the_host_computes_with_stays_on_the_host() -> None:
    """Sines and quotients of the host and of a GPU differ in the last bit, and a value read there waits."""

    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor, table: torch.Tensor, n: torch.Tensor) -> Any:
            self.devices = [each.device.type for each in (t, table, n)]
            rows = table[None, : int(n)].to(x.device)
            return x * torch.sin(t / 1000).to(x.device) + rows

    with simulated_gpu() as device, torch.no_grad():
        model = Model()
        host_tensors_once()(model)
        x, table = torch.ones(4, device=device), torch.arange(8.0)
        given = [model(x, torch.tensor(t), table, n=torch.tensor(4)) for t in (3.0, 3.0, 5.0)]
        assert model.devices == ["cpu", "sim", "cpu"]
        plain = [Model()(x, torch.tensor(t), table, n=torch.tensor(4)) for t in (3.0, 3.0, 5.0)]
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(given, plain, strict=True))


def test_a_compiled_model_is_left_alone() -> None:
    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.arange(4.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.table

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rotary, self.linear = Table(), torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.linear(self.rotary(x)) * t

    model, inputs = Model(), (torch.ones(2, 4), torch.tensor(3.0))
    expected = model(*inputs)
    host_tensors_once()(model, ("rotary",))
    model.compile(backend="eager", fullgraph=True)
    assert torch.equal(model(*inputs), expected)
    assert torch.equal(model.rotary.table, torch.arange(4.0))


def test_callbacks_that_change_the_latents_and_end_early() -> None:
    def callback(pipe: Any, index: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        assert float(t) > 0
        pipe._interrupt = index == 2
        return {"latents": kwargs["latents"] * 0.5}

    with simulated_gpu() as device:
        outputs = []
        codes: dict[str, Code] = {}
        for _ in range(2):
            case = slim(made("DDPMScheduler", steps=5))
            place(case.pipe, values="known")
            apply(case.pipe, codes)
            output, report = Run(case, device).call(callback_on_step_end=callback)
            outputs.append(output)
            codes = codes or fixes_for(report, shims=True)
        assert same(*outputs)


def test_a_table_that_is_written_in_place_is_read_anew() -> None:
    with simulated_gpu() as device:
        scheduler = df.DDIMScheduler()
        apply_to(scheduler, "host-timesteps")
        scheduler.set_timesteps(4, device=device)
        sample = torch.zeros(1, 4, 2, 2, device=device)
        t = scheduler.timesteps[1]
        t.fill_(10)
        got = scheduler.step(sample + 1, t, sample).prev_sample
        expected = df.DDIMScheduler()
        expected.set_timesteps(4)
        sample = torch.zeros(1, 4, 2, 2)
        assert torch.equal(got.cpu(), expected.step(sample + 1, torch.tensor(10), sample).prev_sample)


def apply_to(scheduler: Any, key: str) -> None:
    class Pipe:
        pass

    pipe: Any = Pipe()
    pipe.scheduler = scheduler
    recipe = next(r for r in RECIPES if r.fix.key == key)
    recording = make_recording(make_sync(owner="scheduler.sigmas", owner_device="device"))
    assert recipe.shim is not None
    code = recipe.shim(recording, [make_finding(fixes=(key,))])
    assert isinstance(code, Code)
    apply(pipe, {key: code})


# --- what the scheduler is afterwards ------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [r.fix.key for r in RECIPES if r.shim and r.fix.key not in ("host-copies", "host-tensors-once")]
)
def test_a_fixed_scheduler_is_still_what_it_was(key: str, tmp_path: Any) -> None:
    scheduler = df.DDIMScheduler(num_train_timesteps=500)
    before = dict(vars(scheduler))
    apply_to(scheduler, key)
    added = set(vars(scheduler)) - set(before)
    assert added <= {"step", "set_timesteps"}
    assert type(scheduler) is df.DDIMScheduler
    for method in ("step", "set_timesteps"):
        ours, theirs = (inspect.signature(getattr(s, method)) for s in (scheduler, df.DDIMScheduler()))
        assert ours == theirs
    copied = copy.deepcopy(scheduler)
    copied.set_timesteps(3)
    assert len(copied.timesteps) == 3
    assert len(scheduler.timesteps) == 500
    scheduler.save_pretrained(tmp_path)
    assert df.DDIMScheduler.from_pretrained(tmp_path).config.num_train_timesteps == 500
    for name in added:
        delattr(scheduler, name)
    assert vars(scheduler) == before


def test_a_copy_of_the_scheduler_made_in_the_call_is_fixed_too() -> None:
    with simulated_gpu() as device:
        scheduler = df.DDIMScheduler()
        apply_to(scheduler, "host-timesteps")
        scheduler.set_timesteps(4, device=device)
        other = copy.deepcopy(scheduler)
        sample = torch.zeros(1, 4, 2, 2, device=device)
        waits = []

        class Waits(Observer):
            def blocking(self, event: Any) -> None:
                waits.append(event)

        with observing(Waits()):
            for t in scheduler.timesteps:
                other.step(sample, t, sample)
        assert waits == []


def test_nothing_is_kept_of_a_schedule_that_is_gone() -> None:
    namespace: dict[str, Any] = {}
    code = fixes_code("host-timesteps")
    exec("\n".join(code.imports) + "\n" + code.definitions, namespace)
    with simulated_gpu() as device:
        scheduler = df.LCMScheduler()
        namespace["_answer_from_host"](scheduler, ("set_timesteps", "step"))
        sample = torch.zeros(1, 4, 2, 2, device=device)
        for _ in range(3):
            scheduler.set_timesteps(4, device=device)
            for t in scheduler.timesteps:
                scheduler.step(sample, t, sample)
        known = namespace["_known"].tensors
        del t
        assert sum(map(len, known.values())) == 1
        del scheduler
        gc.collect()
        assert sum(map(len, known.values())) == 0


def fixes_code(key: str) -> Code:
    recipe = next(r for r in RECIPES if r.fix.key == key)
    recording = make_recording(make_sync(owner="scheduler.sigmas", owner_device="device"))
    assert recipe.shim is not None
    code = recipe.shim(recording, [make_finding(fixes=(key,))])
    assert isinstance(code, Code)
    return code


# --- the code that is written --------------------------------------------------------------------------


def test_all_are_exact_and_need_no_diffprof() -> None:
    for recipe in RECIPES:
        assert recipe.fix.safety is Safety.EXACT
        assert recipe.shim is None or "diffprof" not in fixes_code(recipe.fix.key).shown


def test_the_methods_are_those_that_the_sites_were_reached_through() -> None:
    site = make_site(
        function="LCMScheduler._get_variance", chain=(make_site(function="LCMScheduler.add_noise"),)
    )
    recording = make_recording(make_sync(site=site))
    recipe = next(r for r in RECIPES if r.fix.key == "host-timesteps")
    assert recipe.shim is not None
    code = recipe.shim(recording, [make_finding(fixes=("host-timesteps",))])
    assert isinstance(code, Code)
    assert code.optimize == '_answer_from_host(pipe.scheduler, ("set_timesteps", "step", "add_noise"))'


def test_tables_without_a_name_are_no_case_for_a_fix() -> None:
    recipe = next(r for r in RECIPES if r.fix.key == "scheduler-tables-on-host")
    for write in (recipe.code, recipe.shim):
        assert write is not None
        assert isinstance(write(make_recording(make_sync()), [make_finding()]), Skipped)


def test_a_model_s_own_numbers_are_read_from_the_device() -> None:
    """A read of what the device has computed from the sample goes to the device, and is right."""

    class Looks(DeviceSigmas):
        seen: tuple[Any, ...] = ()

        def step(self, model_output: Any, *args: Any, **kwargs: Any) -> Any:
            self.seen = (*self.seen, float(model_output.abs().max() + self.sigmas[0]))
            return super().step(model_output, *args, **kwargs)

    with simulated_gpu() as device:
        seen = []
        for fixed in (False, True):
            scheduler = Looks()
            if fixed:
                apply_to(scheduler, "scheduler-tables-on-host")
            scheduler.set_timesteps(3, device=device)
            sample = torch.ones(1, 4, 2, 2, device=device)
            for t in scheduler.timesteps:
                sample = scheduler.step(sample, t, sample).prev_sample
            seen.append(scheduler.seen)
        assert seen[0] == seen[1]
        assert len(set(seen[0])) == 3
        assert isinstance(scheduler, DeviceSigmas)
        assert not isinstance(scheduler, MadeOnDevice)
    assert source({"x": fixes_code("upload-once")}).count("class _SmallUploads") == 1


# --- plain code in models -------------------------------------------------------------------------------

PLAIN = {
    "kandinsky5-image": 0,
    "ldm-text-to-image": 0,
    "lumina2": 2,
    "cogview4": 2,
    "chroma": 0,
    "allegro": 0,
    "mochi": 2,
    "hunyuan-image": 0,
    "hidream-moe": 12,
    "wan-pyramid-attention-broadcast": 0,
    "z-image-inpaint": 0,
    "kandinsky22-combined": 0,
    "stable-cascade-prior": 0,
    "stable-video-diffusion": 0,
    "leditspp-sd": 1,
}
"""Pipelines that wait in the middle of methods -> waits that plain code leaves: those of the first step, and
what a model's experts decide."""


@pytest.mark.parametrize("name", one_in(4, dict(zip(PLAIN, PLAIN, strict=True))))
def test_plain_code_leaves_hardly_a_wait_and_changes_no_bit(name: str) -> None:
    with simulated_gpu() as device:
        case = CASES[name].build()
        place(case.pipe, values="known")
        run = Run(case, device)
        expected, report = run.call()
        written = {
            r.fix.key: r.written(report.recording, own) for r in RECIPES if (own := named(report, r.fix.key))
        }
        codes = {key: code for key, code in written.items() if isinstance(code, Code)}
        assert codes
        assert not any(code.shim for code in codes.values())
        apply(case.pipe, codes)
        got, after = run.call()
        assert same(got, expected)
        assert sum(f.count for f in after.in_loop) == PLAIN[name]


def named(report: Report, key: str) -> list[Any]:
    return [f for f in report.in_loop if key in f.fixes]
