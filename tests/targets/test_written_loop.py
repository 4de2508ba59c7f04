"""Scripts that write their loop out themselves, and scripts with several pipelines."""

from __future__ import annotations

import os
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.exceptions import Exit
from msgspec.structs import replace

from diffprof.cli.delivery import apply_gate
from diffprof.judge.gate import parse_gate
from diffprof.judge.judging import judge_again
from diffprof.model.errors import ExitCode, TargetError, UsageError
from diffprof.model.report import from_json, to_json
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options, resolve
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.script import ScriptTarget

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")

Write = Callable[[str, str], Path]

MODELS = """
    import sys
    import torch
    from diffusers import DDIMScheduler, UNet2DModel

    def models():
        unet = UNet2DModel(
            sample_size=8, block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        ).to("cuda")
        scheduler = DDIMScheduler()
        scheduler.set_timesteps(3, device="cuda")
        return unet, scheduler, torch.randn(1, 3, 8, 8, device="cuda")
"""

AT_THE_TOP = """
    from models import *

    unet, scheduler, x = models()
    for t in scheduler.timesteps:
        with torch.no_grad():
            noise = unet(x, t).sample
        print(noise.norm().item())
        x = scheduler.step(noise, t, x).prev_sample
    x.cpu()
    sys.exit(0)
"""

IN_A_METHOD = """
    from models import *

    class Sampler:
        def __init__(self):
            self.net, self.scheduler, self.x = models()
            self.net = torch.compile(self.net)

        @torch.inference_mode()
        def sample(self):
            x = self.x
            for i, t in enumerate(self.scheduler.timesteps):
                noise = self.net(x, t).sample
                print(noise.norm().item())
                x = self.scheduler.step(noise, t, x).prev_sample
            return x.cpu()

    def main():
        return Sampler().sample()

    if __name__ == "__main__":
        main()
"""


OFFLOADED = AT_THE_TOP.replace(
    "unet, scheduler, x = models()",
    "unet, scheduler, x = models()\n"
    "    from diffusers.hooks import apply_group_offloading\n"
    "    apply_group_offloading(\n"
    "        unet.to('cpu'), onload_device=torch.device('cuda'), offload_device=torch.device('cpu'),\n"
    "        offload_type='leaf_level', use_stream=True, record_stream=True,\n"
    "    )",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "source", [AT_THE_TOP, IN_A_METHOD, OFFLOADED], ids=["at the top", "in a method", "offloaded"]
)
def test_a_loop_written_by_hand_is_scanned_like_a_pipeline_s(
    write: Write, source: str, unchanged: None
) -> None:
    write("models.py", MODELS)
    file = write("script.py", source)
    report = scan_target(str(file), device="sim", analyzers=("syncs", "kernels"))
    recording = report.recording
    rows = {(row.site.file.rsplit("/", 1)[-1], row.site.line, row.kind): row for row in recording.syncs}
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if "print(" in text)
    printed = rows["script.py", line, "value-read"]
    assert printed.in_loop
    assert (printed.count, printed.per_step, printed.by_step) == (3, 1.0, (1, 1, 1))
    reads = [row for (name, *_), row in rows.items() if name == "scheduling_ddim.py" and row.in_loop]
    assert sum(row.count for row in reads) == 16, "the table is on the CPU: facts of DDIM, three steps"
    assert recording.target.steps == 3
    roles = {component.role: component.cls for component in recording.target.components}
    assert (roles["denoiser"], roles["scheduler"]) == ("UNet2DModel", "DDIMScheduler")
    assert recording.timing is not None
    assert recording.timing.median > 0
    assert any("ran twice" in row.why for row in recording.unseen)
    assert recording.target.weights == "none"


def test_an_error_in_such_a_loop_is_the_script_s(write: Write) -> None:
    write("models.py", MODELS)
    file = write("script.py", AT_THE_TOP.replace("x.cpu()", "raise KeyError('gone')"))
    with pytest.raises(
        TargetError, match=r"raised KeyError: 'gone' before it called a pipeline at .*script.py"
    ):
        scan_target(str(file), device="sim")


def test_on_the_cpu_such_a_loop_is_refused_with_the_way_out(write: Write, cpu: Any) -> None:
    write("models.py", MODELS)
    file = write("script.py", AT_THE_TOP)
    with pytest.raises(TargetError, match="writes its loop out itself") as error:
        resolve(str(file)).run(lambda call: None, cpu, Options())
    assert "--device sim" in error.value.hint


def test_a_model_called_before_a_pipeline_is_no_loop(tiny: Path, write: Write) -> None:
    file = write(
        "script.py",
        """
        import torch
        from tiny_pipeline import tiny

        pipe = tiny().to("cuda")
        for _ in range(3):
            pipe.unet(torch.zeros(1, 3, 8, 8, device="cuda"), 1)
        pipe(num_inference_steps=2)
        """,
    )
    report = scan_target(str(file), device="sim", analyzers=("syncs",))
    assert report.recording.target.pipeline == "DDPMPipeline"


