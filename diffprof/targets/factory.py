"""A function in the user's file that returns a pipeline, or a pipeline and the arguments of its call."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffprof.model.errors import TargetError, UsageError
from diffprof.targets.names import nearest, slug

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options
    from diffprof.targets.pipeline_call import PipelineCall

T = TypeVar("T")


@dataclass(frozen=True)
class FactoryTarget:
    """`path/to/file.py:function`."""

    file: Path
    function: str
    kind: str = field(default="factory", init=False)

    @property
    def spec(self) -> str:
        return f"{self.file}:{self.function}"

    @property
    def name(self) -> str:
        return slug(f"{self.file.stem}-{self.function}")

    def load_code(self) -> None:
        """What it imports is known only when it runs."""

    def run(self, play: Callable[[PipelineCall], T], device: Device, options: Options) -> T:
        from diffprof.targets.calls import default_call, swap_scheduler, with_options
        from diffprof.targets.live import settled_call, with_dtype
        from diffprof.targets.loading import models_built
        from diffprof.targets.pipeline_call import PipelineCall
        from diffprof.targets.redirect import cuda_redirect

        with (
            self._around(),
            cuda_redirect(device),
            models_built(options, device) as building,
        ):
            pipe, given = self._made()
            if options.scheduler is not None:
                swap_scheduler(pipe, options.scheduler)
            with_dtype(pipe, options)
            kwargs = default_call(pipe, options) if given is None else given
            args, kwargs = with_options(pipe, (), kwargs, options)
            args, kwargs, notes = settled_call(pipe, args, kwargs, device)
            weights = building.weights_of(pipe)
            return play(PipelineCall(pipe, args, kwargs, self, weights, notes, unseen=building.unseen))

    def _around(self) -> AbstractContextManager[None]:
        from diffprof.targets.process import guest

        return guest(self.file.parent, [str(self.file)])

    def _made(self) -> tuple[Any, dict[str, Any] | None]:
        """The pipeline and its call arguments, None where the factory gives none."""
        made = self._call()
        given: object = None
        if isinstance(made, tuple) and len(made) == 2:
            made, given = made
        if not callable(made) or not hasattr(made, "components"):
            raise TargetError(
                f"The factory {self.spec} returned {_shown(made)}, which is not a pipeline.",
                "Return a diffusers pipeline, or (pipeline, call_kwargs).",
            )
        if given is not None and not (isinstance(given, Mapping) and all(isinstance(k, str) for k in given)):
            raise TargetError(
                f"The factory {self.spec} returned {_shown(given)} beside the pipeline.",
                "Return (pipeline, call_kwargs) with a dict of the call's arguments by name.",
            )
        return made, None if given is None else dict(given)

    def _call(self) -> Any:
        from diffprof.targets.guest_errors import guest_error

        name = f"_factory_{self.file.stem}"
        spec = importlib.util.spec_from_file_location(name, self.file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise guest_error(
                f"The file {str(self.file)!r}", "while it was imported", error, self.file
            ) from error
        function = getattr(module, self.function, None)
        if not callable(function):
            known = [
                key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
            ]
            own = [key for key in known if getattr(vars(module)[key], "__module__", None) == name]
            near = nearest(self.function, known)
            raise UsageError(
                f"There is no function {self.function!r} in {str(self.file)!r}.",
                near or f"It has: {', '.join(own) or 'none'}.",
            )
        return self._returned(function)

    def _returned(self, function: Callable[[], object]) -> object:
        from diffprof.targets.guest_errors import guest_error

        try:
            return function()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise guest_error(f"The factory {self.spec}", "before it returned", error, self.file) from error


def is_factory(thing: object) -> bool:
    """Whether it is a function, and no pipeline: a pipeline has components."""
    return callable(thing) and not hasattr(thing, "components") and hasattr(inspect.unwrap(thing), "__code__")


@dataclass(frozen=True)
class FunctionTarget(FactoryTarget):
    """A factory that the caller holds: it is called where it is, and its file is not read again."""

    made: Callable[[], object] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, function: Callable[[], object]) -> FunctionTarget:
        """Named by its file as the working directory has it."""
        code = inspect.unwrap(function).__code__
        name = code.co_qualname.replace(".<locals>", "")
        return cls(Path(_from_here(code.co_filename)), name, made=function)

    def _around(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _call(self) -> Any:
        assert self.made is not None
        return self._returned(self.made)


def _from_here(file: str) -> str:
    """The file as seen from the working directory, where it lies below it."""
    path, here = Path(file), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else file


def _shown(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
