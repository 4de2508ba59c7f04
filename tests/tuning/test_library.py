"""Patches of diffusers itself: small, applied by git, checked on a copy, with a text for the pull request.
DIFFPROF_UPDATE_GOLDEN=1 writes the texts anew."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import diffusers
import pytest

from diffprof.model.library_patch import FilePatch, PatchCheck, Ran
from diffprof.model.recording import TargetInfo
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options
from diffprof.tuning.library.checking import checked
from diffprof.tuning.library.copies import copies_of
from diffprof.tuning.library.edits import computes_with_timestep, library_patches, package_folder
from diffprof.views.pull_request import pull_request
from tests.builders import make_finding, make_recording, make_report, make_site, make_sync

GOLDEN = Path(__file__).parents[1] / "golden" / "library"
FOLDER = Path(diffusers.__file__).parent

DDIM: tuple[str, ...] = (
    "sd15-pag",
    "sd-image-variation",
    "ldm-text-to-image",
    "ddim",
    "ldm-super-resolution",
)
DDIM += ("marigold-depth", "sd-upscale-x4", "pixart-sigma", "dit-class-conditional", "stable-unclip")
DDIM += ("sd15-inpaint", "sd15-instruct-pix2pix", "sd2-depth2img")

MADE: dict[str, tuple[str, str | None, str, tuple[str, ...]]] = {
    "ddim": ("sdxl", "DDIMScheduler", "schedulers/scheduling_ddim.py", DDIM),
    "unipc": (
        "sdxl",
        "UniPCMultistepScheduler",
        "schedulers/scheduling_unipc_multistep.py",
        ("sd15-unipc-images-per-prompt",),
    ),
    "flow-match-euler": (
        "sd3-medium",
        None,
        "pipelines/stable_diffusion_3/pipeline_stable_diffusion_3.py",
        ("sd3", "sd35-skip-layer-guidance", "sd3-layerwise-float8"),
    ),
    "wan": ("wan2.2-t2v-a14b", None, "pipelines/wan/pipeline_wan.py", ("wan-t2v", "wan22-two-transformers")),
    "hunyuandit": ("hunyuandit", None, "pipelines/hunyuandit/pipeline_hunyuandit.py", ("hunyuan-dit",)),
}
"""Target, scheduler, the file that changes, pipelines of the corpus that run it."""


@pytest.mark.nightly
@pytest.mark.parametrize("name", MADE)
def test_a_patch_with_its_text(name: str, tmp_path: Path) -> None:
    target, scheduler, file, cases = MADE[name]
    options = Options(scheduler=scheduler, steps=4)
    report = scan_target(target, device="sim:a100-80gb", options=options, analyzers=("syncs", "kernels"))
    patches = library_patches(report, package_folder(None))
    patch = next(each for each in patches if each.file == f"diffusers/{file}")
    found = checked(report, [patch], FOLDER, cases)
    assert found.holds
    assert {each.name for each in found.pipelines} >= set(cases)
    text = pull_request(report, patch, found, copies_of(patch, FOLDER))
    for suffix, got in ((".patch", patch.diff), (".md", text)):
        stored = (GOLDEN / name).with_suffix(suffix)
        if os.environ.get("DIFFPROF_UPDATE_GOLDEN"):
            stored.parent.mkdir(parents=True, exist_ok=True)
            stored.write_text(got, encoding="utf-8")
        assert got == stored.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MADE)
def test_git_applies_the_stored_patches_to_the_installed_release(name: str, tmp_path: Path) -> None:
    file = MADE[name][2]
    place = tmp_path / "src" / "diffusers" / file
    place.parent.mkdir(parents=True)
    shutil.copy(FOLDER / file, place)
    patch = (GOLDEN / name).with_suffix(".patch")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    done = subprocess.run(["git", "apply", str(patch)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert place.read_text() != (FOLDER / file).read_text()
    compile(place.read_text(), file, "exec")


PIPELINE = """\
class P:
    def __call__(self, latents):
        timesteps = self.scheduler.timesteps

        # 5. Denoising loop
        with self.progress_bar() as progress:
            for t in timesteps:
                latents = self.scheduler.step(latents, t, latents)
        return latents