# --- several pipelines ----------------------------------------------------------------------------


@pytest.mark.slow
def test_other_pipelines_of_the_script_are_named(tiny: Path, write: Write, cpu: Any) -> None:
    file = write(
        "script.py",
        """
        from diffusers import AutoPipelineForImage2Image, DDPMPipeline
        from tiny_pipeline import tiny

        def main():
            base = tiny()
            parts = {"refiner": tiny()}
            image = base(num_inference_steps=1).images
            upscaler = AutoPipelineForImage2Image.from_pretrained("somewhere")
            return DDPMPipeline(upscaler.unet, upscaler.scheduler)(image)

        refiner = tiny()
        main()
        """,
    )
    unseen = resolve(str(file)).run(lambda call: call.unseen, cpu, Options())
    whats = [row.what for row in unseen]
    assert set(whats[:-2]) == {
        "another pipeline of the script, refiner (DDPMPipeline)",
        "another pipeline of the script, parts['refiner'] (DDPMPipeline)",
    }
    assert [row.site.line for row in unseen if row.site] == [9, 10]
    assert whats[-2].endswith("AutoPipelineForImage2Image.from_pretrained")
    assert all("file.py:function" in row.why for row in unseen)


IN_OBJECTS = """
    import functools
    from dataclasses import dataclass
    from tiny_pipeline import tiny

    @dataclass
    class Parts:
        refiner: object

    class Service:
        shared = [tiny()]

        def __init__(self):
            self.pipes = {"base": tiny()}
            self.parts = Parts(tiny())

        def draw(self):
            return self.pipes["base"](num_inference_steps=1)

    def closed_over():
        inner = tiny()
        return lambda: inner(num_inference_steps=1)

    @functools.cache
    def cached():
        return tiny()

    cached()
    later, bound = closed_over(), functools.partial(tiny())
    Service().draw()
"""


def test_pipelines_that_objects_hold_are_named(tiny: Path, write: Write, cpu: Any) -> None:
    file = write("script.py", IN_OBJECTS)
    unseen = resolve(str(file)).run(lambda call: call.unseen, cpu, Options())
    named = "self.parts.refiner", "Service.shared[0]", "later.inner", "bound"
    assert {row.what for row in unseen if not row.site} == {
        f"another pipeline of the script, {name} (DDPMPipeline)" for name in named
    }
    (hidden,) = [row for row in unseen if row.site]
    assert hidden.what == "another pipeline of the script, a DDPMPipeline that it has made"
    assert any("pipe = DDPMPipeline(" in text for _, text in hidden.site.excerpt)


CALLED_LATER = {
    "made by a function that is above": """
        def finish(images):
            refiner = tiny()
            return refiner(num_inference_steps=2)

        def main():
            finish(tiny()(num_inference_steps=1).images)

        main()
    """,
    "made in a loop, and anew": """
        for name in ("base", "other", "base", "other") * 3:
            pipe = DDPMPipeline(tiny().unet, DDIMScheduler() if name == "base" else DDPMScheduler())
            pipe(num_inference_steps=1 if name == "base" else 2)
    """,
    "held by an object": """
        class Service:
            def __init__(self):
                self.pipes = {"base": tiny(), "refiner": tiny()}

            def __call__(self):
                self.pipes["base"](num_inference_steps=1)
                self.pipes["refiner"](num_inference_steps=2)

        Service()()
    """,
}


@pytest.mark.slow
@pytest.mark.parametrize("source", CALLED_LATER.values(), ids=CALLED_LATER)
def test_each_pipeline_is_played_wherever_it_is_held(tiny: Path, write: Write, cpu: Any, source: str) -> None:
    head = (
        "from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler\nfrom tiny_pipeline import tiny\n"
    )
    file = write("script.py", head + textwrap.dedent(source))

    def steps(call: PipelineCall) -> int:
        call.run()
        return call.kwargs["num_inference_steps"]

    played, left = ScriptTarget(file).run_each(steps, steps, cpu, Options())
    assert (played, left) == ([1, 2], ())


BASE_AND_REFINER = """
    from pathlib import Path
    from tiny_pipeline import tiny

    class Told(type(tiny())):
        def __call__(self, image, **more):
            assert image.shape == (1, 8, 8, 3)
            return super().__call__(**more)

    base, spare = tiny().to("cuda"), tiny()
    refiner = Told(**tiny().components).to("cuda")
    for _ in range(3):
        images = base(num_inference_steps=2, output_type="np").images
    Path("images.txt").write_text(repr(images))
    refiner(images, num_inference_steps=3)
    {end}
"""


