"""Which versions diffprof works with: one virtual environment a row, and the same core checks in each.

`python -m tests.versions` makes, checks and deletes the environments that the results file has no good answer
of yet, and prints the table. `--only ROW` (again and again) asks for these rows, `--keep` leaves what was
made. Environments come from uv where it is on the PATH, else from pip: `UV_*` and `PIP_*` say where packages
lie. A row needs the Python that it names (on the PATH, or pyenv's); without it, it is shown as absent.
`--python PATH` (again and again) checks environments that are there instead, with the package of this folder,
and stores nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
USUAL = {"torch": "2.13.0", "diffusers": "0.42.1"}
"""What a row holds unless it says otherwise; all else is the newest that pyproject.toml and pip allow."""


@dataclass(frozen=True)
class Row:
    """An environment. pins: package -> version; lowest: all else at pyproject.toml's lower bounds."""

    name: str
    python: str = "3.11"
    pins: dict[str, str] = field(default_factory=dict)
    lowest: bool = False

    def requirements(self) -> list[str]:
        """The package's dependencies with this row's pins in place of their ranges."""
        declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        pins = self.pins if self.lowest else USUAL | self.pins
        return [pinned(line, pins, lowest=self.lowest) for line in declared]


ROWS = (
    Row("newest"),
    Row("lowest", lowest=True, pins={"torch": "2.13.0"}),
    Row("diffusers-0.38", pins={"diffusers": "0.38.0"}),
    Row("diffusers-0.39", pins={"diffusers": "0.39.0"}),
    Row("diffusers-0.40", pins={"diffusers": "0.40.0"}),
    Row("diffusers-0.41", pins={"diffusers": "0.41.0"}),
    Row("torch-2.11", "3.12", {"torch": "2.11.0"}),
    Row("torch-2.12", "3.12", {"torch": "2.12.1"}),
    Row("torch-2.14", pins={"torch": "2.14.1"}),
    Row("torch-2.15", "3.13", {"torch": "2.15.0"}),
    Row("python-3.14", "3.14"),
)

WAITS = (
    ("host-to-device", "pipeline_stable_diffusion_xl.py", "StableDiffusionXLPipeline.encode_prompt", 2, 0.0),
    ("host-to-device", "scheduling_ddim.py", "DDIMScheduler.set_timesteps", 1, 0.0),
    ("host-to-device", "pipeline_stable_diffusion_xl.py", "StableDiffusionXLPipeline.__call__", 1, 0.0),
    ("value-read", "scheduling_ddim.py", "DDIMScheduler.step", 3, 1.0),
    ("value-read", "scheduling_ddim.py", "DDIMScheduler.step", 5, 2.0),
    ("value-read", "scheduling_ddim.py", "DDIMScheduler._get_variance", 3, 1.0),
    ("value-read", "scheduling_ddim.py", "DDIMScheduler._get_variance", 5, 2.0),
    ("device-to-host", "image_processor.py", "VaeImageProcessor.pt_to_numpy", 1, 0.0),
)
"""Kind, file, function, count and count a step of the waits of SDXL with DDIM in three steps."""

SHOWN = ("torch", "diffusers", "transformers", "accelerate", "peft", "torchao", "numpy", "pillow")


def pinned(requirement: str, pins: dict[str, str], *, lowest: bool) -> str:
    """`torch>=2.13,<2.16` as a pin, or as its lower bound where `lowest`, or as it is."""
    name = re.split(r"[<>=!~ \[;]", requirement, maxsplit=1)[0]
    if name in pins:
        return f"{name}=={pins[name]}"
    bound = re.search(r">=([\w.]+)", requirement)
    return f"{name}=={bound[1]}" if lowest and bound else requirement


# -- The checks: run by the row's own Python, in an empty folder -------------------------------------------


def command(*args: str) -> str:
    """What `diffprof ARGS` prints. Raises AssertionError where it ends with another status than 0."""
    from click.testing import CliRunner

    from diffprof.cli.app import app

    result = CliRunner().invoke(app, args)
    if result.exit_code:
        raise AssertionError(f"diffprof {' '.join(args)}: {result.exit_code}\n{result.output[-2000:]}")
    return result.stdout


def waits(target: str) -> None:
    """A scan of the target with DDIM finds the waits of WAITS."""
    args = ("--device", "sim:a100-80gb", "--scheduler", "DDIMScheduler", "--steps", "3", "--format", "json")
    report = json.loads(command("scan", target, *args, "-q"))
    found = [
        (row["kind"], Path(row["site"]["file"]).name, row["site"]["function"], row["count"], row["per_step"])
        for row in report["recording"]["syncs"]
    ]
    assert sorted(found) == sorted(WAITS), f"other waits: {sorted(set(found) ^ set(WAITS))}"


def modules() -> None:
    """Each module of the package can be imported: no name of a library is missing, but for what an extra of
    pyproject.toml brings."""
    import importlib
    import pkgutil
    from importlib.metadata import requires

    import diffprof

    extras = [line.replace("-", "_") for line in requires("diffprof") or () if "extra ==" in line]
    for module in pkgutil.walk_packages(diffprof.__path__, "diffprof."):
        if module.name.endswith("__main__"):
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            if not any(line.startswith(missing) for line in extras):
                raise


