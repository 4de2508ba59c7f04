"""Fixes tried on tiny pipelines: kept, undone, failed, interrupted; nothing left behind."""

from __future__ import annotations

import itertools
import time

import pytest
import torch

from diffprof.analyzers.setup.precision import TF32_TOLERANCE
from diffprof.judge.plan import Choice
from diffprof.model.errors import TargetError, UsageError
from diffprof.model.fix import Code, Reason, Safety, Simulated, Skipped, Stage, Status
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options
from diffprof.tuning import compiled_twin, trial
from diffprof.tuning.difference import TF32
from diffprof.tuning.engine import tune
from tests.fake_cuda import micro
from tests.tuning.conftest import HOST_TIMESTEPS, made

SMALLEST = f"{micro.__file__}:stable_diffusion"
OPTIONS = Options(scheduler="DDIMScheduler", steps=3)
UPDATE = Code(optimize="pipe.unet.conv_in.weight.data.mul_(1.5)")


@pytest.fixture(autouse=True)
def few_passes(monkeypatch):
    monkeypatch.setattr(trial, "PASSES", 1)
    monkeypatch.setattr(trial, "ROUNDS", 1)


@pytest.fixture(scope="module")
def scanned():
    looked = {"sim:a100-80gb": (), "cpu": ("syncs",)}
    return {
        name: scan_target(SMALLEST, device=name, options=OPTIONS, analyzers=chosen)
        for name, chosen in looked.items()
    }


@pytest.fixture
def tried(offered, scanned, unchanged):
    """`tried("cpu", recipe, ...)` -> (outcomes by fix, what tune gave)."""

    def run(device, *recipes, choice=None, rule="SYN002", **more):
        offered(*recipes, rule=rule)
        report = offered.named(scanned[device])
        tuned = tune(report, choice or Choice(lossy=True), **more)
        assert tuned.report.outcomes is not None
        return {outcome.fix: outcome for outcome in tuned.report.outcomes}, tuned

    return run


def still(*_):
    """A clock by which every call takes a second."""
    ticks = itertools.count()
    return lambda: float(next(ticks))


@pytest.mark.nightly
def test_an_exact_fix_without_gain_is_kept_for_what_it_resolves(tried):
    outcomes, tuned = tried("cpu", made("host-timesteps", HOST_TIMESTEPS), clock=still())
    kept = outcomes["host-timesteps"]
    assert kept.status is Status.KEPT
    assert (kept.before_ms, kept.after_ms, kept.spread_ms, kept.grade) == (1000.0, 1000.0, None, "measured")
    assert (kept.in_loop_before, kept.in_loop_after) == (16, 0)
    assert kept.resolved == ("SYN002",)
    assert kept.difference.bit_equal
    assert kept.max_abs_diff == 0.0
    assert kept.difference.compared_on == "cpu, the pipeline itself"
    assert kept.why == (
        "No time gained, at no cost. 0 blocking operations in the loop, 16 before. SYN002 no longer found."
    )
    assert kept.written == HOST_TIMESTEPS
    assert tuned.after is not None
    assert tuned.after.recording.target.fixed == ("host-timesteps",)
    assert tuned.after.recording.target.steps == 3
    assert [f for f in tuned.after.in_loop if f.rule.startswith("SYN")] == []


@pytest.mark.slow
def test_on_a_simulated_gpu_outputs_are_compared_on_a_twin(tried):
    outcomes, tuned = tried(
        "sim:a100-80gb",
        made("host-timesteps", HOST_TIMESTEPS),
        made("changes", UPDATE, stage=Stage.MODEL),
        choice=Choice(),
    )
    kept = outcomes["host-timesteps"]
    assert (kept.status, kept.grade) == (Status.KEPT, "simulated")
    assert (kept.in_loop_before, kept.in_loop_after) == (16, 0)
    assert kept.difference.bit_equal
    assert "twin of StableDiffusionPipeline with widths divided by" in kept.difference.compared_on
    assert kept.difference.compared_on.endswith("random weights, on sim:a100-80gb with values")
    changed = outcomes["changes"]
    assert changed.status is Status.UNDONE
    assert changed.reason is Reason.CHANGED
    assert changed.difference.psnr_db is not None
    assert changed.difference.ssim < 1.0
    assert tuned.report.plan is not None


