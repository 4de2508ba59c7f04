"""One thread a process: several processes test at once, and sums that threads share out may differ in the
last bit from call to call, where tests ask for the same bits. Set before torch is imported, and inherited.

And no test leaves anything behind."""

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes would compile all of diffprof anew

import sys
from collections.abc import Iterator
from typing import Any

import pytest

sys.dont_write_bytecode = False


def _of_the_process() -> dict[str, Any]:
    """What stays when a test ends, of what is imported by now."""
    found: dict[str, Any] = {"folder": os.getcwd()}
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "nn"):
        module = torch.nn.modules.module
        found |= {
            "default dtype": torch.get_default_dtype(),
            "gradients": torch.is_grad_enabled(),
            "modes": torch._C._len_torch_dispatch_stack(),
            "hooks": (len(module._global_forward_hooks), len(module._global_forward_pre_hooks)),
            "Module.__call__": torch.nn.Module.__call__,
            "cuda.is_available": torch.cuda.is_available,
            # Both words say the same where nothing is set for all of torch.
            "TF32": torch.backends.cuda.matmul.fp32_precision not in ("none", "ieee"),
        }
    if (dynamo := sys.modules.get("torch._dynamo.config")) is not None:
        found["limit of recompiles"] = dynamo.recompile_limit
    if (allowed := sys.modules.get("diffprof.judge.allowed")) is not None:
        found["blocks"] = ([*allowed._OPEN], len(allowed._WATCHING))
    if (session := sys.modules.get("diffprof.devices.simulated.session")) is not None:
        found["simulated GPU"] = (session.SESSION.active, session.SESSION.observer)
    return found


def pytest_cmdline_main(config: pytest.Config) -> None:
    """Several processes take a file each, so that what its tests share is made once."""
    if getattr(config.option, "numprocesses", None) and config.option.dist in ("no", "load"):
        config.option.dist = "loadfile"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs by night alone is left out with the slow ones."""
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What was imported by now is looked through by no collection of garbage again, and those are rarer: they
    took a sixth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 10)


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    before = _of_the_process()
    yield
    after = _of_the_process()
    assert {name: after[name] for name in before if name in after} == before
