from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from diffprof.model.errors import TargetError
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options, resolve
from diffprof.targets.guest_errors import SEE, next_step

Write = Callable[[str, str], Path]

CALLS = """
    import sys
    from tiny_pipeline import tiny

    if __name__ == "__main__":
        print("not data")
        pipe = tiny()
        images = pipe(batch_size=int(sys.argv[1]), num_inference_steps=2).images
        print("never")
"""


def run(
    file: Path, device: Any, args: tuple[str, ...] = (), play: Any = lambda call: call, **options: Any
) -> Any:
    return resolve(str(file), args).run(play, device, Options(**options))


def test_its_first_call_is_played_with_its_arguments(
    tiny: Path, write: Write, cpu: Any, unchanged: None, capfd: Any
) -> None:
    file = write("script.py", CALLS)

    def play(call: Any) -> Any:
        assert sys.argv == [str(file), "3"]
        assert sys.path[0] == str(file.parent)
        assert sys.modules["__main__"].__file__ == str(file)
        return call.args, call.kwargs, len(call.run().images), type(call.pipe).__call__.__qualname__

    assert run(file, cpu, ("3",), play) == (
        (),
        {"batch_size": 3, "num_inference_steps": 2},
        3,
        "DDPMPipeline.__call__",
    )
    out, err = capfd.readouterr()
    assert out == ""
    assert "not data" in err
    assert "never" not in err


def test_options_of_the_command_line_go_first(tiny: Path, write: Write, cpu: Any) -> None:
    call = run(write("script.py", CALLS), cpu, ("3",), steps=1, scheduler="ddpm")
    assert call.kwargs == {"batch_size": 3, "num_inference_steps": 1}
    assert type(call.pipe.scheduler).__name__ == "DDPMScheduler"


def test_context_managers_of_the_script_are_open_while_it_is_played(
    tiny: Path, write: Write, cpu: Any, unchanged: None
) -> None:
    import torch

    file = write(
        "script.py",
        """
        import torch
        from tiny_pipeline import tiny

        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        with torch.inference_mode():
            tiny()()
        """,
    )
    play = lambda call: (torch.is_inference_mode_enabled(), torch.get_default_dtype())  # noqa: E731
    assert run(file, cpu, (), play) == (True, torch.float64)


@pytest.mark.slow
def test_a_pipeline_class_of_its_own_counts_and_may_call_others(
    tiny: Path, write: Write, cpu: Any, unchanged: None
) -> None:
    file = write(
        "script.py",
        """
        from diffusers import DiffusionPipeline
        from tiny_pipeline import tiny

        class Twice(DiffusionPipeline):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

            def __call__(self, n=1):
                return [self.inner(num_inference_steps=n, output_type="np").images for _ in range(2)]

        Twice(tiny())(2)
        """,
    )
    assert run(file, cpu, (), lambda call: (type(call.pipe).__name__, call.args, len(call.run()))) == (
        "Twice",
        (2,),
        2,
    )


def test_nothing_of_the_script_runs_on(tiny: Path, write: Write, cpu: Any, unchanged: None) -> None:
    file = write(
        "script.py",
        """
        from tiny_pipeline import tiny

        pipe = tiny()
        try:
            pipe()
        except Exception:
            raise SystemExit(1)
        except BaseException:
            pass
        pipe()
        raise RuntimeError("further calls leave as well")
        """,
    )
    calls = []
    run(file, cpu, (), calls.append)
    assert len(calls) == 1


@pytest.mark.parametrize("error", [ValueError("inside"), KeyboardInterrupt()])
def test_what_playing_raises_is_not_the_script_s_to_catch(
    tiny: Path, write: Write, cpu: Any, unchanged: None, error: BaseException
) -> None:
    file = write(
        "script.py",
        """
        from tiny_pipeline import tiny

        try:
            tiny()()
        except BaseException:
            print("caught")
        """,
    )

    def play(call: Any) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        run(file, cpu, (), play)
    assert raised.value is error


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1", "ended without calling a pipeline"),
        ("import sys\nsys.exit(0)", "exited with 0 before it called a pipeline at"),
        (
            "import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\np.parse_args()",
            "exited with 2",
        ),
        (
            "def f():\n    raise OSError('no model')\nf()",
            "raised OSError: no model before it called a pipeline at",
        ),
        ("def f():\n    raise OSError('no model')\nf()", "script.py:2: raise OSError('no model')"),
        ("import json\njson.loads('{')", "script.py:2: json.loads('{')"),
        ("x = (", "has a syntax error"),
    ],
)
def test_a_script_that_comes_to_no_call_is_quoted(
    write: Write, cpu: Any, unchanged: None, source: str, said: str
) -> None:
    with pytest.raises(TargetError) as error:
        run(write("script.py", source), cpu)
    assert said in error.value.what
    assert error.value.hint