@pytest.mark.slow
def test_each_fix_is_told_the_share_of_its_own_python(tried, monkeypatch):
    took = iter([1.0, 0.5, 0.4])
    monkeypatch.setattr(trial, "cpu_seconds", lambda call: next(took))
    modelled = Simulated(int8=())
    outcomes, _ = tried(
        "sim:a100-80gb",
        made("first", Code(definitions="_A = 1"), stage=Stage.MODEL),
        made("second", Code(definitions="_B = 1"), stage=Stage.SCHEDULER),
        made("third", Code(definitions="_C = 1"), stage=Stage.DTYPE, modelled=lambda *_: modelled),
        choice=Choice(),
    )
    assert outcomes["first"].python_ratio == 0.5
    assert outcomes["second"].python_ratio == 0.8
    assert "takes 0.80 times what it took." in outcomes["second"].why
    assert outcomes["third"].python_ratio is None
    assert "Python outside" not in outcomes["third"].why


DEVICE_ONLY = """
conv = pipe.unet.conv_in
conv.register_forward_hook(lambda module, given, result: result if result.device.type == "cpu" else {result})
"""


@pytest.mark.slow
def test_what_acts_on_device_tensors_alone_is_compared(tried):
    """As most fixes of waits do: on the CPU they have nothing to do."""
    layers = made("layers", Code(optimize="pipe.unet.fuse_qkv_projections()"), stage=Stage.MODEL)
    wrong = made("wrong", Code(optimize=DEVICE_ONLY.format(result="result * 1.5")), stage=Stage.MODEL)
    broken = made("broken", Code(optimize=DEVICE_ONLY.format(result="result.numpy()")), stage=Stage.MODEL)
    outcomes, _ = tried("sim:a100-80gb", layers, wrong, broken, choice=Choice())
    assert outcomes["layers"].max_abs_diff < 1e-4, "layers that a fix makes have the weights it gives them"
    assert outcomes["wrong"].status is Status.UNDONE
    assert outcomes["wrong"].reason is Reason.CHANGED
    assert outcomes["broken"].why.startswith("It raised ")


@pytest.mark.slow
def test_a_twin_that_can_not_stand_on_the_simulated_gpu_is_compared_on_the_cpu(tried, monkeypatch):
    def place(*_, **__):
        raise UsageError("no", "room")

    monkeypatch.setattr(trial, "place", place)
    outcomes, _ = tried("sim:a100-80gb", made("host-timesteps", HOST_TIMESTEPS), choice=Choice())
    assert outcomes["host-timesteps"].difference.bit_equal
    assert outcomes["host-timesteps"].difference.compared_on.endswith(
        "random weights, on the CPU, where what a fix does to device tensors is not seen "
        "(on sim:a100-80gb it raised UsageError: no)"
    )


@pytest.mark.slow
def test_what_raises_is_undone_and_the_next_is_tried(tried):
    outcomes, _ = tried(
        "cpu",
        made("raises", Code(optimize="pipe.unet = None\npipe.vae.x = 1\nraise ValueError('no')")),
        made("fails-later", Code(optimize="pipe.scheduler.step = None")),
        made("no-syntax", Code(optimize="pipe.(")),
        made("two-lines", Code(optimize="raise ValueError('inductor raised:\\nNoCompiler: g++')")),
        made("host-timesteps", HOST_TIMESTEPS),
        clock=still(),
    )
    assert outcomes["raises"].status is Status.FAILED
    assert outcomes["raises"].why == ("It raised ValueError: no at \"raise ValueError('no')\"; undone.")
    assert outcomes["fails-later"].status is Status.FAILED
    assert outcomes["no-syntax"].status is Status.FAILED
    assert "inductor raised: NoCompiler: g++" in outcomes["two-lines"].why
    assert outcomes["host-timesteps"].status is Status.KEPT


