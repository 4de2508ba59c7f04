"""Full-size SDXL on a simulated GPU: every blocking operation with its line, and no other.

Lines are those of diffusers 0.42.1, found by two independent emulations that agree.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof.model.recording import Recording
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options
from diffprof.views.brief import render_brief

pytestmark = pytest.mark.skipif(
    version("diffusers") != "0.42.1", reason="lines are those of diffusers 0.42.1"
)

PIPELINE = "diffusers/pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py"
SCHEDULERS = "diffusers/schedulers/"
STEPS = 4

OUTSIDE_OF_EULER = {
    ("host-to-device", PIPELINE, 406): 2,
    ("host-to-device", SCHEDULERS + "scheduling_euler_discrete.py", 471): 1,
    ("host-to-device", SCHEDULERS + "scheduling_euler_discrete.py", 477): 1,
    ("device-to-host", SCHEDULERS + "scheduling_euler_discrete.py", 481): 1,
    ("host-to-device", PIPELINE, 1157): 1,
    ("device-to-host", "diffusers/image_processor.py", 204): 1,
}

IN_LOOP = {
    "DDIMScheduler": {
        ("value-read", "scheduling_ddim.py", 448): (1, 1, 1, 1),
        ("value-read", "scheduling_ddim.py", 449): (2, 2, 2, 1),
        ("value-read", "scheduling_ddim.py", 281): (1, 1, 1, 1),
        ("value-read", "scheduling_ddim.py", 282): (2, 2, 2, 1),
    },
    "LCMScheduler": {
        ("value-read", "scheduling_lcm.py", 614): (1, 1, 1, 1),
        ("value-read", "scheduling_lcm.py", 615): (2, 2, 2, 2),
    },
    "UniPCMultistepScheduler": {
        ("host-to-device", "scheduling_unipc_multistep.py", 886): (2, 2, 2, 2),
        ("host-to-device", "scheduling_unipc_multistep.py", 1021): (0, 2, 2, 2),
        ("host-to-device", "scheduling_unipc_multistep.py", 900): (0, 1, 1, 0),
        ("host-to-device", "scheduling_unipc_multistep.py", 1035): (0, 0, 1, 1),
        ("library-check", "scheduling_unipc_multistep.py", 1078): (0, 0, 1, 1),
    },
    "EulerDiscreteScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "DEISMultistepScheduler": {},
    "HeunDiscreteScheduler": {},
    "KDPM2DiscreteScheduler": {},
}


def scanned(**options) -> Recording:
    call = options.pop("call", {})
    return scan_target("sdxl", device="sim:a100-80gb", options=Options(call=call, **options)).recording


def rows(recording: Recording, *, in_loop: bool) -> dict:
    return {
        (row.kind, row.site.file, row.site.line): row.by_step if in_loop else row.count
        for row in recording.syncs or ()
        if row.in_loop is in_loop
    }


@pytest.fixture(scope="module")
def euler() -> Recording:
    return scanned()


@pytest.mark.slow
def test_euler_blocks_seven_times_and_never_in_the_loop(euler):
    assert rows(euler, in_loop=False) == OUTSIDE_OF_EULER
    assert rows(euler, in_loop=True) == {}


@pytest.mark.slow
def test_every_row_says_where_and_why(euler):
    phases = {(row.site.file, row.site.line): row.phase for row in euler.syncs or ()}
    assert phases[(PIPELINE, 406)] == "encode"
    assert phases[(PIPELINE, 1157)] == "prepare"
    assert phases[("diffusers/image_processor.py", 204)] == "postprocess"
    for row in euler.syncs or ():
        assert row.reason
        assert ".cu" in row.source or ".cpp" in row.source
        lines = dict(row.site.excerpt)
        assert row.site.line in lines
        assert not row.site.user_code
    sigmas = next(row for row in euler.syncs or () if row.site.line == 481)
    assert [frame.function for frame in sigmas.site.chain][:2] == [
        "retrieve_timesteps",
        "StableDiffusionXLPipeline.__call__",
    ]


@pytest.mark.slow
def test_the_target_is_described(euler):
    sizes = {c.name: c.parameters for c in euler.target.components}
    assert sizes["unet"] == 2_567_463_684
    assert euler.target.weights == "none"
    assert euler.target.steps == 3
    assert euler.ops
    assert euler.ops > 1000


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", IN_LOOP)
def test_schedulers_block_where_they_are_known_to(scheduler):
    found = rows(scanned(scheduler=scheduler, steps=STEPS), in_loop=True)
    expected = {
        (kind, SCHEDULERS + file, line): by_step for (kind, file, line), by_step in IN_LOOP[scheduler].items()
    }
    assert found == expected


@pytest.mark.slow
def test_host_tables_are_named():
    recording = scanned(scheduler="DDIMScheduler", steps=2)
    owners = {row.owner for row in recording.syncs or () if row.in_loop}
    assert owners == {"scheduler.alphas_cumprod"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "extra"),
    [
        ({"negative_prompt": "blurry"}, {("host-to-device", PIPELINE, 468): 2}),
        ({"output_type": "latent"}, {("device-to-host", "diffusers/image_processor.py", 204): None}),
        ({"denoising_end": 0.7}, {("value-read", PIPELINE, 1184): 3}),
    ],
    ids=["negative prompt", "latent output", "denoising_end"],
)
def test_conditions_add_and_remove_operations(call, extra):
    expected = {**OUTSIDE_OF_EULER, **extra}
    found = rows(scanned(call=call), in_loop=False)
    assert found == {key: count for key, count in expected.items() if count is not None}


@pytest.mark.slow
def test_the_readme_shows_what_the_scan_prints() -> None:
    """DIFFPROF_UPDATE_GOLDEN=1 writes it anew."""
    file = Path(__file__).parents[3] / "README.md"
    report = scan_target("sdxl", options=Options(scheduler="DDIMScheduler"))
    stored = replace(report, path="traces/20260102-030405-sdxl")
    printed = render_brief(stored, columns=80)
    readme = file.read_text(encoding="utf-8")
    before, _, rest = readme.partition("<!-- scan -->\n```text\n")
    shown, _, after = rest.partition("```\n<!-- end -->")
    if os.environ.get("DIFFPROF_UPDATE_GOLDEN"):
        shown = printed
        file.write_text(f"{before}<!-- scan -->\n```text\n{shown}```\n<!-- end -->{after}", encoding="utf-8")
    assert shown == printed
