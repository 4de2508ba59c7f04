"""Parses a run's trace for the profiler plugin, in a process of its own."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty

from torch_tb_profiler.multiprocessing import Process
from torch_tb_profiler.profiler import RunLoader
from torch_tb_profiler.run import Run

from diffprof.views.tensorboard.files import TRACE_FILE
from diffprof.views.tensorboard.trace import TENSOR_CORES

_ANSWER_S = 1.0
"""How often to look whether the parsing process is still alive."""


_ENDING = threading.Event()


def end_all() -> None:
    """End the processes that parse, and start no more: what is left when the interpreter ends prints
    tracebacks."""
    _ENDING.set()
    for process in multiprocessing.active_children():
        process.terminate()
        process.join()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C goes to every process of the terminal. One that is started here inherits the mask, and ends when
    it is told to; where there are no masks (Windows) it may print a traceback."""
    mask = getattr(signal, "pthread_sigmask", None)
    if mask is None:
        yield
        return
    before = mask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        mask(signal.SIG_SETMASK, before)


def ending() -> bool:
    """Whether a run without a profile is to be expected."""
    return _ENDING.is_set()


class TraceLoader(RunLoader):
    """The stock loader looks for `*.pt.trace.json` and waits forever for a process that died."""

    def __init__(self, name: str, run_dir: str, caches: object, worker: str) -> None:
        super().__init__(name, run_dir, caches)
        self.worker = worker

    def load(self) -> Run:
        """The run; without a profile where the trace could not be parsed (the reason is in the log)."""
        run = Run(self.run_name, self.run_dir)
        if _ENDING.is_set():
            return run
        process = Process(target=self._process_data, args=(self.worker, None, TRACE_FILE), daemon=True)
        with _interrupts_held_back():
            process.start()
        while True:
            try:
                profile, _ = self.queue.get(timeout=_ANSWER_S)
            except Empty:
                if process.is_alive():
                    continue
                break
            if profile is not None:
                run.add_profile(profile)
            break
        return run

    def _process_data(self, worker: str, span: object, path: str) -> None:
        """In the process: teach the plugin the names of predicted kernels and operators."""
        from torch_tb_profiler.profiler.tensor_core import TC_Allowlist, TC_OP_Allowlist

        TC_Allowlist.allowlist.append(TENSOR_CORES)
        eligible = [name.removeprefix("aten::") for name in TC_OP_Allowlist.allowlist]
        attention = ("efficient_attention", "flash_attention", "cudnn_attention", "attention")
        TC_OP_Allowlist.allowlist.extend([*eligible, *attention])
        super()._process_data(worker, span, path)