@pytest.mark.slow
def test_each_pipeline_of_a_script_is_scanned_and_nothing_is_written(
    tiny: Path, write: Write, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tiny)
    Path("images.txt").write_text("those of yesterday")
    file = write("script.py", BASE_AND_REFINER.replace("{end}", "print('over')"))
    report = scan_target(str(file), device="sim", analyzers=("syncs", "kernels"))
    assert [each.recording.target.pipeline for each in report.each] == ["DDPMPipeline", "Told"]
    assert [each.recording.target.steps for each in report.each] == [2, 3]
    assert Path("images.txt").read_text() == "those of yesterday"
    (left,) = [row for row in report.recording.unseen if "another pipeline" in row.what]
    assert (left.what, left.why) == (
        "another pipeline of the script, spare (DDPMPipeline)",
        "the script ended without calling it",
    )
    again = from_json(to_json(report))
    assert again.pipelines == report.pipelines
    waits = parse_gate("SYN")
    assert len(waits.hits(report)) == sum(len(waits.hits(replace(r, pipelines=()))) for r in report.each) > 0
    assert judge_again(report).pipelines == report.pipelines


@pytest.mark.slow
def test_another_pipeline_of_a_script_is_played_after_those_before_it(
    tiny: Path, write: Write, cpu: Any
) -> None:
    file = write("script.py", BASE_AND_REFINER.replace("{end}", "base(num_inference_steps=9)"))
    second = ScriptTarget(file, which=1)
    assert second.run(lambda call: (type(call.pipe).__name__, call.args[0].shape), cpu, Options()) == (
        "Told",
        (1, 8, 8, 3),
    )

    def broken(call: PipelineCall) -> None:
        raise UsageError("this one")

    with pytest.raises(UsageError, match="this one"):
        second.run(broken, cpu, Options())
    with pytest.raises(TargetError, match=r"its pipeline 3: the script ended without calling it"):
        ScriptTarget(file, which=2).run(lambda call: None, cpu, Options())


@pytest.mark.slow
def test_a_script_that_fails_between_its_calls_is_reported_up_to_there(tiny: Path, write: Write) -> None:
    file = write("script.py", BASE_AND_REFINER.replace("refiner(images,", "refiner(images[0],"))
    report = scan_target(str(file), device="sim", analyzers=("syncs",))
    assert report.recording.target.steps == 2
    (refiner,) = report.pipelines
    assert refiner.recording.partial
    assert "AssertionError" in (refiner.recording.failure or "")
    file = write("script.py", BASE_AND_REFINER.replace("refiner(images,", "gone(images,"))
    report = scan_target(str(file), device="sim", analyzers=("syncs",))
    assert not report.pipelines
    reasons = {row.why for row in report.recording.unseen if "refiner" in row.what}
    assert reasons == {"the script ended before it called it: NameError: name 'gone' is not defined"}
    assert parse_gate("SYN").not_reached(report), "no gate passes on it"
    with pytest.raises(Exit) as ended:
        apply_gate(parse_gate("GRB"), report, "GRB")
    assert ended.value.exit_code == ExitCode.UNJUDGED


@pytest.mark.slow
@pytest.mark.parametrize(
    "deed",
    [
        "os.remove('images.txt')",
        "os.rename('images.txt', 'other.txt')",
        "shutil.rmtree('kept')",
        "os.close(os.open('images.txt', os.O_WRONLY | os.O_TRUNC))",
        "subprocess.run(['touch', 'touched'])",
        "os.system('touch touched')",
        "socket.create_connection(('192.0.2.1', 9), timeout=0.01)",
    ],
)
def test_a_script_that_runs_on_is_left_before_it_reaches_outside(
    tiny: Path, write: Write, monkeypatch: Any, deed: str
) -> None:
    monkeypatch.chdir(tiny)
    Path("images.txt").write_text("those of yesterday")
    Path("kept").mkdir()
    there = sorted(os.listdir())
    source = BASE_AND_REFINER.replace("    refiner(images,", f"    {deed}\n    refiner(images,")
    file = write("script.py", "import os, shutil, socket, subprocess\n" + textwrap.dedent(source))
    report = scan_target(str(file), device="sim", analyzers=("syncs",))
    assert not report.pipelines
    first = parse_gate("SYN").not_reached(report)[0]
    assert f"{deed.split('(')[0].split('.')[0]}" in first.why or "open" in first.why
    assert f"{file}:{2 + source.splitlines().index('    ' + deed)}" in first.why
    assert {*os.listdir()} - {"__pycache__"} == {*there, "script.py"} - {"__pycache__"}
    assert Path("images.txt").read_text() == "those of yesterday"


