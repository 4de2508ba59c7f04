"""What of a long parametrized test runs with the fast suite."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest


def one_in(n: int, cases: Mapping[str, Any]) -> list[Any]:
    """Every n-th case is run always, the others are slow. Parameters are the values, ids the keys."""
    slow = pytest.mark.slow
    return [
        pytest.param(case, id=name, marks=() if number % n == 0 else slow)
        for number, (name, case) in enumerate(cases.items())
    ]
