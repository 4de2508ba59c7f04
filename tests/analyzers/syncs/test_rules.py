"""What the sync rules say about a row."""

from __future__ import annotations

import pytest
from msgspec import structs

from diffprof.judge.rules import judge
from diffprof.model.finding import Severity
from diffprof.model.recording import (
    Component,
    DeviceInfo,
    Grade,
    MemoryHolder,
    MemoryKind,
    MemoryUse,
    Setup,
    SetupPart,
    TargetInfo,
)
from tests.builders import make_recording, make_site, make_sync


def only(recording):
    findings, _ = judge(recording)
    found = [f for f in findings if f.rule.startswith("SYN")]
    assert len(found) == 1, [f.rule for f in found]
    return found[0]


def test_a_finding_names_the_attribute_on_the_wrong_side():
    finding = only(make_recording(make_sync("value-read", owner="scheduler.sigmas", owner_device="device")))
    assert "`scheduler.sigmas` is on the device" in finding.message
    assert "scheduler-tables-on-host" in finding.fixes


def test_a_host_table_is_named_with_its_index():
    row = make_sync("value-read", owner="scheduler.alphas_cumprod", owner_device="cpu", index="timestep")
    finding = only(make_recording(row))
    assert "`scheduler.alphas_cumprod` is on the CPU and is indexed by `timestep`" in finding.message
    assert finding.fixes == ("host-timesteps",)


def test_an_assumed_value_is_said():
    finding = only(make_recording(make_sync("value-read", values_known=False, assumed="False")))
    assert "went on with False" in (finding.cost_note or "")


@pytest.mark.parametrize("read", ["t", "timestep", "image.min()", None])
@pytest.mark.parametrize("in_loop", [True, False])
def test_only_a_timestep_of_the_loop_is_told_to_zip_timesteps(read, in_loop):
    row = make_sync(
        "value-read", in_loop=in_loop, read=read, owner=None, part=None, site=make_site(module=None)
    )
    advice = only(make_recording(row)).advice
    assert ("zip(timesteps" in advice) == (in_loop and read in ("t", "timestep"))


@pytest.mark.parametrize("owner", ["scheduler.timesteps", None])
def test_only_a_step_of_the_scheduler_is_told_to_look_at_its_index(owner):
    """`set_timesteps` runs before there is one."""
    step = make_sync("value-read", part="scheduler", owner=owner, owner_device="device")
    assert "self.step_index" in only(make_recording(step)).advice
    before = structs.replace(step, in_loop=False)
    assert "self.step_index" not in only(make_recording(before)).advice


def test_what_is_read_once_is_not_told_to_be_read_in_fewer_steps():
    """Outside of the loop there are no steps."""
    row = make_sync("value-read", values_known=False)
    assert "fewer steps" in only(make_recording(row)).advice
    assert "step" not in only(make_recording(structs.replace(row, in_loop=False))).advice


def test_the_copy_of_the_finished_image_is_for_information():
    finding = only(make_recording(make_sync("device-to-host", in_loop=False, phase="postprocess")))
    assert finding.severity is Severity.INFO
    assert "result" in finding.message


def test_severity_follows_the_loop():
    every = only(make_recording(make_sync("value-read")))
    first = only(
        make_recording(
            make_sync("value-read", count=1, by_step=(1, 0, 0), per_step=0.0, first_step_only=True)
        )
    )
    outside = only(make_recording(make_sync("value-read", in_loop=False)))
    assert [f.severity for f in (every, first, outside)] == [Severity.HIGH, Severity.MEDIUM, Severity.LOW]
    assert first.first_step_only


def test_constant_uploads_are_told_from_changing_ones():
    same = only(make_recording(make_sync("host-to-device", constant=True)))
    other = only(make_recording(make_sync("host-to-device", constant=False)))
    assert same.message.startswith("The same host data")
    assert other.message.startswith("Host data")


