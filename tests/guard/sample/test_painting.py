"""How a project guards its pipelines."""

import painting
import pytest


def test_the_painter_does_not_wait(diffprof):
    report = diffprof.scan(painting.make_painter, steps=4, device="sim:a100-80gb")
    report.assert_no_waits(in_loop=True)
    report.assert_max_memory("1GiB")


@pytest.mark.diffprof("painting.py:make_sketcher", fail_on="in-loop", device="sim:a100-80gb")
def test_the_sketcher_does_not_wait():
    pass
