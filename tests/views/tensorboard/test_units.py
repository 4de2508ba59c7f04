"""Memory is divided by 1024 on the stock pages, and named so."""

from __future__ import annotations

import pytest

from diffprof.views.tensorboard.profiler.units import binary_units, in_binary_units


@pytest.mark.parametrize(
    ("stock", "right"),
    [
        ("Allocated (GB)", "Allocated (GiB)"),
        ("Size (B)", "Size (B)"),
        ("Peak Memory Usage: 17.7GB", "Peak Memory Usage: 17.7 GiB"),
        ("79.32 GB", "79.32 GiB"),
        ("5GBs of KB", "5GBs of KB"),
    ],
)
def test_units_are_named_as_what_they_are(stock: str, right: str) -> None:
    assert binary_units(stock) == right


def test_rows_are_left_alone() -> None:
    table = {
        "metadata": {"sort": "Size (KB)", "memory_metric": "KB", "peaks": {"GPU0": "9.5MB"}},
        "columns": [{"name": "Size (KB)", "type": "number"}],
        "rows": {"GPU0": [["my_op (KB)", 5]]},
    }
    assert in_binary_units(table) == {
        "metadata": {"sort": "Size (KiB)", "memory_metric": "KB", "peaks": {"GPU0": "9.5 MiB"}},
        "columns": [{"name": "Size (KiB)", "type": "number"}],
        "rows": {"GPU0": [["my_op (KB)", 5]]},
    }