def test_offloading_is_one_finding_inside_the_loop_and_one_outside():
    rows = [make_sync("host-to-device", offload=True, bytes=10, site=make_site(line=n)) for n in range(1, 4)]
    rows.append(make_sync("device-to-host", in_loop=False, offload=True, bytes=5))
    findings, _ = judge(make_recording(*rows))
    offload = [f for f in findings if f.rule == "SYN010"]
    assert [(f.in_loop, f.count, f.per_step) for f in offload] == [(True, 12, 3.0), (False, 1, 0.0)]
    assert offload[0].evidence.syncs == (0, 1, 2)
    assert {f.rule for f in findings if f.rule.startswith("SYN")} == {"SYN010"}


@pytest.mark.parametrize(("weights", "stays"), [(8, True), (12, False)])
def test_what_can_not_stay_on_the_device_saves_nothing_by_staying(weights: int, stays: bool):
    parts = (SetupPart(name="unet", role="denoiser", dtypes={"bfloat16": weights * 2**30}),)
    held = MemoryHolder(kind=MemoryKind.ACTIVATIONS, bytes=2 * 2**30)
    recording = structs.replace(
        make_recording(make_sync("host-to-device", offload=True)),
        device=DeviceInfo(
            spec="sim:small", kind="sim", name="small", grade=Grade.SIMULATED, memory_bytes=12 * 2**30
        ),
        setup=Setup(parts=parts, offload="model"),
        memory=MemoryUse(grade=Grade.SIMULATED, peak_bytes=4 * 2**30, at_peak=(held,)),
    )
    (finding,) = [f for f in judge(recording)[0] if f.rule == "SYN010"]
    assert bool(finding.evidence.syncs) is bool(finding.fixes) is stays
    assert ("diffprof fit" in finding.advice) is not stays
    assert ("14 GiB; this one has 12 GiB" in (finding.cost_note or "")) is not stays


def test_a_search_for_the_first_timestep_names_its_fix():
    chain = (make_site(function="EulerDiscreteScheduler._init_step_index"),)
    site = make_site(function="EulerDiscreteScheduler.index_for_timestep", chain=chain)
    assert only(make_recording(make_sync("data-dependent-shape", site=site))).fixes == ("set-begin-index",)
    assert only(make_recording(make_sync("value-read", site=site))).fixes == ("set-begin-index",)


def test_a_search_in_every_step_is_no_search_for_the_first():
    site = make_site(function="DDPMScheduler.previous_timestep")
    row = make_sync("data-dependent-shape", site=site, owner="scheduler.timesteps", owner_device="device")
    assert only(make_recording(row)).fixes == ("host-timesteps",)


def test_no_fix_is_named_where_none_helps():
    """The host can't know what a model has computed, nor send beforehand what is new in each step."""
    for row in (
        make_sync("value-read", values_known=False, assumed="False"),
        make_sync("device-to-host", part="callback", values_known=False),
        make_sync("value-read", in_loop=False),
        make_sync("host-to-device", part=None, shape=(1, 4, 64, 64), constant=False),
        make_sync("host-to-device", shape=(1, 4, 64, 64), constant=False),
        make_sync("synchronize"),
    ):
        assert only(make_recording(row)).fixes == ()


def test_what_the_host_has_sent_is_read_there_wherever_it_is_asked():
    for row in (
        make_sync("value-read", part="denoiser"),
        make_sync("value-read", part=None),
        make_sync("data-dependent-shape", part="denoiser"),
        make_sync("tensor-from-device-scalars", part=None),
    ):
        assert only(make_recording(row)).fixes == ("edited-lines", "host-copies")
    site = make_site(function="UniPCMultistepScheduler._init_step_index", module=None)
    found = only(make_recording(make_sync("value-read", site=site)))
    assert found.fixes == ("set-begin-index", "host-copies")


def test_a_local_tensor_is_named():
    finding = only(make_recording(make_sync("value-read", part=None, read="t")))
    assert "`t` is on the device" in finding.message
    assert "value of `t`" in finding.advice


