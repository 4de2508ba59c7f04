"""What only a process of its own can show: imports, pipes, descriptors, signals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffprof import __version__
from diffprof.model.report import save_report
from diffprof.views import FORMATS
from tests import builders
from tests.cli.conftest import Run, clean_environment

HEAVY = ("torch", "diffusers", "transformers", "numpy", "textual", "libcst", "tensorboard", "accelerate")
ENVIRONMENT = clean_environment()

RUNS = [
    ["--help"],
    ["--version"],
    ["scan", "--help"],
    ["runs"],
    ["rules"],
    ["rules", "--format", "markdown"],
    ["explain", "SYN001"],
    ["targets"],
    *(["show", "--format", form] for form in FORMATS),
]


def diffprof(*args: str, cwd: Path, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diffprof", *args]
    return subprocess.run(  # type: ignore[call-overload]
        command, cwd=cwd, env=ENVIRONMENT, text=True, **{"capture_output": True, **more}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    save_report(builders.one_of_everything(), folder / "traces" / "20260102-030405-sdxl")
    save_report(builders.many(2_000), folder / "traces" / "20250102-030405-big")
    return folder


@pytest.mark.slow
def test_a_script_that_hides_a_module_of_python_is_told_to_be_renamed(tmp_path: Path) -> None:
    """PyTorch imports `grp` while it is imported."""
    (tmp_path / "grp.py").write_text("from diffusers import FluxPipeline\n")
    result = diffprof("scan", "grp.py", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "grp.py hides Python's own module 'grp'" in result.stderr
    assert "Rename the file." in result.stderr


@pytest.mark.parametrize("args", RUNS, ids=" ".join)
def test_imports_nothing_heavy(args: list[str], folder: Path) -> None:
    code = (
        "import sys\nfrom diffprof.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == "[]\n"
    assert result.stdout


def test_version(folder: Path) -> None:
    assert diffprof("--version", cwd=folder).stdout == f"diffprof, version {__version__}\n"


def test_unknown_command_names_the_nearest(folder: Path) -> None:
    result = diffprof("sacn", cwd=folder)
    assert result.returncode == 2
    assert "Did you mean scan?" in result.stderr


def test_ctrl_c_before_a_command_has_begun(folder: Path) -> None:
    code = (
        "import sys\nfrom diffprof.cli import main\n"
        "class Interrupts:\n    def find_spec(self, name, *_):\n        if name == 'diffprof.cli.app':\n"
        "            raise KeyboardInterrupt\nsys.meta_path.insert(0, Interrupts())\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (130, "error: stopped by Ctrl-C.\n")


def test_a_reader_that_goes_away_is_no_error(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "diffprof", "show", "big", "-v"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.read(8) == b"Verdict "
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_output_to_a_full_disk_is_said(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        result = diffprof("show", cwd=folder, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert result.returncode == 2
    assert result.stderr == (
        "error: The output could not be written: No space left on device.\n"
        "Free some space, or send it elsewhere.\n"
    )


@pytest.mark.skipif(os.name != "posix", reason="shells of POSIX")
def test_a_closed_output_is_said(folder: Path) -> None:
    command = f"{sys.executable} -m diffprof show >&-"
    result = subprocess.run(command, shell=True, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "error: The output could not be written: stdout is closed.\nSend it elsewhere.\n"


def test_an_encoding_that_lacks_a_character_gets_its_escape(folder: Path) -> None:
    save_report(builders.long_names(), folder / "elsewhere" / "x")
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = subprocess.run(
        [sys.executable, "-m", "diffprof", "show", "elsewhere/x"],
        cwd=folder,
        env=environment,
        capture_output=True,
    )
    assert result.returncode == 0, result.stderr
    assert rb"\u76ee\u5f55/" in result.stdout


def test_what_a_target_writes_below_python_is_not_data(folder: Path) -> None:
    code = (
        "import os\nfrom diffprof.cli.output import emit, stdout_to_stderr\n"
        "with stdout_to_stderr():\n    print('a')\n    os.write(1, b'b\\n')\n    os.system('echo c')\n"
        "emit('data\\n')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "data\n"
    assert sorted(result.stderr.split()) == ["a", "b", "c"]


def test_chains_end_at_the_pipeline_not_at_the_command_line(run: Run) -> None:
    smallest = f"{Path(__file__).parents[1] / 'fake_cuda' / 'micro.py'}:stable_diffusion"
    done = run("scan", smallest, "--analyzers", "syncs", "-q", "--format", "json")
    rows = json.loads(done.stdout)["recording"]["syncs"]
    frames = [frame["file"] for row in rows for frame in row["site"]["chain"]]
    assert frames
    assert not [file for file in frames if not file.startswith(("diffusers/", "transformers/"))]
