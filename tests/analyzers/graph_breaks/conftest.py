"""One child process captures everything that the tests of this folder look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")


def in_child(work: Callable[[], Any], *, limit_seconds: float = 300.0) -> Any:
    """What `work` returns when it is run in a forked child; fails with the child's own error."""
    from diffprof.analyzers.graph_breaks.child import ChildJob, import_compiler, run_in_children
    from diffprof.analyzers.graph_breaks.probe import prepared

    import_compiler()
    job = ChildJob("test", prepared(lambda send: work()))
    run_in_children([job], at_once=1, limit_seconds=limit_seconds)
    assert job.failure is None, job.failure
    return job.received[-1]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache folder."""
    from diffprof.analyzers.graph_breaks import cache

    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "graphs")
