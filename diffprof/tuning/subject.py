"""A pipeline with its call, to which the code of fixes is applied, and from which it can be taken again."""

from __future__ import annotations

import linecache
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from diffprof.devices.storages import Storages
from diffprof.model.fix import Code
from diffprof.targets.calls import bound
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.undo import Snapshot

if TYPE_CHECKING:
    from diffprof.model.pipeline import Pipeline


@dataclass(frozen=True)
class Mark:
    """A state to come back to."""

    snapshot: Snapshot
    call: PipelineCall
    namespace: dict[str, object]
    around: tuple[str, ...]


class Subject:
    """Runs the code of fixes as `optimized.py` would: one module of imports and definitions, a function on
    the pipeline, a function on the call's arguments, context managers around the call."""

    def __init__(self, call: PipelineCall, spare: torch.device | None = None) -> None:
        """spare: a device whose memory only the pipeline as it is may take, not the states before it."""
        self.call = call.changed(bound(call.pipe, call.args, call.kwargs), call.around)
        # Without a name, by which Dynamo would import the module where it traces a hook that a fix left.
        self.namespace: dict[str, object] = {}
        self.around: tuple[str, ...] = ()
        self._storages = Storages(spare)

    @property
    def pipe(self) -> Pipeline:
        return self.call.pipe

    def mark(self) -> Mark:
        """The state now, as it is between calls."""
        self.call.rewind()
        snapshot = Snapshot(self.pipe, self.call.kwargs, storages=self._storages)
        return Mark(snapshot, self.call, dict(self.namespace), self.around)

    def park(self) -> None:
        """Take what only marks hold off the device whose memory is to be spared."""
        self._storages.park([self.pipe, self.call.kwargs, self.namespace])

    def restore(self, mark: Mark) -> None:
        """The state is that of the mark, exactly; a mark can be restored more than once."""
        mark.snapshot.restore()
        self.call, self.around = mark.call, mark.around
        self.namespace.clear()
        self.namespace.update(mark.namespace)

    def apply(self, key: str, code: Code) -> None:
        """Run the code. What it raises passes through; the state is then somewhere in between."""
        self.call.rewind()
        run("\n".join(code.imports), self.namespace, f"<fix {key}, imports>")
        run(code.definitions, self.namespace, file_of(key, code))
        pipe = self.pipe
        if code.optimize.strip():
            pipe = function("optimize", "pipe", code.optimize, self.namespace, key)(pipe)
        kwargs = dict(self.call.kwargs)
        if code.call.strip():
            kwargs = function("call", "kwargs", code.call, self.namespace, key)(kwargs)
        if code.around:
            self.around = (*self.around, code.around)
        self.call = self.call.changed(kwargs, self._opened if self.around else None)
        self.call.pipe = pipe

    def _opened(self) -> AbstractContextManager[None]:
        @contextmanager
        def opened() -> Iterator[None]:
            with ExitStack() as stack:
                for expression in self.around:
                    stack.enter_context(eval(expression, self.namespace, {"pipe": self.pipe}))
                yield

        return opened()


def function(name: str, argument: str, body: str, namespace: dict[str, object], key: str) -> Any:
    """A function of one argument with these statements, which returns that argument."""
    source = (
        f"def _{name}({argument}):\n{textwrap.indent(body.strip(chr(10)), '    ')}\n    return {argument}\n"
    )
    own: dict[str, object] = {}
    run(source, namespace, f"<fix {key}, {name}>", own)
    return own[f"_{name}"]


def file_of(key: str, code: Code) -> str:
    """What the file with a fix's definitions is called. Methods that stand there as in the library are code
    that is scanned, with loops and lines of its own; what else fixes define is looked past."""
    return f"optimized.py, {key}" if code.kept else f"<fix {key}, definitions>"


def run(source: str, namespace: dict[str, object], file: str, own: dict[str, object] | None = None) -> None:
    """Execute source as a file of that name, which tracebacks and `inspect` can show."""
    if not source.strip():
        return
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), namespace, own if own is not None else namespace)
