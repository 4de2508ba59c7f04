"""`optimized.py`: plain code that runs as written, says what each step gained, and needs no diffprof."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from diffprof.judge.recipes import recipes
from diffprof.judge.source_edit.renaming import rename
from diffprof.model.fix import Code, Difference, Outcome, PlanStep, Safety, Stage, Status
from diffprof.model.recording import Grade
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options
from diffprof.views.optimized_source import merged_imports, optimized_source, statements
from tests.builders import make_recording, make_report

SIMILAR = Difference(compared_on="a twin", bit_equal=False, max_abs=0.001, psnr_db=51.2, ssim=0.999)


def kept(key: str, code: Code, **more: Any) -> Outcome:
    defaults: dict[str, Any] = {
        "title": f"Do {key}",
        "safety": Safety.EXACT,
        "status": Status.KEPT,
        "why": "It saves 2 ms of 10 ms, 20%.",
        "before_ms": 10.0,
        "after_ms": 8.0,
        "grade": Grade.SIMULATED,
        "difference": SIMILAR,
        "written": code,
    }
    return Outcome(fix=key, **{**defaults, **more})


def source(*outcomes: Outcome, **report: Any) -> str:
    steps = [
        PlanStep(fix=o.fix, title=o.title, safety=o.safety, stage=int(Stage.SCHEDULER)) for o in outcomes
    ]
    return optimized_source(make_report(**report), steps, outcomes)


def module(text: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "optimized"}
    exec(compile(text, "optimized.py", "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    ("makes", "call", "said"),
    [
        ("image", {"prompt": "a cat"}, "image = pipe(prompt=...).images[0]"),
        ("clip", {"prompt": "a cat"}, "frames = pipe(prompt=...).frames[0]"),
        (None, {"num_inference_steps": 4}, "output = pipe(...)"),
    ],
)
def test_the_head_shows_a_call_of_what_the_pipeline_makes(makes: Any, call: Any, said: str) -> None:
    target = replace(make_recording().target, makes=makes, call=call)
    text = source(kept("one", Code(optimize="pipe.x = 1")), recording=make_recording(target=target))
    assert f"    {said}\n" in text


class Pipe:
    """Remembers what was called."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def __call__(self, **kwargs: Any) -> Any:
        self.done.append(("called", kwargs))
        return self.done


def test_steps_run_in_order_with_what_they_gained() -> None:
    text = source(
        kept("one", Code(optimize="pipe.done.append('one')")),
        kept("two", Code(optimize="pipe.done.append('two')")),
        kept("bad", Code(optimize="raise ValueError"), status=Status.UNDONE),
    )
    pipe = Pipe()
    assert module(text)["optimize"](pipe) is pipe
    assert pipe.done == ["one", "two"]
    assert "# It saves 2 ms of 10 ms, 20% (simulated)." in text
    assert "# Output: max 0.001, PSNR 51.2 dB, SSIM 0.9990, on a twin." in text
    assert "def call" not in text
    assert "diffprof" not in text.partition("def optimize")[2]


def test_what_stands_at_call_time() -> None:
    definitions = textwrap.dedent("""\
        @contextlib.contextmanager
        def _meanwhile(pipe):
            pipe.done.append("in")
            yield
            pipe.done.append("out")
        """)
    text = source(
        kept("dict", Code(call="kwargs['return_dict'] = False")),
        kept(
            "held", Code(imports=("import contextlib",), definitions=definitions, around="_meanwhile(pipe)")
        ),
    )
    pipe = Pipe()
    module(text)["call"](pipe, prompt="a cat")
    assert pipe.done == ["in", ("called", {"prompt": "a cat", "return_dict": False}), "out"]


def test_shared_definitions_stand_once_and_clashing_ones_are_renamed() -> None:
    table = "_TABLE = {1: 'a'}  # _TABLE\n\n\ndef _use(pipe):\n    pipe.done.append(_TABLE)\n"
    other = table.replace("'a'", "'b'")
    text = source(
        kept("a", Code(definitions=table, optimize="_use(pipe)")),
        kept("again", Code(definitions=table, optimize="_use(pipe)")),
        kept("b", Code(definitions=other, optimize="_use(pipe)")),
    )
    pipe = Pipe()
    module(text)["optimize"](pipe)
    assert pipe.done == [{1: "a"}, {1: "a"}, {1: "b"}]
    assert text.count("_TABLE = {1: 'a'}") == 1


def test_nothing_kept_says_so_and_does_nothing() -> None:
    text = source(kept("a", Code(optimize="raise ValueError"), status=Status.UNDONE))
    assert "none helped" in text
    pipe = Pipe()
    assert module(text)["optimize"](pipe).done == []


