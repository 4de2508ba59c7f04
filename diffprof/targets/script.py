"""A script, run as `__main__`: the first call of each of its pipelines is scanned, or the loop that it writes
itself."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from diffprof.model.errors import DiffprofError, TargetError
from diffprof.model.pipeline import Pipeline
from diffprof.targets.guest_errors import guest_error
from diffprof.targets.names import slug

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.model.recording import Unseen
    from diffprof.targets import Options
    from diffprof.targets.loading import Building
    from diffprof.targets.other_pipelines import GoOn
    from diffprof.targets.pipeline_call import PipelineCall
    from diffprof.targets.threads import ScriptThreads

T = TypeVar("T")


@dataclass(frozen=True)
class ScriptTarget:
    """`path/to/script.py -- its args`. which: of its pipelines, in the order of their first calls, the one
    that `run` plays, counted from 0; those before it are only called."""

    file: Path
    args: tuple[str, ...] = ()
    which: int = 0
    kind: str = field(default="script", init=False)

    @cached_property
    def path(self) -> Path:
        """Where the file lies, wherever the script goes to."""
        return self.file.absolute()

    @property
    def spec(self) -> str:
        return str(self.file)

    @property
    def name(self) -> str:
        return slug(self.file.stem)

    def load_code(self) -> None:
        """What it imports is known only when it runs."""

    def run(self, play: Callable[[PipelineCall], T], device: Device, options: Options) -> T:
        if not self.which:
            return self.run_each(play, None, device, options)[0][0]
        played: list[T] = []
        failed: list[DiffprofError] = []
        left = self.which

        def further(call: PipelineCall) -> None:
            nonlocal left
            left -= 1
            call.keeps_output = left > 0
            if left:
                call.run()
                return
            try:
                played.append(play(call))
            except DiffprofError as error:
                failed.append(error)

        _, missed = self.run_each(lambda call: call.run(), further, device, options)
        if failed:
            raise failed[0]
        if not played:
            why = f": {missed[0].why}" if missed else ""
            raise TargetError(
                f"The script {str(self.file)!r} did not come to its pipeline {self.which + 1}{why}."
            )
        return played[0]

    def run_each(
        self,
        play: Callable[[PipelineCall], T],
        further: Callable[[PipelineCall], T] | None,
        device: Device,
        options: Options,
    ) -> tuple[list[T], tuple[Unseen, ...]]:
        """What came of the first call, and of the first call of each other pipeline (`further`; None: the
        script is left after the first); and the pipelines that were not called."""
        from diffprof.targets.interception import Unwound, intercepted
        from diffprof.targets.other_pipelines import ScriptCalls
        from diffprof.targets.threads import children_counted, leaving_said_once, released, told_what_to_do
        from diffprof.targets.written_loop import ModelCalls

        with (
            self._stage(device, options) as stage,
            ExitStack() as counting,
            ScriptCalls(self.path, vars(stage.module), play, further) as calls,
        ):

            def take(pipe: Pipeline, args: tuple[object, ...], kwargs: dict[str, object]) -> GoOn | None:
                counting.close()
                return calls.take(pipe, lambda: self._call(stage, pipe, args, kwargs, options))

            models = counting.enter_context(ModelCalls(device.torch_device.type).counted())
            with (
                intercepted(take) as interception,
                leaving_said_once(self.file),
                released(interception) as over,
                told_what_to_do(self.file, interception, calls.stopped),
                children_counted() as children,
            ):
                end = None
                with suppress(Unwound):  # one more of those that it was told already
                    end = stage.executed()
                over()
                interception.settle()
                called_there = interception.called_in_child()
            if interception.error is not None:
                raise interception.error
            if calls.played:
                return calls.played, calls.not_called(end)
        if isinstance(end, KeyboardInterrupt):
            raise end
        if called_there:
            raise self._without_a_call(None, looped=False, children=max(len(children), 1))
        looped = models.repeated and (end is None or _left_well(end))
        if looped and device.gpu is not None:
            return [self._loop(play, device, options, models.called)], ()
        raise self._without_a_call(end, looped, len(children))

    def _call(
        self,
        stage: ScriptStage,
        pipe: Pipeline,
        args: tuple[object, ...],
        kwargs: dict[str, object],
        options: Options,
    ) -> PipelineCall:
        """A pipeline's call in the script, made ready."""
        from diffprof.targets.calls import swap_scheduler, with_options
        from diffprof.targets.live import settled_call, with_dtype
        from diffprof.targets.pipeline_call import PipelineCall

        if options.scheduler is not None:
            swap_scheduler(pipe, options.scheduler)
        with_dtype(pipe, options)
        args, kwargs = with_options(pipe, args, kwargs, options)
        args, kwargs, notes = settled_call(pipe, args, kwargs, stage.device)
        unseen = [*stage.building.unseen]
        return PipelineCall(pipe, args, kwargs, self, stage.building.weights_of(pipe), notes, unseen=unseen)

    def _loop(
        self, play: Callable[[PipelineCall], T], device: Device, options: Options, known: dict[type, int]
    ) -> T:
        """Run the script again, and play what it does from the first call of a model on."""
        from diffprof.targets.pipeline_call import PipelineCall
        from diffprof.targets.written_loop import (
            NOTE,
            Handover,
            ModelCalls,
            all_made,
            as_pipeline,
            parts_in_reach,
        )

        gc.collect()
        handover = Handover(play)
        with self._stage(device, options) as stage:

            def begin(calls: ModelCalls) -> bool:
                if not all_made(known):
                    return False
                parts = parts_in_reach(vars(stage.module), calls.held)
                device.place([each for each in parts.values() if calls.is_there(each)])
                pipe = as_pipeline(parts, stage.code, handover.call)
                weights = stage.building.weights_of(pipe)
                handover.begin(
                    PipelineCall(pipe, (), {}, self, weights, unseen=[*stage.building.unseen, NOTE])
                )
                return True

            calls = ModelCalls(device.torch_device.type, begin)
            with calls.counted():
                end = stage.executed()
                # What playing has put in place is taken away first, as it came last.
                handover.end(None if end is None or _left_well(end) else end)
        if not calls.begun:
            raise self._without_a_call(end, looped=True)
        result: T = handover.result
        return result

    @contextmanager
    def _stage(self, device: Device, options: Options) -> Iterator[ScriptStage]:
        """Everything as the script would find it: arguments, `__main__`, CUDA, models without weights."""
        from diffprof.targets.loading import models_built
        from diffprof.targets.process import guest
        from diffprof.targets.redirect import cuda_redirect
        from diffprof.targets.threads import threads_join_in

        module = ModuleType("__main__")
        module.__file__ = str(self.path.resolve())
        code = self._code()
        with (
            guest(self.file.parent, [str(self.file), *self.args], module),
            cuda_redirect(device) as in_thread,
            models_built(options, device) as building,
            threads_join_in(in_thread) as threads,
            _uncompiled(device),
        ):
            yield ScriptStage(module, code, threads, building, device)

    def _code(self) -> Any:
        try:
            return compile(self.path.read_bytes(), str(self.path), "exec")
        except (SyntaxError, ValueError, OSError) as error:
            raise guest_error(
                f"The script {str(self.file)!r}", "before it could run", error, self.path
            ) from error

    def _without_a_call(self, end: BaseException | None, looped: bool, children: int = 0) -> TargetError:
        if end is not None and not (looped and _left_well(end)):
            return guest_error(
                f"The script {str(self.file)!r}", "before it called a pipeline", end, self.path
            )
        if children:
            many = "a child process" if children == 1 else f"{children} child processes"
            return TargetError(
                f"The script {str(self.file)!r} ended without calling a pipeline itself. It started {many}: "
                "a call that is made there is not scanned.",
                "Have it call the pipeline in its own process (without workers, or with a thread), or scan a "
                "factory file.py:function that returns the pipeline.",
            )
        if looped:
            return TargetError(
                f"The script {str(self.file)!r} ended without calling a pipeline: it writes its loop out "
                "itself.",
                "Such a loop is scanned on a simulated GPU (--device sim:a100-80gb). Or wrap it in a class "
                "with `components` and `__call__`, and scan a factory file.py:function that returns it.",
            )
        return TargetError(
            f"The script {str(self.file)!r} ended without calling a pipeline, and without a loop over a "
            "model on the device.",
            "Give the arguments with which it makes a picture (script.py -- its args), or scan a factory "
            "file.py:function that returns the pipeline.",
        )


@dataclass
class ScriptStage:
    """A script that is ready to run. code: compiled; module: its `__main__`; threads: what it starts."""

    module: ModuleType
    code: CodeType
    threads: ScriptThreads
    building: Building
    device: Device

    def executed(self) -> BaseException | None:
        """Run it; what it ended with, unless it was left after its call."""
        from diffprof.targets.interception import is_leaving

        try:
            exec(self.code, vars(self.module))
            self.threads.join()
        except BaseException as error:
            return None if is_leaving(error) else error
        return None


def _left_well(end: BaseException) -> bool:
    """`sys.exit()` at the end of a script that went well."""
    return isinstance(end, SystemExit) and end.code in (None, 0)


def _uncompiled(device: Device) -> AbstractContextManager[object]:
    """What a script compiles runs as plain Python where there are no values to compile for."""
    import torch

    return torch.compiler.set_stance("force_eager") if device.gpu is not None else nullcontext()
