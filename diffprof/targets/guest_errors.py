"""Failures of code that is not diffprof's, as one clear error with its next step."""

from __future__ import annotations

import linecache
import re
import traceback
from pathlib import Path

from diffprof.devices.simulated.runtime import ON_A_GPU
from diffprof.devices.simulated.session import SESSION
from diffprof.model.callsite import importable_path
from diffprof.model.errors import DiffprofError, TargetError
from diffprof.targets.exits import ProcessExit
from diffprof.targets.memory_guard import MemoryGone

_NO_CUDA = re.compile(
    r"not compiled with CUDA|not linked with support for cuda|Tried to instantiate dummy base class"
    r"|Found no NVIDIA driver|torch\._C' has no attribute '_(cuda|nccl)|without ATen_cuda|No CUDA GPUs"
)
_NO_FILE = re.compile(
    r"no file named|not a local folder|can't load|couldn't connect|cannot find|no such file|not found"
    r"|locate the file|model files of the `variant|set it to a valid url"
)
_LOADERS = ("from_pretrained", "load_checkpoint_in_model", "load_checkpoint_and_dispatch", "from_single_file")

_INSTEAD = tuple(Path(__file__).with_name(name) for name in ("construct.py", "known.py"))
"""What loads in the libraries' place where no weights are wanted."""

NOTEBOOK = ("get_ipython", "display")
"""Names that IPython defines."""


def guest_error(who: str, when: str, error: BaseException, file: Path) -> TargetError:
    """What happened, and the last line of `file` on its way."""
    if isinstance(error, SyntaxError):
        where = f"{importable_path(error.filename or str(file))[0]}:{error.lineno}"
        line = (error.text or "").strip()
        return TargetError(
            f"{who} has a syntax error: {error.msg} ({where}){': ' + line if line else ''}",
            "Correct it first.",
        )
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    at = ""
    if own:
        code = linecache.getline(own[-1].filename, own[-1].lineno or 0).strip()
        at = f" at {importable_path(own[-1].filename)[0]}:{own[-1].lineno}" + (f": {code}" if code else "")
    if isinstance(error, SystemExit | ProcessExit):
        status = error.code if error.code is not None else 0
        how = f"called {error.how}" if isinstance(error, ProcessExit) else f"exited with {status!r}"
        return TargetError(
            f"{who} {how} {when}{at}",
            "Give the arguments it needs after --, or see its own message above.",
        )
    if isinstance(error, MemoryGone):
        return error.as_error(who, at)
    if isinstance(error, DiffprofError):
        return TargetError(f"{who} stopped {when}{at}: {error.what}", error.hint)
    text = str(error).strip().splitlines()
    raised = f"{type(error).__name__}{': ' + text[0] if text else ''}"
    return TargetError(f"{who} raised {raised} {when}{at}", next_step(error))


def next_step(error: BaseException) -> str:
    """What to do about an error of a target, as far as its kind tells."""
    text = str(error)
    if type(error.__cause__).__name__.endswith("RemoteTraceback"):
        return (
            "A child process raised it, and what is called there is not scanned. Have the script call the "
            "pipeline in its own process, or scan a factory file.py:function that returns the pipeline."
        )
    if _NO_CUDA.search(text):
        return f"With CUDA it runs; the simulated GPU does not know this call. {ON_A_GPU}"
    if isinstance(error, NameError) and error.name in NOTEBOOK:
        return "A notebook has this name, plain Python has not: take such lines out of what was exported."
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"Install {package} into the environment that diffprof runs in; no GPU is needed for that."
    if _missing_weights(error):
        if any(Path(frame.filename) in _INSTEAD for frame in traceback.extract_tb(error.__traceback__)):
            return (
                "Without weights too its configuration is needed: check the network and the name, or give a "
                "local folder. `diffprof targets` lists the checkpoints whose configurations are built in."
            )
        if _loads(error, "from_single_file"):
            return (
                "A single file itself says how its model is built, so it has to be on this machine (`hf "
                "download` fetches it). With --no-weights a model that from_pretrained loads needs none."
            )
        return (
            "Without the weights, scan it with --no-weights: models are then built from their "
            "configurations, which is all that a simulated GPU needs."
        )
    if _asks_network(error):
        return (
            "It fetches a file that is not on this machine, and the network does not give it. Have it read a "
            "local copy, bring the file into the cache (`hf download`), or leave the line out for the scan, "
            "behind a flag of the script."
        )
    simulated = "sim:" in text  # the device is closed by now
    if simulated and "same device" in text:
        return (
            'In a scan device="cuda" names the simulated GPU: make the tensors that the pipeline is given '
            "there, as on a machine with a GPU."
        )
    if simulated and "to numpy" in text:
        return (
            "Tensors that a factory returns beside a pipeline left on the CPU are moved along with it. Where "
            'one has to stay, let the factory end with pipe.to("cuda"): then all stay where they were made.'
        )
    said = made_up()
    return f"{said}{SEE}" if said else SEE


_NETWORK = re.compile(r"[/\\\\](huggingface_hub|requests|httpx|urllib3?)[/\\\\]")


def _asks_network(error: BaseException) -> bool:
    """Whether it, or what it followed from, was raised where files are fetched."""
    chain: BaseException | None = error
    while chain is not None:
        # Not wherever it passed: huggingface_hub's check of arguments wraps all of `from_pretrained`.
        if any(_NETWORK.search(at.filename) for at in traceback.extract_tb(chain.__traceback__)[-1:]):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


SEE = f"See whether it runs without diffprof. Where it needs CUDA: {ON_A_GPU[0].lower()}{ON_A_GPU[1:]}"


def made_up() -> str:
    """What a failure may follow from: the last value that was made up on the simulated device, or nothing."""
    last = SESSION.made_up
    if last is None:
        return ""
    op, place = last
    where = f" at {importable_path(place[0])[0]}:{place[1]}" if place else ""
    return (
        f"It may follow from a value that was made up: {_asking(op)}{where} asked for one that is unknown "
        "without computing, and was given a stand-in. "
    )


def _asking(op: str) -> str:
    """An operation that needs a value, as Python writes it."""
    base = op.removeprefix("aten::").partition(".")[0]
    return "a read (`.item()`, `if`, `float()`)" if base == "_local_scalar_dense" else f"`{base}`"


def _missing_weights(error: BaseException) -> bool:
    told = isinstance(error, OSError) or _NO_FILE.search(str(error).lower()) is not None
    return told and _loads(error, *_LOADERS)


def _loads(error: BaseException, *names: str) -> bool:
    return any(frame.name in names for frame in traceback.extract_tb(error.__traceback__))
