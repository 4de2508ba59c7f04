"""Where a shim stands while it works: around methods of a scheduler, in a pipeline's own code, in parts of a
model."""

import contextlib
import fnmatch
import functools
import threading
import types

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode


class _PushedMode(TorchFunctionMode):
    """A mode that stands in some code and not in the models that this code calls."""

    def __enter__(self):
        self.ended = False
        return super().__enter__()

    def __exit__(self, *raised):
        self.ended = True
        _take_off(self)


def _take_off(mode):
    """Take a mode off the stack, wherever it stands there, if it still does: Ctrl-C ends a model without its
    hooks."""
    above = []
    while (top := _get_current_function_mode()) is not None and top is not mode:
        above.append(torch.overrides._pop_mode())
    if top is mode:
        torch.overrides._pop_mode()
    for each in reversed(above):
        torch.overrides._push_mode(each)


def _around_methods(owner, names, mode, then=None):
    """Run these methods of an object in `mode()`. then: told the mode, the object and the method's name."""

    def wrapped(method):
        @functools.wraps(method)
        def run(self, *args, **kwargs):
            with mode() as pushed:
                result = method(self, *args, **kwargs)
                if then:
                    then(pushed, self, method.__name__)
                return result

        return run

    for name in names:
        if hasattr(owner, name):  # Bound methods: a deep copy of the object has its own.
            run = wrapped(getattr(owner, name).__func__)
            setattr(owner, name, types.MethodType(run, owner))


class _Within:
    """Forward hooks of a module: `mode()` stands in its own code."""

    def __init__(self, mode):
        self.mode = mode
        self.entered = {}
        """The mode that stands now, by the thread that runs the module."""

    def before(self, module, args):
        if not torch.compiler.is_compiling():
            self.after(module, args, None)  # A call before it may have ended without: Ctrl-C does that.
            self.entered[threading.get_ident()] = self.mode()
            self.entered[threading.get_ident()].__enter__()

    def after(self, module, args, result):
        if self.entered and not torch.compiler.is_compiling():
            pushed = self.entered.pop(threading.get_ident(), None)
            if pushed is not None:
                pushed.__exit__(None, None, None)

    def of(self, module):
        return (
            module.register_forward_pre_hook(self.before),
            module.register_forward_hook(self.after, always_call=True, prepend=True),
        )


class _Outside:
    """Forward hooks of a module: no mode of these stands in it, which would only cost time there."""

    def __init__(self):
        self.left = []

    def before(self, module, args):
        if not torch.compiler.is_compiling():
            modes = []
            while isinstance(_get_current_function_mode(), _PushedMode):
                modes.append(torch.overrides._pop_mode())
            self.left.append(modes)

    def after(self, module, args, result):
        if self.left and not torch.compiler.is_compiling():
            for mode in reversed(self.left.pop()):
                if not mode.ended:
                    torch.overrides._push_mode(mode)

    def of(self, module):
        return (
            module.register_forward_pre_hook(self.before, prepend=True),
            module.register_forward_hook(self.after, always_call=True),
        )


def _called_in(module):
    """The modules that a module calls by itself: its children, those in lists as well."""
    for child in module.children():
        if isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict)):
            yield from _called_in(child)
        else:
            yield child


@contextlib.contextmanager
def _in_call(pipe, mode):
    """Inside, `mode` stands in the pipeline's own code."""
    models = [part for part in vars(pipe).values() if isinstance(part, torch.nn.Module)]
    outside = _Outside()
    hooks = [hook for model in models for part in (model, *_called_in(model)) for hook in outside.of(part)]
    before = torch._C._len_torch_function_stack()
    try:
        with mode:
            yield
    finally:
        for hook in hooks:
            hook.remove()
        while torch._C._len_torch_function_stack() > before and isinstance(
            _get_current_function_mode(), _PushedMode
        ):
            torch.overrides._pop_mode()  # That of a part which Ctrl-C ended.


def _in_parts(model, parts, mode):
    """`mode()` stands in the code of parts of a model, by name: "" is the model, `*` stands for a number."""
    outside = _Outside()
    for name, module in model.named_modules():
        if any(fnmatch.fnmatchcase(name, part) for part in parts):
            _Within(mode).of(module)
            for called in _called_in(module):
                outside.of(called)
