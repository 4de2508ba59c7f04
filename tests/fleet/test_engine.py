"""Both engines do the same: one result a task, whatever happens to it or to its worker."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from diffprof.fleet.engine import Engine, Processes, Result, Task
from diffprof.fleet.ray_engine import RayCluster
from diffprof.model.errors import UsageError
from tests.fleet import work

GIB = 1 << 30
without_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
ENGINES = [
    pytest.param(lambda: Processes(workers=2), id="processes"),
    pytest.param(lambda: RayCluster(workers=2), id="ray", marks=[pytest.mark.nightly, without_ray]),
]


@pytest.mark.parametrize("made", ENGINES)
def test_every_task_has_one_result_and_a_failure_is_one(made: Callable[[], Engine], tmp_path: Path) -> None:
    tasks = [Task(f"square {n}", work.square, (n,)) for n in range(6)]
    tasks.insert(1, Task("refused", work.refuses, ("There is no such thing.",)))
    tasks.insert(2, Task("failed", work.fails))
    tasks.insert(3, Task("lost once", work.dies_once, (str(tmp_path / "mark"),)))
    tasks.insert(4, Task("lost", work.dies))
    found = list(made().results(tasks))
    assert sorted(result.key for result in found) == sorted(task.key for task in tasks)
    by_key = {result.key: result for result in found}
    assert [by_key[f"square {n}"].value for n in range(6)] == [0, 1, 4, 9, 16, 25]
    assert by_key["refused"].error == "There is no such thing. Do otherwise."
    assert by_key["failed"].error == "ZeroDivisionError: of all things"
    assert by_key["lost once"].value == "done"
    assert by_key["lost"].error
    assert by_key["lost"].value is None


def test_a_lost_worker_is_named_with_what_ended_it() -> None:
    (result,) = Processes(workers=1).results([Task("lost", work.dies)])
    assert result.error == "its process ended by SIGKILL, 2 times"


def test_what_does_not_fit_the_memory_waits_or_is_not_begun(tmp_path: Path) -> None:
    tasks = [Task(str(n), work.together, (str(tmp_path),), memory=3 * GIB) for n in range(4)]
    tasks.append(Task("large", work.square, (1,), memory=6 * GIB))
    found = {r.key: r for r in Processes(workers=2, memory=5 * GIB).results(tasks)}
    assert found.pop("large") == Result("large", error="not begun: it may take 6.0 GiB, and there are 5.0")
    assert {result.value for result in found.values()} == {1}


def test_closing_it_ends_the_workers(tmp_path: Path) -> None:
    tasks = [Task("quick", work.square, (3,)), Task("slow", work.slow, (3.0, str(tmp_path)))]
    results = Processes(workers=2).results(tasks)
    assert next(results).value == 9
    results.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_cannot_be_sent_is_told() -> None:
    (result,) = Processes(workers=1).results([Task("odd", work.unsendable)])
    assert result.error
    assert result.error.startswith("its result can't be sent")


def test_a_worker_that_cannot_import_what_it_needs_says_so_for_each_task() -> None:
    tasks = [Task(str(n), work.square, (n,)) for n in range(2)]
    results = Processes(workers=1, preload=("json", "no_such_module_at_all")).results(tasks)
    assert [each.error for each in results] == [
        "ModuleNotFoundError: No module named 'no_such_module_at_all'"
    ] * 2


@pytest.mark.nightly
@without_ray
def test_a_cluster_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="can't be reached"):
        next(RayCluster("127.0.0.1:1").results([Task("any", work.square, (1,))]))


class SlowRay:
    """A Ray whose first start fails with this message."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.did: list[str] = []

    def init(self, **options: object) -> None:
        self.did.append("init")
        if len(self.did) == 1:
            raise Exception(self.message)

    def shutdown(self) -> None:
        self.did.append("shutdown")


def test_a_cluster_that_came_up_too_slowly_is_started_again_and_no_other_failure_is() -> None:
    slow = SlowRay("The current node timed out during startup. This could happen because ...")
    RayCluster()._begin(slow, {})
    assert slow.did == ["init", "shutdown", "init"]
    for engine, message in ((RayCluster(), "no port"), (RayCluster("auto"), slow.message)):
        other = SlowRay(message)
        with pytest.raises(Exception, match=message[:7]):
            engine._begin(other, {})
        assert other.did == ["init", "shutdown"]


def test_without_ray_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UsageError, match="Ray is not installed"):
        next(RayCluster().results([]))
