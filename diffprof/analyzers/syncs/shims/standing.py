"""Where a shim stands while it works: around methods of a scheduler, or in a pipeline's own code."""

import contextlib
import functools
import inspect
import types


def _around_methods(owner, names, mode, then=None):
    """Run these methods of an object in `mode()`. then: told the mode, the object and the method's name."""

    def wrapped(method):
        @functools.wraps(method)
        def run(self, *args, **kwargs):
            with mode() as standing:
                result = method(self, *args, **kwargs)
                if then:
                    then(standing, self, method.__name__)
                return result

        return run

    for name in names:
        if hasattr(owner, name):  # Bound methods: a deep copy of the object has its own.
            run = wrapped(getattr(owner, name).__func__)
            setattr(owner, name, types.MethodType(run, owner))


@contextlib.contextmanager
def _tensor_in_call(pipe, make):
    """Inside, `torch.tensor(...)` in the pipeline's own code is `make(torch, ...)`."""
    scope = inspect.unwrap(type(pipe).__call__).__globals__
    before = scope["torch"]
    scope["torch"] = types.ModuleType("torch")
    scope["torch"].__getattr__ = functools.partial(getattr, before)
    scope["torch"].tensor = functools.partial(make, before)
    try:
        yield
    finally:
        scope["torch"] = before