def names() -> None:
    """What functions import of the libraries when they are called is there, unless they ask first."""
    import ast
    import importlib

    import diffprof

    missing = []
    for file in Path(diffprof.__path__[0]).rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        asked = {id(node) for each in ast.walk(tree) if isinstance(each, ast.Try) for node in ast.walk(each)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or id(node) in asked or node.level:
                continue
            if str(node.module).split(".")[0] in SHOWN:
                library = importlib.import_module(str(node.module))
                missing += [
                    f"{node.module}.{each.name}" for each in node.names if not has(library, each.name)
                ]
    assert not missing, missing


def has(library: Any, name: str) -> bool:
    """Whether `from library import name` works."""
    from importlib.util import find_spec

    return hasattr(library, name) or find_spec(f"{library.__name__}.{name}") is not None


def quantized() -> None:
    """A linear in INT8 by torchao is the linear within 30 dB."""
    import torch

    from diffprof.analyzers.quantization.layers import quantized_copy
    from diffprof.analyzers.quantization.schemes import SCHEMES

    torch.manual_seed(0)
    linear, x = torch.nn.Linear(256, 256), torch.randn(32, 256)
    with torch.no_grad():
        exact = linear(x)
        error = quantized_copy(linear, SCHEMES["int8-dynamic"])(x) - exact
    assert 10 * torch.log10(exact.square().mean() / error.square().mean()) > 30


def imported() -> None:
    """A trace of PyTorch's profiler is read: two kernels of 5 and 7 us, one wait of 20 us."""

    def event(name: str, cat: str, ts: int, dur: int, tid: int, **args: Any) -> dict[str, Any]:
        return {
            "ph": "X",
            "name": name,
            "cat": cat,
            "ts": ts,
            "dur": dur,
            "pid": tid,
            "tid": tid,
            "args": args,
        }

    events = [
        event("cudaLaunchKernel", "cuda_runtime", 0, 2, 1, correlation=1),
        event("cudaLaunchKernel", "cuda_runtime", 4, 2, 1, correlation=2),
        event("cudaDeviceSynchronize", "cuda_runtime", 10, 20, 1, correlation=3),
        event("gemm", "kernel", 8, 5, 7, correlation=1, stream=7, device=0),
        event("softmax", "kernel", 15, 7, 7, correlation=2, stream=7, device=0),
    ]
    Path("trace.json").write_text(json.dumps({"traceEvents": events}))
    recording = json.loads(command("import", "trace.json", "--format", "json", "-q"))["recording"]
    assert sorted(row["device_us"] for row in recording["kernels"]) == [5, 7], recording["kernels"]


def shown() -> None:
    """The newest run is printed, as text and as a page."""
    assert command("show").strip()
    assert "<html" in command("show", "--format", "html")


def viewed() -> None:
    """The newest run is drawn by the viewer without a terminal."""
    from diffprof.judge.judging import load_judged
    from diffprof.model import runs
    from diffprof.views.tui.app import Viewer

    traces = Path("traces")
    report = load_judged(runs.find(traces, None))

    async def look() -> str:
        viewer = Viewer(report, traces)
        async with viewer.run_test(size=(120, 40)) as pilot:
            await pilot.pause()
            return viewer.export_screenshot(simplify=True)

    assert "sdxl" in asyncio.run(look())


def planned() -> None:
    """The plan of the newest run moves the alphas that DDIM reads off the device."""
    steps = json.loads(command("fix", "--format", "json"))["plan"]["steps"]
    assert any("SYN002" in step["rules"] for step in steps), [step["fix"] for step in steps]


CHECKS: dict[str, Callable[[], None]] = {
    "modules": modules,
    "names": names,
    "import": imported,
    "tiny-sdxl": lambda: waits("tiny-sdxl"),
    "sdxl": lambda: waits("sdxl"),
    "show": shown,
    "view": viewed,
    "fix": planned,
    "quantize": quantized,
}


def check() -> dict[str, str]:
    """Run the checks here. Check -> "" or what went wrong."""
    from traceback import format_exc

    answers = {}
    for name, body in CHECKS.items():
        try:
            body()
            answers[name] = ""
        except Exception:  # whatever a version does is this row's answer
            answers[name] = format_exc()
    return answers


def installed() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in SHOWN}


# -- The matrix: run by any Python -------------------------------------------------------------------------


@dataclass
class Result:
    """A row's answer. failed: why there is no environment; checks: check -> "" or what went wrong."""

    row: str
    python: str
    versions: dict[str, str] = field(default_factory=dict)
    checks: dict[str, str] = field(default_factory=dict)
    failed: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.failed and self.checks == dict.fromkeys(CHECKS, "")


