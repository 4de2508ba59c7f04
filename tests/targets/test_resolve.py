from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffprof.model.errors import UsageError
from diffprof.targets import resolve


@pytest.mark.parametrize(
    ("spec", "kind", "name"),
    [
        ("sdxl", "builtin", "sdxl"),
        (
            "stabilityai/stable-diffusion-xl-base-1.0",
            "checkpoint",
            "stabilityai-stable-diffusion-xl-base-1.0",
        ),
        ("SDXL", "builtin", "sdxl"),
        ("Tiny-SDXL", "builtin", "tiny-sdxl"),
        ("https://huggingface.co/stabilityai/sdxl-turbo/tree/main", "checkpoint", "stabilityai-sdxl-turbo"),
        ("{folder}", "checkpoint", "my-model"),
        ("{folder}/make.py:pipe", "factory", "make-pipe"),
        ("{folder}/make.py", "script", "make"),
    ],
)
def test_the_spec_tells_the_kind_of_target(tmp_path: Path, spec: str, kind: str, name: str) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "make.py").touch()
    target = resolve(spec.format(folder=folder))
    assert (target.kind, target.name) == (kind, name)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("sdlx", "Did you mean sdxl"),
        ("fluxx", "Did you mean flux"),
        ("schnell", "Did you mean flux-schnell?"),
        ("wan2.2", "Did you mean wan2.2-5b, wan2.2-t2v-a14b?"),
        ("tiny-sd3.5", "Did you mean tiny-sd3.5-large, tiny-sd3.5-medium?"),
        ("stable diffusion xl", "Did you mean sdxl, sdxl-img2img"),
        ("FLUX.1-dev", "Did you mean flux?"),
        ("nothing-like-it", "path/to/file.py:function"),
        ("./no-such-folder", "no folder './no-such-folder'"),
        ("no/such/folder", "no folder"),
        ("{folder}/mak.py", "Did you mean make.py?"),
        ("{folder}/mak.py:pipe", "Did you mean make.py?"),
        ("{folder}/model.safetensors", "from_single_file"),
    ],
)
def test_an_unknown_target_is_answered_with_what_is_near(tmp_path: Path, spec: str, said: str) -> None:
    (tmp_path / "make.py").touch()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UsageError) as error:
        resolve(spec.format(folder=tmp_path))
    assert said in str(error.value)


def test_only_scripts_take_arguments() -> None:
    with pytest.raises(UsageError, match="takes no arguments, but got: --prompt cat"):
        resolve("sdxl", ["--prompt", "cat"])


def test_listing_and_resolving_import_no_torch() -> None:
    code = (
        "import sys; from diffprof.targets import builtin_targets, resolve, Options;"
        "builtin_targets(); resolve('sdxl'); Options(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