def test_names_can_not_break_out() -> None:
    recording = make_recording()
    evil = '"""\nimport os  # \\ \u202e\x1b[31m'
    target = replace(recording.target, spec=evil, pipeline=evil)
    text = source(
        kept("a", Code(optimize="pipe.done.append(1)"), why=evil, title=evil),
        recording=replace(recording, target=target),
    )
    assert "import os\n" not in text
    assert "\x1b" not in text
    pipe = Pipe()
    assert "os" not in module(text)
    module(text)["optimize"](pipe)
    assert pipe.done == [1]


def test_imports_are_merged_and_sorted() -> None:
    merged = merged_imports(
        (
            "import torch",
            "from torch import nn",
            "import functools",
            "from torch import Tensor as T",
            "import torch",
        )
    )
    assert merged == "import functools\n\nimport torch\nfrom torch import Tensor as T, nn"
    with pytest.raises(SyntaxError, match="not an import"):
        merged_imports(("import torch; torch.x()",))


def test_statements_keep_their_comments_and_decorators() -> None:
    text = "# about a\n_a = 1\n\n\n@decorator\ndef _b():\n    return _a\n"
    assert statements(text) == [
        ("# about a\n_a = 1", ("_a",)),
        ("@decorator\ndef _b():\n    return _a", ("_b",)),
    ]
    assert rename("_a = f(_a, '_a')  # _a", {"_a": "_a_2"}) == "_a_2 = f(_a_2, '_a')  # _a"


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["optimized"])
def test_a_fresh_process_without_diffprof_makes_the_same_image(name: str, built: Any, tmp_path: Path) -> None:
    import diffusers

    from diffprof.targets.pipeline_call import PipelineCall
    from diffprof.tuning.subject import Subject

    report = scan_target("tiny-sdxl", device="sim", options=Options(scheduler="DDIMScheduler", steps=3))
    named = [f for f in report.findings if "host-timesteps" in f.fixes]
    code = recipes()["host-timesteps"].code(report.recording, named)
    assert isinstance(code, Code)
    codes = {
        "host-timesteps": code,
        "quiet": Code(optimize="pipe.set_progress_bar_config(disable=True)"),
        "full-size": Code(call="kwargs.setdefault('num_inference_steps', 2)"),
        "no-grad": Code(imports=("import torch",), around="torch.no_grad()"),
    }
    text = source(*(kept(key, each) for key, each in codes.items()))
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")

    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    scheduler = diffusers.DDIMScheduler.from_config(built.scheduler.config)
    pipe = diffusers.StableDiffusionXLPipeline(vae=built.vae, unet=built.unet, scheduler=scheduler, **parts)
    pipe.save_pretrained(tmp_path / "pipe")
    width = built.unet.config.cross_attention_dim
    pooled = built.unet.config.projection_class_embeddings_input_dim
    pooled -= 6 * built.unet.config.addition_time_embed_dim
    generator = torch.Generator().manual_seed(1)
    call = {
        "prompt_embeds": torch.randn(1, 77, width, generator=generator),
        "pooled_prompt_embeds": torch.randn(1, pooled, generator=generator),
        "negative_prompt_embeds": torch.zeros(1, 77, width),
        "negative_pooled_prompt_embeds": torch.zeros(1, pooled),
        "height": 64,
        "width": 64,
        "output_type": "np",
    }
    torch.save(call, tmp_path / "call.pt")
    script = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "diffprof":
            raise ImportError("diffprof is not here")

sys.meta_path.insert(0, Blocked())
import numpy, torch
from diffusers import DiffusionPipeline
from {name} import call, optimize

pipe = optimize(DiffusionPipeline.from_pretrained("pipe"))
image = call(pipe, generator=torch.Generator().manual_seed(0), **torch.load("call.pt")).images
numpy.save("image.npy", image)
assert "diffprof" not in sys.modules
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    image = np.load(tmp_path / "image.npy")

    seeded = {**call, "generator": torch.Generator().manual_seed(0)}
    subject = Subject(PipelineCall(pipe=pipe, args=(), kwargs=seeded, target=None, weights="random"))  # type: ignore[arg-type]
    before = subject.mark()
    plain = pipe(**{**seeded, "num_inference_steps": 2}).images
    for key, each in codes.items():
        subject.apply(key, each)
    assert np.array_equal(np.asarray(subject.call.run().images), image)
    assert np.array_equal(plain, image), "the fixes are exact"
    subject.restore(before)


@pytest.mark.slow
def test_what_is_written_is_clean(tmp_path: Path, built: Any) -> None:
    report = scan_target("tiny-sdxl", device="sim", options=Options(scheduler="UniPC", steps=3))
    outcomes = []
    for key in ("host-timesteps", "upload-once"):
        named = [f for f in report.findings if key in f.fixes]
        code = recipes()[key].code(report.recording, named)
        if isinstance(code, Code):
            outcomes.append(kept(key, code))
    assert outcomes
    file = tmp_path / "optimized.py"
    file.write_text(source(*outcomes), encoding="utf-8")
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E4,E7,E9,F,I", str(file)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout
