"""Run other people's code in this process, and leave the process as it was."""

from __future__ import annotations

import os
import random
import signal
import sys
import sysconfig
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from diffprof.model.callsite import named_from_here
from diffprof.targets.exits import exits_held_back
from diffprof.targets.memory_guard import MemoryGone, memory_guarded


@contextmanager
def guest(folder: Path, argv: Sequence[str] | None = None, main: ModuleType | None = None) -> Iterator[None]:
    """Inside, code from `folder` runs as Python would run it there: it is first on `sys.path`, with `argv`,
    `main` as `__main__`; what it prints goes to stderr. Afterwards, interpreter, environment and torch are as
    before, and modules imported from outside the installed packages are forgotten. What would end the process
    without a word raises ProcessExit; handlers of signals are given back."""
    before = _State()
    with ExitStack() as stack:
        stack.callback(before.restore)
        stack.enter_context(named_from_here())
        stack.enter_context(exits_held_back())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(redirect_stdout(sys.stderr))
        sys.path[:] = [str(folder.resolve()), *sys.path]
        if argv is not None:
            sys.argv[:] = argv
        if main is not None:
            sys.modules["__main__"] = main
        try:
            with memory_guarded():
                yield
        except MemoryGone as gone:
            raise gone.as_error("The target", "") from gone


class _State:
    """What guest code is likely to change."""

    def __init__(self) -> None:
        self.argv, self.path, self.modules = list(sys.argv), list(sys.path), dict(sys.modules)
        self.environment, self.folder = dict(os.environ), os.getcwd()
        self.generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self.torch = [(write, read()) for read, write in SETTINGS]
        self.handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def restore(self) -> None:
        sys.argv[:], sys.path[:] = self.argv, self.path
        sys.modules["__main__"] = self.modules["__main__"]
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if name not in self.modules and file is not None and not installed(file):
                del sys.modules[name]
        if dict(os.environ) != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        os.chdir(self.folder)
        python, numpy, cpu = self.generators
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        for write, value in self.torch:
            write(value)
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.handlers.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


def _attribute(owner: object, name: str) -> tuple[object, object]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _default_device() -> object:
    """The default device's mode, or None: asking for the device itself would make one."""
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def _set_default_device(mode: torch.utils._device.DeviceContext | None) -> None:
    if _default_device() is not mode:
        torch.set_default_device(None if mode is None else mode.device)


SETTINGS: list[tuple[Any, Any]] = [
    (torch.get_default_dtype, torch.set_default_dtype),
    (_default_device, _set_default_device),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    _attribute(torch.backends.cuda.matmul, "fp32_precision"),
    _attribute(torch.backends.mkldnn.matmul, "fp32_precision"),
    _attribute(torch.backends.cudnn, "allow_tf32"),
    _attribute(torch.backends.cudnn, "benchmark"),
    _attribute(torch.backends.cudnn, "deterministic"),
    (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
    (torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.enable_mem_efficient_sdp),
    (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
]
"""(read, write) of torch's global settings."""


def installed(file: str) -> bool:
    """Whether a file belongs to Python or an installed package rather than to the user."""
    return file.startswith((*_library_folders(), "<frozen"))


@cache
def _library_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    own = Path(__file__).resolve().parents[1]
    found = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [path for path in sys.path if path.rstrip("/\\").endswith(("site-packages", "dist-packages"))]
    return tuple(f"{path.rstrip(os.sep)}{os.sep}" for path in [*found, str(own)])