def interpreter(version: str) -> str | None:
    """A Python of that version: this one, one on the PATH, or pyenv's newest."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    own = sorted(pyenv.glob(f"{version}.*/bin/python"), key=lambda path: int(path.parts[-3].split(".")[2]))
    return str(own[-1]) if own else shutil.which(f"python{version}")


class Failed(Exception):
    """A command that makes an environment ended with an error."""


def run(*args: str, **environment: str) -> str:
    """What a command prints. Raises Failed with the end of what it said."""
    result = subprocess.run(args, capture_output=True, text=True, env={**os.environ, **environment})
    if result.returncode:
        raise Failed(f"{' '.join(args)[:200]}\n{(result.stdout + result.stderr)[-3000:]}")
    return result.stdout


def make(row: Row, folder: Path, base: str) -> Path:
    """The row's environment with the package in it; its Python.

    The package comes last and without its dependencies, whose ranges are what is being tried. All installs
    are held to the row's torch, so that none brings another.
    """
    python = folder / "bin" / "python"
    requirements, wheel = row.requirements(), str(ROOT)
    held = folder.parent / f"{folder.name}.txt"
    held.write_text("\n".join(line for line in requirements if line.startswith("torch==")) + "\n")
    if shutil.which("uv"):
        run("uv", "venv", "-q", "--clear", "-p", base, str(folder))
        install: tuple[str, ...] = ("uv", "pip", "install", "-q", "-p", str(python))
    else:
        run(base, "-m", "venv", "--clear", str(folder))
        install = (str(python), "-m", "pip", "install", "-q")
    limits = {"PIP_CONSTRAINT": str(held), "UV_CONSTRAINT": str(held)}
    run(*install, *requirements, **limits)
    run(*install, "--no-deps", wheel, **limits)
    return python


def answer(row: Row, folder: Path, *, keep: bool) -> Result:
    """Make the row's environment, run the checks in it and delete it, unless it is kept."""
    result, start, base = Result(row.name, row.python), time.monotonic(), interpreter(row.python)
    if base is None:
        result.failed = f"no Python {row.python} here"
        return result
    home = folder / row.name
    try:
        result.versions, result.checks = checked(make(row, home, base))
    except Failed as error:
        result.failed = str(error)
    finally:
        if not keep:
            shutil.rmtree(home, ignore_errors=True)
    result.seconds = round(time.monotonic() - start, 1)
    return result


def checked(python: Path, path: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """Versions, and what the checks say, of a Python with `path` before its packages. Raises Failed."""
    with tempfile.TemporaryDirectory() as empty:
        told = Path(empty, "answers.json")
        settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        run(str(python), "-P", __file__, "--check", str(told), **settings)
        found = json.loads(told.read_text())
    return found["versions"], found["checks"]


def given(python: Path) -> Result:
    """The answer of an environment that is there."""
    result, start = Result(str(python.absolute().parents[1].name), ""), time.monotonic()
    try:
        result.python = run(str(python), "-c", "import platform; print(platform.python_version())").strip()
        result.versions, result.checks = checked(python, str(ROOT))
    except Failed as error:
        result.failed = str(error)
    result.seconds = round(time.monotonic() - start, 1)
    return result


def table(results: Iterable[Result]) -> str:
    """A line a row: versions, and each check as ok or FAILS."""
    lines = [("row", "python", *SHOWN, *CHECKS)]
    for each in results:
        said = [("FAILS" if each.checks[name] else "ok") if name in each.checks else "-" for name in CHECKS]
        if each.failed:
            said = [each.failed.splitlines()[0][:60]]
        lines.append((each.row, each.python, *(each.versions.get(name, "") for name in SHOWN), *said))
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(lines[0]))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def load(path: Path) -> dict[str, Result]:
    if not path.exists():
        return {}
    return {each["row"]: Result(**each) for each in json.loads(path.read_text())}


def main() -> None:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--only", metavar="ROW", action="append", choices=names, help=f"of {', '.join(names)}"
    )
    parser.add_argument("--python", metavar="PATH", action="append", type=Path, help="of an environment")
    parser.add_argument("--keep", action="store_true", help="leave the environments")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "diffprof-versions"))
    parser.add_argument("--results", type=Path, help="default: results.json in --folder")
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.check:
        os.chdir(args.check.parent)
        args.check.write_text(json.dumps({"versions": installed(), "checks": check()}))
        return
    if args.python:
        say(map(given, args.python))
    args.folder.mkdir(parents=True, exist_ok=True)
    stored = args.results or args.folder / "results.json"
    results = load(stored)
    for row in ROWS:
        if row.name in (args.only or names) and not (row.name in results and results[row.name].passed):
            results[row.name] = answer(row, args.folder.absolute(), keep=args.keep)
            stored.write_text(json.dumps([asdict(each) for each in results.values()], indent=1))
    say(results[name] for name in names if name in results)


def say(results: Iterable[Result]) -> NoReturn:
    """Print the table and what went wrong, and end: with 0 where nothing did."""
    ordered = list(results)
    print(table(ordered))
    for each in ordered:
        for name, why in {"environment": each.failed, **each.checks}.items():
            if why:
                print(f"\n{each.row}, {name}:\n{why}")
    sys.exit(not all(each.passed for each in ordered))


if __name__ == "__main__":
    main()
