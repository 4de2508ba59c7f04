"""A script, run as `__main__`, whose first pipeline call is the one that is scanned."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from diffprof.model.errors import TargetError
from diffprof.targets import slug
from diffprof.targets.guest_errors import guest_error

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options
    from diffprof.targets.pipeline_call import Scene

T = TypeVar("T")


class Unwound(BaseException):
    """Leaves the script after its pipeline call was played. Not an Exception, so that scripts let it pass."""


@dataclass(frozen=True)
class ScriptTarget:
    """`path/to/script.py -- its args`."""

    file: Path
    args: tuple[str, ...] = ()
    kind: str = field(default="script", init=False)

    @property
    def spec(self) -> str:
        return str(self.file)

    @property
    def name(self) -> str:
        return slug(self.file.stem)

    def load_code(self) -> None:
        """What it imports is known only when it runs."""

    def run(self, play: Callable[[Scene], T], device: Device, options: Options) -> T:
        from diffprof.targets.calls import swap_scheduler, with_options
        from diffprof.targets.live import settled_call, with_dtype
        from diffprof.targets.loading import models_built
        from diffprof.targets.pipeline_call import Scene
        from diffprof.targets.process import guest
        from diffprof.targets.redirect import cuda_redirect

        played: list[T] = []

        def take(pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if options.scheduler is not None:
                swap_scheduler(pipe, options.scheduler)
            with_dtype(pipe, options)
            args, kwargs = with_options(pipe, args, kwargs, options)
            args, kwargs, notes = settled_call(pipe, args, kwargs, device)
            weights = building.weights_of(pipe)
            played.append(play(Scene(pipe, args, kwargs, self, weights, notes, unseen=building.unseen)))

        module = ModuleType("__main__")
        module.__file__ = str(self.file.resolve())
        code = self._code()
        argv = [str(self.file), *self.args]
        with (
            guest(self.file.parent, argv, module),
            cuda_redirect(device),
            models_built(options, device) as building,
            intercepted(take) as interception,
        ):
            end: BaseException | None = None
            try:
                exec(code, vars(module))
            except Unwound:
                pass
            except BaseException as error:
                end = error
            if interception.error is not None:
                raise interception.error
            if isinstance(end, KeyboardInterrupt):
                raise end
            if not interception.over:
                raise self._without_a_call(end)
        return played[0]

    def _code(self) -> Any:
        try:
            return compile(self.file.read_bytes(), str(self.file), "exec")
        except (SyntaxError, ValueError, OSError) as error:
            raise guest_error(
                f"The script {str(self.file)!r}", "before it could run", error, self.file
            ) from error

    def _without_a_call(self, end: BaseException | None) -> TargetError:
        if end is not None:
            return guest_error(
                f"The script {str(self.file)!r}", "before it called a pipeline", end, self.file
            )
        return TargetError(
            f"The script {str(self.file)!r} ended without calling a pipeline.",
            "Give the arguments with which it makes a picture (script.py -- its args), or scan a factory "
            "file.py:function that returns the pipeline.",
        )


class Interception:
    """State of one script's run. over: its pipeline call was played; error: what playing raised."""

    def __init__(self, take: Callable[[Any, tuple[Any, ...], dict[str, Any]], None]) -> None:
        self.take = take
        self.over = False
        self.error: BaseException | None = None
        self.originals: list[tuple[type, Any]] = []

    def cover(self, cls: type) -> None:
        """Replace the `__call__` that a class itself defines."""
        call = vars(cls).get("__call__")
        if call is None or getattr(call, "_diffprof_wrapper", False):
            return

        @functools.wraps(call)
        def __call__(pipe: Any, *args: Any, **kwargs: Any) -> Any:
            self.meet(pipe, args, kwargs)

        __call__._diffprof_wrapper = True  # type: ignore[attr-defined]
        self.originals.append((cls, call))
        setattr(cls, "__call__", __call__)  # noqa: B010

    def uncover(self) -> list[type]:
        """Give all classes their own `__call__` back."""
        classes = [cls for cls, _ in self.originals]
        for cls, call in reversed(self.originals):
            setattr(cls, "__call__", call)  # noqa: B010
        self.originals.clear()
        return classes

    def meet(self, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Play the first call; leave the script after it, and again at any further call."""
        if not self.over:
            self.over = True
            # The call is made, and looked into, on classes as shipped; it may call inner pipelines.
            classes = self.uncover()
            try:
                self.take(pipe, args, kwargs)
            except BaseException as error:
                # Kept, because the script may catch it on its way.
                self.error = error
            for cls in classes:
                self.cover(cls)
        raise Unwound


@contextmanager
def intercepted(take: Callable[[Any, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[Interception]:
    """Inside, the first call of any pipeline, its class made already or not yet, goes to `take`."""
    interception = Interception(take)
    roots = _roots()
    hooks = [vars(root).get("__init_subclass__") for root in roots]
    for root in roots:
        _hook(root, interception)
        for cls in _family(root):
            interception.cover(cls)
    try:
        yield interception
    finally:
        interception.uncover()
        for root, hook in zip(roots, hooks, strict=True):
            if hook is None:
                del root.__init_subclass__
            else:
                root.__init_subclass__ = hook


def _roots() -> tuple[Any, ...]:
    from diffusers import DiffusionPipeline
    from diffusers.modular_pipelines.modular_pipeline import ModularPipeline

    return DiffusionPipeline, ModularPipeline


def _hook(root: Any, interception: Interception) -> None:
    inherited = root.__init_subclass__.__func__ if "__init_subclass__" in vars(root) else None

    def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:
        if inherited is not None:
            inherited(cls, **kwargs)
        else:
            super(root, cls).__init_subclass__(**kwargs)
        interception.cover(cls)

    root.__init_subclass__ = classmethod(__init_subclass__)


def _family(root: type[Any]) -> Iterator[type[Any]]:
    yield root
    for cls in root.__subclasses__():
        yield from _family(cls)