@pytest.mark.slow
def test_saving_while_a_script_runs_on_reads_tensors_and_leaves_no_file(
    tiny: Path, write: Write, monkeypatch: Any
) -> None:
    """In the other pipeline's call, saving waits for the device as on any; temporary files are there."""
    monkeypatch.chdir(tiny)
    writer = types.SimpleNamespace(get_writer=lambda name: Path(name).touch())
    monkeypatch.setitem(sys.modules, "imageio", writer)
    source = """
        import tempfile, torch
        import imageio
        from safetensors.torch import save_file
        from tiny_pipeline import tiny

        class Saving(type(tiny())):
            def __call__(self, **more):
                torch.save(torch.ones(2, device="cuda"), "step.pt")
                save_file({"a": torch.ones(2)}, "a.safetensors")
                return super().__call__(**more)

        base, refiner = tiny().to("cuda"), Saving(**tiny().components).to("cuda")
        base(num_inference_steps=2)
        with imageio.get_writer("film.mp4") as film:
            film.append_data(1)
        with tempfile.TemporaryDirectory() as folder:
            torch.save({"a": 1}, folder + "/a.pt")
            assert torch.load(folder + "/a.pt") == {"a": 1}
            refiner(num_inference_steps=2)
    """
    kept = [Path(name) for name in ("step.pt", "a.safetensors")]  # a new file here would be a temporary one
    for each in kept:
        each.write_text("that of yesterday")
    file = write("script.py", source)
    report = scan_target(str(file), device="sim", analyzers=("syncs",))
    (refiner,) = report.pipelines
    assert [each.read_text() for each in kept] == ["that of yesterday"] * 2
    assert not Path("film.mp4").exists()
    waits = refiner.recording.syncs or ()
    line = 1 + source.splitlines().index(next(x for x in source.splitlines() if "step.pt" in x))
    assert [row.site.line for row in waits if row.site.line == line] == [line]


def test_a_call_in_a_child_process_is_said_to_be_there(tiny: Path, write: Write, cpu: Any) -> None:
    source = """
        import multiprocessing
        child = multiprocessing.get_context("fork").Process(target=print, args=("made one",))
        child.start()
        child.join()
    """
    with pytest.raises(TargetError, match=r"It started a child process: a call .* there is not") as error:
        resolve(str(write("script.py", source))).run(lambda call: call, cpu, Options())
    assert "in its own process" in (error.value.hint or "")


def test_later_calls_of_the_pipeline_are_named(tiny: Path, write: Write, cpu: Any) -> None:
    """A call that warms up has fewer steps, and not the callback of the one that counts."""
    file = write(
        "script.py",
        """
        from types import SimpleNamespace
        from tiny_pipeline import tiny

        pipe = tiny()
        held = SimpleNamespace(inner=SimpleNamespace(pipe=pipe))
        pipes = {"base": [pipe]}
        pipe(
            num_inference_steps=int(max(1, 0)),
        )
        image = max(0, 1), pipe(num_inference_steps=3)
        held.inner.pipe(num_inference_steps=4)
        pipes["base"][0](num_inference_steps=5)
        pipe.to("cpu")
        """,
    )
    unseen = resolve(str(file)).run(lambda call: call.unseen, cpu, Options())
    assert [(row.what, row.site.line) for row in unseen if row.site] == [
        ("a later call of the pipeline, pipe", 11),
        ("a later call of the pipeline, held.inner.pipe", 12),
        ("a later call of the pipeline, pipes['base'][0]", 13),
    ]
    assert all("other arguments" in row.why for row in unseen)


def test_a_pipeline_s_own_parts_are_no_others(tiny: Path, write: Write, cpu: Any) -> None:
    file = write("script.py", "from tiny_pipeline import tiny\n\npipe = tiny()\nsame = pipe\npipe()\n")
    assert resolve(str(file)).run(lambda call: call.unseen, cpu, Options()) == []


# --- arguments ------------------------------------------------------------------------------------


def test_a_factory_s_file_has_no_arguments_of_diffprof(
    tiny: Path, write: Write, cpu: Any, monkeypatch: Any
) -> None:
    file = write(
        "generate.py",
        """
        import argparse
        from tiny_pipeline import tiny

        parser = argparse.ArgumentParser()
        parser.add_argument("--steps", type=int, default=2)
        steps = parser.parse_args().steps

        def make():
            return tiny(), dict(num_inference_steps=steps)
        """,
    )
    monkeypatch.setattr("sys.argv", ["diffprof", "scan", f"{file}:make", "--json"])
    made = resolve(f"{file}:make").run(lambda call: call.kwargs, cpu, Options())
    assert made == {"num_inference_steps": 2}
    with pytest.raises(UsageError, match="names no function after the colon"):
        resolve(f"{file}:")