"""


def searched(line: int) -> tuple[object, ...]:
    file = "diffusers/pipelines/own/pipeline_own.py"
    site = make_site(
        file="diffusers/schedulers/scheduling_own.py",
        function="S.index_for_timestep",
        chain=(
            make_site(file="diffusers/schedulers/scheduling_own.py", function="S._init_step_index"),
            make_site(file=file, function="P.__call__", line=line),
        ),
    )
    return file, site


def test_a_search_for_the_first_timestep_is_spared_by_the_pipeline(tmp_path: Path) -> None:
    _, site = searched(8)
    report = make_report(
        make_finding(rule="SYN003", site=site, in_loop=True), recording=make_recording(make_sync(site=site))
    )
    place = tmp_path / "pipelines" / "own"
    place.mkdir(parents=True)
    (place / "pipeline_own.py").write_text(PIPELINE)
    (patch,) = library_patches(report, tmp_path)
    added = [line[1:].strip() for line in patch.diff.splitlines() if line.startswith("+ ")]
    assert added[-2:] == [
        'if hasattr(self.scheduler, "set_begin_index"):',
        "self.scheduler.set_begin_index(0)",
    ]
    assert patch.after.index("set_begin_index(0)") < patch.after.index("# 5. Denoising loop")
    assert "a/src/diffusers/pipelines/own/pipeline_own.py" in patch.diff


@pytest.mark.parametrize(("name", "computes"), [("lcm.LCM", True), ("tcd.TCD", False), ("ddim.DDIM", False)])
def test_a_timestep_that_is_computed_with_stays_on_the_device(name: str, computes: bool) -> None:
    """Boundary scalings of the host's timestep are rounded otherwise in half precision."""
    module, _, owner = name.partition(".")
    file = f"diffusers/schedulers/scheduling_{module}.py"
    finding = make_finding(rule="SYN002", site=make_site(file=file, function=f"{owner}Scheduler.step"))
    assert computes_with_timestep(file, (FOLDER.parent / file).read_text(), finding) is computes


def test_the_text_says_what_changed_its_output() -> None:
    patch = FilePatch("diffusers/schedulers/scheduling_own.py", "a = 1\n", "a = 2\n", ("change a",))
    fine, other = Ran("one", (4, 0), (4, 0), True), Ran("other", (4, 0), (4, 0), False)
    report = make_report(recording=make_recording(target=TargetInfo(spec="x", kind="builtin", pipeline="P")))
    good = pull_request(report, patch, PatchCheck((fine,), (4, 0), (10.0, 9.0)), ())
    assert "| waits in the denoising loop, a call | 4 | 0 |" in good
    assert "No: 1 tiny pipeline" in good
    bad = PatchCheck((fine, other))
    assert "YES: only 1 of 2 pipelines" in pull_request(report, patch, bad, ())
    assert PatchCheck((fine,)).holds
    assert not bad.holds
    assert not PatchCheck((Ran("same", (4, 4), (4, 4), True),)).holds


def test_a_wait_that_is_not_edited_is_named_with_its_reason(tmp_path: Path) -> None:
    """A function that the scheduler keeps gets the timestep: it stands in no method."""
    file = "diffusers/schedulers/scheduling_own.py"
    text = "class S:\n    def __init__(self):\n        self.tau = lambda t: 1 if t >= 200 else 0\n"
    site = make_site(file=file, function="S.__init__.<lambda>", line=3)
    report = make_report(
        make_finding(rule="SYN001", site=site, in_loop=True), recording=make_recording(make_sync(site=site))
    )
    (tmp_path / "schedulers").mkdir()
    (tmp_path / "schedulers" / "scheduling_own.py").write_text(text)
    (patch,) = library_patches(report, tmp_path)
    assert not patch.changes
    ((line, rule, why),) = patch.left
    assert (line, rule) == (3, "SYN001")
    assert why
