"""What of a long parametrized test runs with every change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest


def one_in(n: int, cases: Mapping[str, Any]) -> list[Any]:
    """Every n-th case is run always, the others by night. Parameters are the values, ids the keys."""
    nightly = pytest.mark.nightly
    return [
        pytest.param(case, id=name, marks=() if number % n == 0 else nightly)
        for number, (name, case) in enumerate(cases.items())
    ]