@pytest.mark.slow
def test_what_is_slower_or_gains_nothing_is_undone(tried):
    # Each pass of the baseline takes a second; after the first fix two, after the second one again.
    lengths = {"slower": 2.0, "idle": 1.0}
    passed = [0.0]
    state = {"name": None}

    def clock():
        passed[0] += lengths.get(state["name"], 1.0) / 2
        return passed[0]

    def telling(name):
        def code(recording, findings):
            return Code(optimize=f"pipe.vae.told = {name!r}")

        return code

    own = trial.clean_passes

    def clean_passes(call, *args, **more):
        pipe = call.__self__.pipe
        state["name"] = vars(pipe.vae).get("told")
        return own(call, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "clean_passes", clean_passes)
        outcomes, tuned = tried(
            "cpu",
            made("slower", telling("slower")),
            made("idle", telling("idle"), Safety.NUMERIC),
            clock=clock,
        )
    assert outcomes["slower"].status is Status.UNDONE
    assert outcomes["slower"].why == "It is 500 ms slower, of 500 ms."
    assert outcomes["idle"].status is Status.UNDONE
    assert "could change the output for nothing" in outcomes["idle"].why
    assert tuned.after is None


@pytest.mark.slow
def test_global_settings_of_what_was_kept_are_gone_at_the_end(tried):
    code = Code(
        imports=("import torch", "import torch._inductor.config"),
        optimize='torch.set_float32_matmul_precision("high")\ntorch._inductor.config.conv_1x1_as_mm = True',
    )
    outcomes, _ = tried("cpu", made("tf32", code, Safety.LOSSY), clock=iter_faster().__next__)
    assert outcomes["tf32"].status is Status.KEPT
    assert torch.get_float32_matmul_precision() == "highest"


def iter_faster():
    """A clock by which every pass is a little shorter than the one before."""
    now, length = 0.0, 1.0
    while True:
        yield now
        now += length
        length *= 0.8


@pytest.mark.slow
def test_definitions_accumulate_and_are_undone(tried):
    outcomes, _ = tried(
        "cpu",
        made("first", Code(definitions="_A = 1", call="kwargs['output_type'] = 'latent'"), Safety.LOSSY),
        made("second", Code(optimize="assert _A == 1"), Safety.LOSSY, Stage.DTYPE),
        clock=still(),
    )
    assert outcomes["first"].status is Status.UNDONE
    assert outcomes["second"].status is Status.FAILED
    assert "NameError" in outcomes["second"].why


@pytest.mark.nightly
def test_a_context_stands_around_every_call(tried):
    code = Code(
        imports=("import contextlib",),
        definitions="_seen = []\n\n\n@contextlib.contextmanager\n"
        "def _counting():\n    _seen.append(1)\n    yield",
        around="_counting()",
    )
    after = Code(optimize="assert len(_seen) > 3")
    outcomes, _ = tried(
        "cpu",
        made("around", code, Safety.LOSSY, Stage.MODEL),
        made("check", after, Safety.LOSSY, Stage.CALL),
        clock=iter_faster().__next__,
    )
    assert outcomes["around"].status is Status.KEPT
    assert outcomes["check"].status is Status.KEPT