def test_advice_names_the_part_of_the_model_and_the_form_to_write():
    def advice(kind, line, module=None, **more):
        site = make_site(line=7, excerpt=((7, line),), module=module)
        return only(make_recording(make_sync(kind, site=site, part="denoiser", **more))).advice

    constant = {"constant": True, "shape": (64,)}
    kept_table = advice("host-to-device", "x = self.freqs.to(d)", "unet.rope", **constant)
    assert "buffer of `unet.rope`" in kept_table
    assert "`torch.full`" in advice("host-to-device", "x = torch.tensor(w, device=d)", "unet", **constant)
    assert "t.expand(n)" in advice("tensor-from-device-scalars", "x = torch.tensor([t] * n)")
    assert "scatter_add_" in advice("data-dependent-shape", "n = i.bincount()", op="aten::bincount")
    assert "once after it" in advice("device-to-host", "self.m[i] = x.cpu()", values_known=False)
    decides = advice("device-to-host", "if d.cpu().item() > 1:", values_known=False, shape=())
    assert decides.startswith("Keep the decision on the device")
    assert "solve_ex" in advice("library-check", "x = torch.linalg.solve(a, b)")
    kept = {"count": 1, "by_step": (1, 0, 0, 0), "first_step_only": True}
    assert "Later calls" in advice("host-to-device", "self.freqs = self.freqs.to(d)", "unet.rope", **kept)


def test_uploads_of_a_scheduler_name_their_fix():
    for row in (
        make_sync("host-to-device"),
        make_sync("host-to-device", count=1, by_step=(1, 0, 0, 0), first_step_only=True),
        make_sync("staged-copy"),
        make_sync("library-check"),
    ):
        assert only(make_recording(row)).fixes == ("upload-once",)


def test_an_upload_in_two_steps_recurs_and_is_worth_keeping():
    large = {"shape": (1024, 1024), "part": "denoiser", "constant": True}
    twice = only(make_recording(make_sync("host-to-device", count=2, by_step=(0, 1, 1, 0), **large)))
    once = only(make_recording(make_sync("host-to-device", count=1, by_step=(0, 1, 0, 0), **large)))
    assert twice.fixes == ("edited-lines", "upload-once")
    assert once.fixes == ()


@pytest.mark.parametrize(("numbers", "fixes"), [(8, ("edited-lines", "upload-once")), (9, ())])
def test_up_to_eight_numbers_are_written_by_a_fill_kernel(numbers, fixes):
    row = make_sync("host-to-device", part="denoiser", shape=(numbers,), constant=False)
    assert only(make_recording(row)).fixes == fixes


def test_a_read_in_the_scheduler_between_its_steps_is_the_schedulers():
    parts = (Component(name="scheduler", role="scheduler", cls="EulerDiscreteScheduler"),)
    scheduler = TargetInfo(spec="sdxl", kind="builtin", pipeline="Pipeline", components=parts)
    of_scheduler = make_sync("value-read", part=None, site=make_site(module="scheduler"))
    of_pipeline = make_sync("value-read", part=None, site=make_site(module=None))
    assert only(make_recording(of_scheduler, target=scheduler)).fixes == ("host-timesteps",)
    assert only(make_recording(of_pipeline, target=scheduler)).fixes == ("edited-lines", "host-copies")


@pytest.mark.parametrize(
    "excerpt",
    [
        ((448, "noise = torch.randn(shape).to(device)"),),
        ((447, "noise = torch.randn(shape, generator=g)"), (448, "x = x + noise.to(device)")),
        ((446, "eps = torch.normal(0.0, 1.0, shape)"), (448, "return x + eps.to(device)")),
    ],
)
def test_noise_that_a_scheduler_draws_on_the_host_is_to_be_drawn_on_the_device(excerpt):
    row = make_sync("host-to-device", shape=(1, 4, 64, 64), constant=False, site=make_site(excerpt=excerpt))
    assert only(make_recording(row)).advice.startswith("Draw it on the device")


def test_a_table_beside_a_draw_is_still_a_table():
    excerpt = ((447, "noise = torch.randn(shape)"), (448, "sigma = self.sigmas[i].to(device)"))
    row = make_sync("host-to-device", shape=(), constant=False, site=make_site(excerpt=excerpt))
    assert only(make_recording(row)).advice.startswith("In `set_timesteps` put the table")


def test_counts_that_python_slices_by_are_not_told_to_stay_on_the_device():
    counts = make_sync("device-to-host", values_known=False, dtype="int64")
    picture = make_sync("device-to-host", values_known=False, dtype="uint8")
    assert "can't stay on the device" in only(make_recording(counts)).advice
    assert "Leave it on the device" in only(make_recording(picture)).advice
