"""What other people's code does to end the process that scans it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from diffprof.model.errors import TargetError
from diffprof.targets.exits import ProcessExit, exits_held_back, guard


@pytest.mark.parametrize(
    ("end", "how", "code"),
    [
        (lambda: os._exit(0), "os._exit(0)", 0),
        (lambda: os._exit(7), "os._exit(7)", 7),
        (lambda: os.execv("/bin/true", ["true"]), "os.execv()", None),
        (lambda: os.execvp("true", ["true"]), "os.execv()", None),
        (lambda: os.execlpe("true", "true", {}), "os.execve()", None),
    ],
)
def test_ending_the_process_raises(end: Any, how: str, code: int | None) -> None:
    real = os._exit
    with exits_held_back(), pytest.raises(ProcessExit) as raised:
        end()
    assert (raised.value.how, raised.value.code) == (how, code)
    assert os._exit is real
    assert guard() is None


def test_it_is_no_exception_that_code_would_catch() -> None:
    assert not issubclass(ProcessExit, Exception), "a script that goes on after errors would go on"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_ends_as_ever() -> None:
    with exits_held_back():
        pid = os.fork()
        if pid == 0:
            os._exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


def test_one_guard_stands_at_a_time() -> None:
    with exits_held_back():
        first = guard()
        with exits_held_back():
            assert guard() is first
        assert guard() is first


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals of POSIX")
def test_a_thread_tells_the_main_one_which_may_wait_for_it() -> None:
    from diffprof.cli.interrupts import heard

    raised: list[BaseException] = []

    def end() -> None:
        try:
            os._exit(0)
        except ProcessExit as error:
            raised.append(error)
            threading.Event().wait(5)

    def wait_for_it() -> None:
        thread = threading.Thread(target=end, daemon=True)
        thread.start()
        thread.join(5)

    with heard() as signals, exits_held_back(), pytest.raises(ProcessExit) as told:
        wait_for_it()
    assert told.value is raised[0]
    assert signals.came is None, "no signal from outside"


def test_handlers_of_signals_are_given_back(tmp_path: Path) -> None:
    from diffprof.targets.process import guest

    before = signal.getsignal(signal.SIGTERM)
    with guest(tmp_path):
        signal.signal(signal.SIGTERM, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)", "raise BaseException('x')"])
@pytest.mark.parametrize("place", ["module", "factory"])
def test_a_factory_that_ends_the_process_has_failed(tmp_path: Path, end: str, place: str) -> None:
    from diffprof.devices import resolve_device
    from diffprof.targets import Options, resolve

    body = f"def make():\n    {end}\n" if place == "factory" else f"{end}\ndef make(): ...\n"
    (tmp_path / "make.py").write_text(f"import os, sys\n{body}")
    target = resolve(f"{tmp_path / 'make.py'}:make")
    with pytest.raises(TargetError, match=r"exited with 0|called os._exit\(0\)|raised BaseException"):
        target.run(lambda call: call, resolve_device("cpu"), Options())