@pytest.mark.slow
def test_what_does_not_fit_or_is_resolved_already_is_skipped(tried):
    outcomes, _ = tried(
        "sim:a100-80gb",
        made("host-timesteps", HOST_TIMESTEPS),
        made("same", HOST_TIMESTEPS, stage=Stage.DTYPE),
        made("unfit", HOST_TIMESTEPS, stage=Stage.MODEL, fits=lambda pipe: "It has no such switch."),
        made("advice", Code(), Safety.ADVICE),
        made("skipped", lambda recording, findings: Skipped("not here"), stage=Stage.PLACEMENT),
    )
    assert outcomes["same"].status is Status.SKIPPED
    assert outcomes["same"].why == "An earlier fix has already resolved what it is for."
    assert outcomes["unfit"].why == "It has no such switch."
    assert outcomes["advice"].status is Status.ADVICE
    assert (outcomes["skipped"].status, outcomes["skipped"].why) == (Status.SKIPPED, "not here")


def compiling(code):
    return made(
        "compile",
        code,
        Safety.NUMERIC,
        Stage.COMPILE,
        modelled=lambda recording, findings: Simulated(compiled=True),
    )


@pytest.mark.nightly
def test_compiling_is_modelled_on_a_simulated_gpu_and_compared_on_a_twin(tried):
    outcomes, _ = tried("sim:a100-80gb", compiling(Code(optimize="pipe.unet.conv_in.compile()")))
    kept = outcomes["compile"]
    assert kept.status is Status.KEPT
    assert kept.after_ms < kept.before_ms / 2
    assert kept.difference.why_not is None
    assert kept.max_abs_diff < 1e-4
    assert kept.difference.compared_on.endswith(
        "on the CPU, captured by torch.compile, run with Inductor's decompositions"
    )


@pytest.mark.nightly
def test_compiled_code_that_computes_something_else_is_undone(tried):
    code = Code(
        imports=("import torch",),
        definitions="def _is_compiled():\n    return torch.compiler.is_compiling()\n",
        optimize="forward = pipe.unet.conv_in.forward\n"
        "pipe.unet.conv_in.forward = lambda x: forward(x) + 100 * _is_compiled()\n"
        "pipe.unet.conv_in.compile(fullgraph=True)",
    )
    outcomes, _ = tried("sim:a100-80gb", compiling(code))
    assert outcomes["compile"].status is Status.UNDONE
    assert outcomes["compile"].reason is Reason.CHANGED


@pytest.mark.nightly
def test_hooks_that_a_fix_left_are_compiled_with_the_model(tried):
    """Dynamo looks up the globals of what it inlines in the module that they name."""
    code = Code(
        definitions="_ONE = 1\n\n\ndef _same(module, args, result):\n    return result * _ONE\n",
        optimize="pipe.unet.conv_in.register_forward_hook(_same)\npipe.unet.conv_in.compile(fullgraph=True)",
    )
    outcomes, _ = tried("sim:a100-80gb", compiling(code))
    assert outcomes["compile"].difference.why_not is None
    assert outcomes["compile"].status is Status.KEPT


@pytest.mark.slow
def test_a_fix_that_adds_kinds_of_kernels_is_judged_like_any_other(tried):
    """A fix that adds kinds of kernels is judged like any other."""
    code = Code(
        definitions="def _same(module, args, result):\n    return result.flip(0, 1, 2).flip(0, 1, 2)\n",
        optimize="pipe.unet.conv_in.register_forward_hook(_same)\n"
        "pipe.vae.decoder.conv_in.register_forward_hook(_same)",
    )
    outcomes, _ = tried("sim:a100-80gb", made("flips", code))
    assert outcomes["flips"].status is Status.UNDONE
    assert outcomes["flips"].difference.bit_equal


@pytest.mark.slow
def test_the_scan_after_an_earlier_try_is_not_named_again(offered, scanned, unchanged):
    from msgspec.structs import replace

    offered(made("nothing", Code()), rule="SYN002")
    report = replace(offered.named(scanned["sim:a100-80gb"]), after="20260101-000000-earlier")
    tuned = tune(report)
    assert tuned.after is None
    assert tuned.report.after is None


