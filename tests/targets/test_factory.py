from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffprof.devices.simulated.host_placeholders import stands_for_unknown
from diffprof.model.errors import TargetError, UsageError
from diffprof.targets import Options, resolve

Write = Callable[[str, str], Path]


def run(file: Path, function: str, device: Any, play: Any = lambda call: call, **options: Any) -> Any:
    return resolve(f"{file}:{function}").run(play, device, Options(**options))


def test_a_pipeline_is_called_by_its_signature(tiny: Path, cpu: Any, unchanged: None) -> None:
    call = run(tiny / "tiny_pipeline.py", "tiny", cpu, batch=2)
    assert call.kwargs == {"num_inference_steps": 3, "batch_size": 2}
    assert call.weights == "real"
    assert len(call.run().images) == 2


def test_its_call_arguments_and_neighbours_are_its_own(
    tiny: Path, write: Write, cpu: Any, unchanged: None
) -> None:
    file = write(
        "make.py",
        """
        from tiny_pipeline import tiny

        def pipe():
            print("not data")
            return tiny(), {"num_inference_steps": 2, "output_type": "np"}
        """,
    )
    play = lambda call: (call.kwargs, call.run().images.shape)  # noqa: E731
    assert run(file, "pipe", cpu, play) == ({"num_inference_steps": 2, "output_type": "np"}, (1, 8, 8, 3))
    assert "tiny_pipeline" not in sys.modules


def test_what_it_prints_is_not_data(tiny: Path, write: Write, cpu: Any, capfd: Any) -> None:
    file = write(
        "make.py",
        """
        from tiny_pipeline import tiny

        def pipe():
            print("not data")
            return tiny()
        """,
    )
    run(file, "pipe", cpu)
    out, err = capfd.readouterr()
    assert out == ""
    assert "not data" in err


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise KeyError('no checkpoint')", "raised KeyError: 'no checkpoint' before it returned at"),
        ("raise SystemExit(4)", "exited with 4 before it returned"),
        ("return None", "returned None, which is not a pipeline"),
        ("return 1, 2", "returned an int"),
        ("return lambda: 0, 3", "returned a function"),
    ],
)
def test_a_factory_that_fails_is_quoted(
    write: Write, cpu: Any, unchanged: None, body: str, said: str
) -> None:
    file = write("make.py", f"def pipe():\n    {body}\n")
    with pytest.raises(TargetError) as error:
        run(file, "pipe", cpu)
    assert said in error.value.what
    assert error.value.hint


def test_call_arguments_must_be_named(tiny: Path, write: Write, cpu: Any) -> None:
    file = write("make.py", "from tiny_pipeline import tiny\n\ndef pipe():\n    return tiny(), ['a cat']\n")
    with pytest.raises(TargetError, match="returned a list beside the pipeline"):
        run(file, "pipe", cpu)


def test_a_file_that_can_t_be_imported_is_quoted(write: Write, cpu: Any, unchanged: None) -> None:
    with pytest.raises(TargetError, match=r"ZeroDivisionError: division by zero while .*make\.py:2: 1 / 0"):
        run(write("make.py", "x = 1\n1 / 0\n"), "pipe", cpu)
    with pytest.raises(TargetError, match=r"syntax error: .*make\.py:1\): def pipe\(:"):
        run(write("make.py", "def pipe(:\n"), "pipe", cpu)


def test_an_unknown_function_is_answered_with_those_there_are(write: Write, cpu: Any) -> None:
    file = write("make.py", "def pipeline(): ...\n")
    with pytest.raises(UsageError) as error:
        run(file, "pipelin", cpu)
    assert error.value.hint == "Did you mean pipeline?"


def test_what_playing_raises_passes_through(tiny: Path, cpu: Any, unchanged: None) -> None:
    def play(call: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny / "tiny_pipeline.py", "tiny", cpu, play)


def test_loading_without_weights_reads_configurations(
    tiny_checkpoint: Path, write: Write, shapes: Any, unchanged: None
) -> None:
    file = write(
        "make.py",
        f"""
        import torch
        from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel

        def pipe():
            unet = UNet2DConditionModel.from_pretrained({str(tiny_checkpoint)!r}, subfolder="unet")
            return DiffusionPipeline.from_pretrained(
                {str(tiny_checkpoint)!r}, unet=unet, torch_dtype=torch.float16, scheduler=DDIMScheduler()
            )
        """,
    )
    call = run(file, "pipe", shapes, weights=False)
    assert call.weights == "none"
    for part in (call.pipe.unet, call.pipe.vae):
        assert all(p.device.type == "cpu" and stands_for_unknown(p) for p in part.parameters())
    assert call.pipe.unet.dtype != call.pipe.vae.dtype
    assert type(call.pipe.scheduler).__name__ == "DDIMScheduler"
