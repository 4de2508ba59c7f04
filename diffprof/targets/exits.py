"""Ways in which other people's code ends the process that scans it, held back: a scan that ends without its
report must not end like one that found nothing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REPLACING = ("_exit", "execv", "execve")
"""Functions of `os` after which this process does not go on; all of its `exec*` go through these."""


class ProcessExit(BaseException):
    """Raised in place of ending the process. Not an Exception, so that the code that asked lets it pass.

    how: what was called; code: the exit status that was asked for, None where another program was to follow.
    """

    def __init__(self, how: str, code: int | None) -> None:
        super().__init__(how)
        self.how = how
        self.code = code


class ExitGuard:
    """What `os._exit` and `os.exec*` do in this process while it stands.

    pending: what a thread asked for and the main thread has to raise. decided: the exit status, once the
    command is over: nothing that ends the process afterwards makes it another.
    """

    def __init__(self) -> None:
        self.pending: ProcessExit | None = None
        self.decided: int | None = None
        self._owner = os.getpid()
        self._real = {name: getattr(os, name) for name in REPLACING}

    def install(self) -> None:
        """Take the place of the functions."""
        for name in REPLACING:
            setattr(os, name, self._instead(name))

    def uninstall(self) -> None:
        """Give the functions back."""
        for name, function in self._real.items():
            setattr(os, name, function)

    def _instead(self, name: str) -> Callable[..., object]:
        def held_back(*args: object) -> object:
            if os.getpid() != self._owner:  # in a forked child, which ends this way
                return self._real[name](*args)
            if self.decided is not None:
                return self._real["_exit"](self.decided)
            code = args[0] if name == "_exit" and args and isinstance(args[0], int) else None
            raise self._asked(ProcessExit(f"os.{name}({'' if code is None else code})", code))

        return held_back

    def _asked(self, end: ProcessExit) -> ProcessExit:
        """Also tells the main thread, which may wait for the one that asks."""
        elsewhere = threading.current_thread() is not threading.main_thread()
        if elsewhere and hasattr(signal, "pthread_kill") and callable(signal.getsignal(signal.SIGTERM)):
            self.pending = end
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        return end


_ACTIVE: list[ExitGuard] = []


def guard() -> ExitGuard | None:
    """The one that stands now."""
    return _ACTIVE[-1] if _ACTIVE else None


def keep_exits_back() -> ExitGuard:
    """Put a guard up for the rest of the process."""
    active = ExitGuard()
    active.install()
    _ACTIVE.append(active)
    return active


@contextmanager
def exits_held_back() -> Iterator[None]:
    """Inside, what would end the process raises ProcessExit; where a guard stands already, by that one."""
    if _ACTIVE:
        yield
        return
    active = keep_exits_back()
    try:
        yield
    finally:
        active.uninstall()
        _ACTIVE.remove(active)