@pytest.mark.nightly
def test_a_compiled_twin_that_can_not_be_called_is_named(tried, monkeypatch):
    breaking = "pipe.vae.decode = torch.compile(lambda *a, **k: torch._dynamo.graph_break(), fullgraph=True)"
    code = Code(imports=("import torch",), optimize=breaking)
    outcomes, _ = tried("sim:a100-80gb", compiling(code))
    assert outcomes["compile"].status is Status.UNCHECKED
    assert (
        "could not be checked: the compiled twin could not be called: Unsupported" in outcomes["compile"].why
    )
    monkeypatch.setattr(compiled_twin, "LIMIT_SECONDS", 0.0)
    call = compiled_twin.output_of

    def long(pipeline_call):
        """Until somebody has looked how long it takes."""
        begun = time.process_time()
        while time.process_time() < begun + 1.0:
            pass
        return call(pipeline_call)

    monkeypatch.setattr(compiled_twin, "output_of", long)
    quick = compiling(Code(optimize="pipe.unet.conv_in.compile()"))
    outcomes, tuned = tried("sim:a100-80gb", quick, choice=Choice(lossy=True, keep_unchecked=True))
    assert outcomes["compile"].status is Status.KEPT_UNCHECKED
    assert outcomes["compile"].difference.why_not.endswith("it took longer than 0 s of CPU time")
    assert tuned.after is not None


@pytest.mark.nightly
def test_comparing_compiled_code_leaves_dynamo_alone(tried):
    """Code that the caller compiled is neither forgotten nor compiled again."""
    compiles = []

    def backend(module, example_inputs):
        compiles.append(1)
        return module.forward

    own = torch.compile(lambda x: x + 1, backend=backend)
    own(torch.ones(2))
    tried("sim:a100-80gb", compiling(Code(optimize="pipe.unet.conv_in.compile()")))
    own(torch.ones(2))
    assert len(compiles) == 1


@pytest.mark.nightly
@pytest.mark.parametrize(
    "scheduler",
    ["DDIM", "DDPM", "LCM", "TCD", "UniPCMultistep", "SASolver"],
)
def test_no_scheduler_blocks_after_its_fix_and_the_image_is_the_same(scheduler, unchanged):
    options = Options(
        scheduler=f"{scheduler}Scheduler", steps=4, height=64, width=64, call={"output_type": "np"}
    )
    report = scan_target("tiny-sdxl", device="cpu", options=options, analyzers=("syncs",))
    tuned = tune(report, Choice(select=("SYN",)), clock=still())
    assert report.in_loop
    assert tuned.after is not None
    assert tuned.after.recording.syncs is not None
    assert [row for row in tuned.after.recording.syncs if row.in_loop] == []
    tried = [o for o in tuned.report.outcomes or () if o.before_ms is not None]
    assert {o.status for o in tried} == {Status.KEPT}
    assert all(o.from_baseline.bit_equal for o in tried)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "sim:a100-80gb"])
def test_an_interruption_keeps_the_outcomes_until_then(offered, scanned, unchanged, device):
    stop = Code(optimize="pipe.vae.x = 1\nraise KeyboardInterrupt")
    offered(
        made("host-timesteps", HOST_TIMESTEPS),
        made("stop", stop, stage=Stage.DTYPE),
        made("never", Code(), stage=Stage.CALL),
        rule="SYN",  # those outside the loop stay
    )
    report = offered.named(scanned[device])
    with pytest.raises(KeyboardInterrupt) as caught:
        tune(report, clock=still())
    outcomes = {o.fix: o.status for o in caught.value.report.outcomes}
    assert outcomes == {"host-timesteps": Status.KEPT, "stop": Status.INTERRUPTED}
    assert caught.value.report.plan is not None


