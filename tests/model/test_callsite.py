"""Looking for what a wait read keeps nothing of the waiting function alive."""

from __future__ import annotations

import sys
import weakref

from diffprof.model.callsite import values_in


class Thing:
    pass


def test_names_of_a_function_are_told_and_let_go() -> None:
    def function() -> tuple[list[str], bool]:
        thing = Thing()
        gone = weakref.ref(thing)
        told = sorted(values_in(sys._getframe()))
        del thing
        return told, gone() is None

    assert function() == (["gone", "thing"], True)
