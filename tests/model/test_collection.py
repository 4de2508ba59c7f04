"""Cyclic collection is paused where it costs, and is as before afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys
import types

import pytest

from diffprof.model.collection import living, paused_collection


@pytest.mark.parametrize("enabled", [True, False])
def test_paused_inside_and_as_before_after_it(enabled: bool) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with paused_collection():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
        with pytest.raises(ValueError, match="inside"), paused_collection():
            int("inside")
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()


@pytest.mark.slow
def test_what_was_frozen_lives_and_stays_frozen() -> None:
    thing = types.SimpleNamespace()
    gc.freeze()
    count = gc.get_freeze_count()
    assert not any(each is thing for each in gc.get_objects())
    assert any(each is thing for each in living())
    assert gc.get_freeze_count() >= count > 0


def test_the_end_of_the_process_walks_nothing_and_runs_what_was_registered() -> None:
    code = (
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000, 'registered'))\n"
        "sys.argv = ['diffprof', 'explain', 'NOPE']\n"
        "from diffprof.cli import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stdout == "True registered\n"


def test_it_walks_all_where_a_library_counts_what_is_left() -> None:
    code = (
        "import gc\n"
        "from diffprof.model.collection import leave_to_the_system\n"
        "leave_to_the_system()\n"
        "print(gc.get_freeze_count() > 0)\n"
        "gc.unfreeze()\n"
        "nb_type_0 = type('nb_type_0', (type,), {})\n"
        "leave_to_the_system()\n"
        "print(gc.get_freeze_count())\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "True\n0\n", ended.stderr