@pytest.mark.slow
def test_targets_that_cannot_be_built_again(scanned):
    from msgspec.structs import replace

    report = scanned["cpu"]

    def of(**more):
        target = replace(report.recording.target, **more)
        return replace(report, recording=replace(report.recording, target=target))

    for changed, message in (
        ({"kind": "object"}, "live pipeline"),
        ({"kind": "trace"}, "no pipeline to change"),
        ({"lost": ("latents",)}, "can't hold: latents"),
        ({"fixed": ("a",)}, "after fixes"),
        ({"spec": "nowhere.py:f", "kind": "factory"}, "no file"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            tune(of(**changed))
        assert caught.value.hint


@pytest.mark.slow
def test_a_target_that_fails_when_it_is_built_again_says_so(scanned, offered):
    from msgspec.structs import replace

    report = scanned["cpu"]
    options = {**report.recording.target.options, "call": {"prompt_embeds": 1}}
    target = replace(report.recording.target, options=options)
    with pytest.raises(TargetError, match="stable_diffusion failed"):
        tune(replace(report, recording=replace(report.recording, target=target)))


@pytest.mark.nightly
def test_a_setting_that_holds_during_the_call_alone_counts_on_a_simulated_gpu():
    """TF32 is set around the call; the products of the float32 pipeline are priced in it, and their operands
    cut where the twin's output is compared."""
    options = Options(steps=1, height=512, width=512)
    report = scan_target("sd15", device="sim:a100-80gb", options=options)
    promised = next(f for f in report.findings if f.rule == "KRN005").saves_ms
    (outcome,) = (o for o in tune(report, Choice(select=("tf32",))).report.outcomes if o.fix == "tf32")
    assert (outcome.status, outcome.resolved) == (Status.KEPT, ("KRN005",))
    assert 0.0 < outcome.difference.max_abs < TF32_TOLERANCE
    assert outcome.difference.compared_on.endswith(TF32)
    assert outcome.before_ms - outcome.after_ms == pytest.approx(promised, rel=0.05)


@pytest.mark.slow
def test_what_its_user_compiled_is_tried_as_compiled(offered, unchanged, tmp_path):
    file = tmp_path / "compiled.py"
    file.write_text(
        "from tests.fake_cuda.micro import stable_diffusion\n\n\ndef make():\n"
        "    pipe, call = stable_diffusion()\n    pipe.unet.compile(mode='reduce-overhead', fullgraph=True)\n"
        "    return pipe, call\n"
    )
    offered(made("host-timesteps", HOST_TIMESTEPS), rule="SYN002")
    report = offered.named(scan_target(f"{file}:make", device="sim:a100-80gb", options=OPTIONS))
    assert report.recording.timeline.mode == "compiled"
    (outcome,) = tune(report, Choice()).report.outcomes
    assert outcome.status is Status.KEPT
    assert outcome.before_ms == pytest.approx(report.verdict.call_ms, rel=1e-6)


@pytest.mark.nightly
def test_what_breaks_a_graph_is_not_compiled_as_one(tmp_path):
    """Nobody looked for graph breaks before; `fullgraph=True` would raise for this denoiser."""
    factory = tmp_path / "broken.py"
    factory.write_text(
        """\
import torch
from diffusers import UNet2DConditionModel
from tests.analyzers.quantization.pipelines import with_tiny_sdxl


class Broken(UNet2DConditionModel):
    def forward(self, sample, *args, **kwargs):
        torch._dynamo.graph_break()
        return super().forward(sample, *args, **kwargs)


def make():
    pipe = with_tiny_sdxl(lambda call: call.pipe)
    pipe.unet.__class__ = Broken
    return pipe, {"prompt": "a cat", "num_inference_steps": 2, "height": 64, "width": 64}
"""
    )
    report = scan_target(f"{factory}:make", device="sim:a100-80gb")
    tuned = tune(report, Choice(select=("compile",)))
    (outcome,) = (o for o in tuned.report.outcomes if o.fix == "compile")
    assert outcome.status is Status.KEPT
    assert "pipe.unet.compile(options=_OPTIONS)" in outcome.code
    assert "torch.compile(pipe.vae.decode, fullgraph=True, options=_OPTIONS)" in outcome.code
    assert "Dynamo captures vae.decode" in outcome.why
    assert "It breaks the graph of unet (1 break)" in outcome.why