@pytest.mark.parametrize("line", ["get_ipython().system('nvidia-smi')", "display(3)"])
def test_a_notebook_s_export_is_told_from_a_script_that_fails(write: Write, cpu: Any, line: str) -> None:
    with pytest.raises(TargetError) as error:
        run(write("script.py", line), cpu)
    assert "A notebook has this name" in error.value.hint


def test_what_a_child_process_raised_is_not_taken_for_a_call_that_needs_cuda() -> None:
    from multiprocessing.pool import RemoteTraceback

    error = AssertionError("Torch not compiled with CUDA enabled")
    assert "With CUDA it runs" in next_step(error)
    error.__cause__ = RemoteTraceback("...")
    assert "A child process raised it" in next_step(error)


def test_a_package_that_is_missing_is_named() -> None:
    for error in (importlib.metadata.PackageNotFoundError("bitsandbytes"), ImportError("other")):
        named = "Install bitsandbytes into the environment" in next_step(error)
        assert named is isinstance(error, ModuleNotFoundError)


def test_an_interrupt_in_the_script_passes(write: Write, cpu: Any, unchanged: None) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(write("script.py", "raise KeyboardInterrupt"), cpu)


def test_what_it_changes_in_the_process_is_put_back(
    tiny: Path, write: Write, cpu: Any, unchanged: None
) -> None:
    import warnings

    filters = list(warnings.filters)
    file = write(
        "script.py",
        """
        import os, random, sys, warnings
        import numpy as np
        import torch
        from tiny_pipeline import tiny

        os.environ["SOMETHING"] = "1"
        os.chdir("/")
        sys.path.append("/nowhere")
        warnings.simplefilter("error")
        random.seed(1); np.random.seed(1); torch.manual_seed(1)
        torch.set_grad_enabled(False)
        torch.set_default_device("cpu")
        torch.set_float32_matmul_precision("high")
        tiny()()
        """,
    )
    run(file, cpu)
    assert warnings.filters == filters


def test_a_pipeline_left_on_the_cpu_is_moved_and_that_is_said(tiny: Path, write: Write) -> None:
    from tests.targets.conftest import FakeDevice

    class Elsewhere(FakeDevice):
        import torch

        torch_device = torch.device("meta")

    device = Elsewhere(kind="sim")
    call = run(write("script.py", CALLS), device, ("1",))
    assert device.places == [call.pipe]
    assert call.notes == ["The pipeline was left on the CPU, and was moved to fake for the scan."]


def test_a_file_that_the_network_does_not_give_is_said_to_be_missing(
    write: Write, cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetch = "from huggingface_hub import hf_hub_download\nhf_hub_download('nobody/has-it', 'x.bin')\n"
    with pytest.raises(TargetError) as caught:
        run(write("script.py", fetch), cpu)
    assert "bring the file into the cache" in caught.value.hint
    assert "CUDA" not in caught.value.hint
    wrapped = "from huggingface_hub.utils import validate_hf_hub_args\n@validate_hf_hub_args\n"
    with pytest.raises(TargetError, match="TypeError: its own") as caught:
        run(write("script.py", f"{wrapped}def load(id): raise TypeError('its own')\nload('a/b')\n"), cpu)
    assert caught.value.hint == SEE


GOES = """
    import os, tempfile
    from tiny_pipeline import tiny

    pipe = tiny()
    os.chdir(tempfile.mkdtemp())
    pipe(num_inference_steps=2)
    pipe(num_inference_steps=3)
"""


def test_a_script_that_goes_to_another_folder_is_read_and_named_as_before(
    tiny: Path, write: Write, cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write("script.py", GOES).parent)
    (left,) = [each for each in run(Path("script.py"), cpu).unseen if each.kind == "left-out"]
    assert (left.site.file, left.site.line) == ("script.py", 8)
    assert dict(left.site.excerpt)[8] == "pipe(num_inference_steps=3)"
    write("script.py", GOES.replace("    pipe(", "    print("))
    with pytest.raises(TargetError, match=r"at script\.py:7: print\(num_inference_steps=2\)"):
        run(Path("script.py"), cpu)


ASKS = """
    import torch
    from diffusers import DDPMPipeline
    from tiny_pipeline import tiny

    class Asking(DDPMPipeline):
        def __call__(self, **more):
            if torch.cuda.is_available():
                torch.zeros(1, device="cuda").item()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return super().__call__(**more)

    Asking(**tiny().components).to("cuda")(num_inference_steps=2)
"""


def test_lines_that_ask_for_cuda_take_its_side_while_the_call_is_watched(tiny: Path, write: Write) -> None:
    recording = scan_target(str(write("script.py", ASKS)), device="sim", analyzers=("syncs",)).recording
    own = [row.site.line for row in recording.syncs if row.site.file.endswith("script.py")]
    assert sorted(own) == [9, 11]
    assert [row.what for row in recording.unseen if row.kind == "branch" and "script.py" in row.what] == []
