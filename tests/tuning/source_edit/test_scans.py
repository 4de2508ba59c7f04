"""From scan to scan: what the edits do to a pipeline that runs."""

from __future__ import annotations

import linecache
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.devices import resolve_device
from diffprof.judge.plan import Choice, make_plan
from diffprof.judge.source_edit.patch import Patch, make_patch, write_patch
from diffprof.judge.source_edit.stored import with_source_edits
from diffprof.model.errors import UsageError
from diffprof.model.report import Report
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options
from diffprof.tuning.source_checking import checked_patch, scanned_with
from tests.analyzers.graph_breaks.tiny import sdxl

CLASSIC = '''\
"""Mine."""
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline


class SigmasOnDevice(EulerDiscreteScheduler):
    def set_timesteps(self, *args, device=None, **kwargs):
        super().set_timesteps(*args, device=device, **kwargs)
        self.sigmas = self.sigmas.to(device)  # looks faster

    def step(self, model_output, timestep, sample, return_dict=True, **kwargs):
        if self.step_index is None:
            self._init_step_index(timestep)
        dt = self.sigmas[self.step_index + 1] - self.sigmas[self.step_index].item()
        self._step_index += 1
        return (sample + model_output * float(dt),)


def make():
    pipe = StableDiffusionXLPipeline.from_pretrained("FOLDER")
    pipe.scheduler = SigmasOnDevice.from_config(pipe.scheduler.config)
    return pipe.to("cuda"), {"prompt_embeds": E, "pooled_prompt_embeds": P, "negative_prompt_embeds": E,
                            "negative_pooled_prompt_embeds": P, "height": 8, "width": 8, "output_type": "np",
                            "num_inference_steps": 3}


import torch

E = torch.ones(1, 77, WIDTH)
P = torch.ones(1, POOLED)
'''

VARIANT = """\
import logging

import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline

logger = logging.getLogger(__name__)


class Variant(DDIMScheduler):
    def set_timesteps(self, num_inference_steps, device=None):
        super().set_timesteps(num_inference_steps, device=device)
        self.limits = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt().to(device)

    def step(self, model_output, timestep, sample, eta=0.0, return_dict=True, **kwargs):
        prev_timestep = timestep - self.config.num_train_timesteps // self.num_inference_steps
        alpha = self.alphas_cumprod[timestep]
        alpha_prev = self.alphas_cumprod[prev_timestep] if prev_timestep >= 0 else self.final_alpha_cumprod
        gain = torch.tensor(0.5, device=sample.device)
        if self.limits[self.num_inference_steps] > 0.01:
            gain = gain * 2
        x0 = (sample - (1 - alpha) ** 0.5 * model_output * gain) / alpha**0.5
        return (alpha_prev**0.5 * x0 + (1 - alpha_prev) ** 0.5 * model_output,)


def callback(pipe, i, t, kwargs):
    mean = kwargs["latents"].mean().item()
    print(f"{i}: {t.item()} {mean:.3f}")
    logger.info("latents up to %s", kwargs["latents"].max().item())
    return kwargs


def make():
    pipe = StableDiffusionXLPipeline.from_pretrained("FOLDER").to("cuda")
    pipe.scheduler = Variant.from_config(pipe.scheduler.config, clip_sample=False)
    embeds, pooled = torch.ones(1, 77, WIDTH), torch.ones(1, POOLED)
    return pipe, dict(
        prompt_embeds=embeds, pooled_prompt_embeds=pooled, negative_prompt_embeds=embeds,
        negative_pooled_prompt_embeds=pooled, height=8, width=8, output_type="np",
        num_inference_steps=3, callback_on_step_end=callback,
    )
"""

OWN_LOOP = """\
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel


class OwnLoop(DiffusionPipeline):
    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, num_inference_steps=3, generator=None):
        device = self.unet.device
        self.scheduler.set_timesteps(num_inference_steps)
        timesteps = self.scheduler.timesteps.to(device)
        latents = torch.randn(1, 4, 8, 8, generator=generator).to(device)
        embeds = torch.ones(1, 77, WIDTH, device=device)
        more = {"text_embeds": torch.ones(1, POOLED, device=device), "time_ids": torch.ones(1, 6, device=device)}
        step = self.scheduler.config.num_train_timesteps // num_inference_steps
        with self.progress_bar(total=num_inference_steps) as bar:
            for i, t in enumerate(timesteps):
                shift = torch.tensor([0.1, -0.1, 0.2, 0.0], device=latents.device).view(1, 4, 1, 1)
                weights = torch.tensor([0.1, -0.1, 0.2, 0.0], device=latents.device)
                out = self.unet(latents, t, encoder_hidden_states=embeds, added_cond_kwargs=more)
                noise = out.sample * torch.tensor([1.01], device=device) + weights.view(1, 4, 1, 1)
                a = self.scheduler.alphas_cumprod[t]
                b = self.scheduler.alphas_cumprod[t - step] if t >= step else self.scheduler.final_alpha_cumprod
                times = torch.tensor([t] * latents.shape[0], device=device, dtype=torch.float32)
                latents = (latents - (1 - a).sqrt() * noise) / a.sqrt()
                latents = b.sqrt() * latents + (1 - b).sqrt() * noise + 0 * times.view(-1, 1, 1, 1)
                bar.set_postfix(norm=latents.norm().item(), t=int(t))
                bar.update()
        return latents


def make():
    pipe = OwnLoop(UNet2DConditionModel.from_pretrained("FOLDER/unet"), DDIMScheduler())
    return pipe.to("cuda"), {"num_inference_steps": 3}
"""


OWN_SCHEDULER = '''\
"""Mine: a flow scheduler of my own."""
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin


class Flow(SchedulerMixin, ConfigMixin):
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000):
        self.timesteps = torch.arange(num_train_timesteps).flip(0)

    def set_timesteps(self, num_inference_steps, device=None, **kwargs):
        sigmas = torch.linspace(1.0, 0.0, num_inference_steps + 1)
        timesteps = sigmas[:-1] * 1000
        self.sigmas = sigmas.to(device)
        self.timesteps = timesteps.to(device)

    def scale_model_input(self, sample, timestep):
        return sample

    def step(self, model_output, t, sample, return_dict=True, **kwargs):
        i = (self.timesteps == t).nonzero()[0].item()
        sigma = self.sigmas[i]
        if self.sigmas[i + 1] == 0:
            sample = sample * 1.0
        return (sample + (self.sigmas[i + 1].item() - sigma) * model_output,)


def make():
    pipe = StableDiffusionXLPipeline.from_pretrained("FOLDER")
    pipe.scheduler = Flow()
    return pipe.to("cuda"), {"prompt_embeds": E, "pooled_prompt_embeds": P, "negative_prompt_embeds": E,
                            "negative_pooled_prompt_embeds": P, "height": 8, "width": 8, "output_type": "np",
                            "num_inference_steps": 3}


E = torch.ones(1, 77, WIDTH)
P = torch.ones(1, POOLED)
'''


@pytest.fixture(scope="module")
def built() -> Any:
    """The smallest SDXL, without text encoders."""
    return sdxl().pipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, built: Any) -> Path:
    """Its checkpoint."""
    place = tmp_path_factory.mktemp("checkpoint")
    built.save_pretrained(place)
    return place


def written(source: str, tmp_path: Path, folder: Path, built: Any) -> Path:
    config = built.unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    file = tmp_path / "mine.py"
    source = source.replace("FOLDER", str(folder)).replace("WIDTH", str(config.cross_attention_dim))
    file.write_text(source.replace("POOLED", str(pooled)))
    return file


def waits(report: Report) -> list[str]:
    """Waits in the loop, by rule and line."""
    found = [f for f in report.in_loop if f.rule.startswith("SYN")]
    return [f"{f.rule} {f.site.line if f.site else None}" for f in found]


def edited(file: Path) -> tuple[Report, Patch, Report]:
    """The scan before, the edits, which are written, and the scan after."""
    spec = f"{file}:make"
    report = scan_target(spec, device="sim", options=Options())
    assert waits(report)
    patch = make_patch(report, make_plan(report, Choice(select=("no-progress-bar",))), file)
    write_patch(patch)
    return report, patch, scan_target(spec, device="sim", options=Options())


@pytest.mark.slow
def test_the_classic_is_edited_and_gone(tmp_path: Path, folder: Path, built: Any) -> None:
    before, patch, after = edited(written(CLASSIC, tmp_path, folder, built))
    assert '+        self.sigmas = self.sigmas.to("cpu")  # looks faster' in patch.diff
    assert "pipe.set_progress_bar_config(disable=True)" in patch.diff
    assert waits(after) == []
    assert (image_of(patch.before) == image_of(patch.after)).all()
    step = next(s for s in make_plan(before).steps if s.fix == "scheduler-tables-on-host")
    assert "changed since the scan" in (step.no_patch or "")


@pytest.mark.slow
def test_a_scheduler_of_ones_own_and_a_callback(tmp_path: Path, folder: Path, built: Any) -> None:
    before, patch, after = edited(written(VARIANT, tmp_path, folder, built))
    assert len(waits(before)) >= 7
    assert before.source is not None
    assert all(edit.diff for edit in before.source.findings if edit.rule in ("SYN001", "SYN002", "SYN008"))
    assert waits(after) == []
    assert patch.left == ()
    assert (image_of(patch.before) == image_of(patch.after)).all()


@pytest.mark.slow
def test_a_loop_of_ones_own(tmp_path: Path, folder: Path, built: Any) -> None:
    before, patch, after = edited(written(OWN_LOOP, tmp_path, folder, built))
    assert len(waits(before)) >= 6
    assert waits(after) == []
    assert (image_of(patch.before) == image_of(patch.after)).all()


@pytest.mark.slow
def test_the_root_of_an_own_schedulers_waits_is_edited(tmp_path: Path, folder: Path, built: Any) -> None:
    """The search of the timesteps waits twice a step; what is read of the sigmas goes with their upload."""
    file = written(OWN_SCHEDULER, tmp_path, folder, built)
    report = scan_target(f"{file}:make", device="sim", options=Options())
    assert len(waits(report)) == 4
    (root,) = [
        f for f in report.findings if f.site and "sigmas.to(device)" in dict(f.site.excerpt)[f.site.line]
    ]
    assert root.advice.startswith("Leave `self.sigmas` on the CPU: line ")
    scans: list[Report] = []

    def scan(patch: Patch | None) -> Report:
        scans.append(scanned_with(report, patch))
        return scans[-1]

    checked = checked_patch(report, make_plan(report), file, (), scan)
    assert checked.unchecked == ""
    assert '+        self.sigmas = sigmas.to("cpu")' in checked.patch.diff
    assert [waits(each) for each in scans] == [[]]
    own = [row for row in scans[0].recording.syncs or () if row.site.user_code]
    assert [row.kind for row in own] == ["host-to-device"], "the timesteps' upload alone"
    assert file.read_bytes() == checked.patch.before
    assert (image_of(checked.patch.before) == image_of(checked.patch.after)).all()


def image_of(source: bytes) -> Any:
    """What a factory's source makes on the CPU, where the values are real."""
    names: dict[str, Any] = {"__name__": "mine"}
    exec(source.replace(b'"cuda"', b'"cpu"'), names)
    pipe, kwargs = names["make"]()
    made = pipe(**kwargs, generator=torch.manual_seed(0))
    return getattr(made, "images", made)


@pytest.mark.slow
def test_a_timestep_of_the_device_is_told_by_its_place(tmp_path: Path, folder: Path, built: Any) -> None:
    _, patch, _ = edited(written(VARIANT, tmp_path, folder, built))
    names: dict[str, Any] = {"__name__": "mine"}
    exec(patch.after, names)
    where = resolve_device("sim")
    with where.active():
        scheduler = names["Variant"]()
        scheduler.set_timesteps(4, device=where.torch_device)
        expected = scheduler.timesteps.tolist()
        for timesteps in (scheduler.timesteps, scheduler.timesteps[2:]):
            found = [scheduler._on_host(t) for t in timesteps]
            assert all(each.device.type == "cpu" for each in found)
            assert [int(each) for each in found] == expected[-len(found) :]
        other = torch.tensor(501, device=where.torch_device)
        assert (scheduler._on_host(other).device.type, int(scheduler._on_host(other))) == ("cpu", 501)
        assert scheduler._on_host(scheduler.timesteps).tolist() == expected
        assert scheduler._on_host(7) == 7


@pytest.mark.slow
def test_a_package_elsewhere_is_edited_where_it_lies(
    tmp_path: Path, folder: Path, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(VARIANT, tmp_path, folder, built)
    package = tmp_path / "src" / "far_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    scheduler = package / "variant.py"
    whole = file.read_text()
    begin, end = whole.index("class Variant"), whole.index("def callback")
    scheduler.write_text(f"import torch\nfrom diffusers import DDIMScheduler\n\n\n{whole[begin:end]}")
    place = f"import sys\nsys.path.insert(0, {str(tmp_path / 'src')!r})\nfrom far_package.variant import Variant\n"
    file.write_text(f"{place}{whole[:begin]}{whole[end:]}")
    monkeypatch.chdir(tmp_path)
    report = scan_target("mine.py:make", device="sim", options=Options())
    assert report.source is not None
    found = [edit for edit in report.source.findings if edit.file == "far_package/variant.py"]
    assert {edit.rule for edit in found if edit.diff} >= {"SYN001", "SYN002", "SYN008"}
    assert found[0].diff.startswith("--- a/src/far_package/variant.py\n")
    assert report.source.fixes["host-timesteps"].startswith("--- a/src/far_package/variant.py\n")
    linecache.clearcache()  # as in another process
    with pytest.raises(UsageError, match="can't be read") as caught:
        make_patch(report, make_plan(report), Path("far_package/variant.py"))
    assert "where it lies from here" in caught.value.hint
    again = with_source_edits(report)
    assert again.source == report.source
    patch = make_patch(report, make_plan(report), Path("src/far_package/variant.py"))
    assert "self._on_host(timestep)" in patch.diff
