"""Tasks on a Ray cluster: Ray places them, and runs those again whose node is lost."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from types import ModuleType
from typing import Any

from diffprof.fleet.engine import Result, Task, carried_out
from diffprof.model.errors import UsageError

LOCAL = "local"
"""The address of a cluster that is started for this command, and ends with it."""

AHEAD = 4
"""Tasks that are handed over for each core of the cluster: nodes stay busy, and no list is sent whole."""

KNOCK_S = 10.0

SLOW = "timed out during startup"
"""What Ray says where its own processes took too long."""


def loaded() -> ModuleType:
    """The module `ray`. Raises UsageError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "Ray is not installed.", "Install it with `pip install 'diffprof[ray]'`, or leave --ray out."
        ) from error
    return ray


@dataclass
class RayCluster:
    """A cluster by its address (`auto`, `ray://HOST:PORT`, `HOST:PORT`), or one on this machine.

    workers: cores of a local one; None: all. gpus: that each task takes.
    """

    address: str = LOCAL
    workers: int | None = None
    gpus: float = 0

    def results(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """One result a task, in the order in which they end.

        Raises UsageError where Ray is missing or the cluster can't be reached.
        """
        ray = loaded()
        self._join(ray)
        try:
            yield from self._through(ray, iter(tasks))
        finally:
            ray.shutdown()

    def _join(self, ray: ModuleType) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        options: dict[str, object] = {"log_to_driver": False, "logging_level": "error"}
        if self.address == LOCAL:
            options |= {"num_cpus": self.workers, "include_dashboard": False}
        before = signal.getsignal(signal.SIGTERM)
        try:
            _knock(self.address)
            self._begin(ray, options)
        except Exception as error:  # Ray raises a bare one where a node does not come up.
            raise UsageError(
                f"The Ray cluster {self.address!r} can't be reached: {error}",
                "Give the address that `ray start --head` printed, or --ray alone to start one here.",
            ) from error
        finally:
            signal.signal(signal.SIGTERM, before)  # Ray's own would end the command without its status.

    def _begin(self, ray: ModuleType, options: dict[str, object]) -> None:
        """Connect, or start a cluster here: a second time where the first was too slow for Ray.

        Its raylet gives the dashboard's agent, a Python process, 15 s to import Ray and write its port, and
        ends itself after that (`WaitForDashboardAgentPorts`, Ray 2.60); no setting changes that, and no
        option leaves the agent out. The second time, what the agent imports is in memory.
        """
        try:
            ray.init(address=self.address, **options)
        except Exception as error:
            ray.shutdown()
            if self.address != LOCAL or SLOW not in str(error):
                raise
            ray.init(address=self.address, **options)

    def _through(self, ray: ModuleType, tasks: Iterator[Task]) -> Iterator[Result]:
        remote = ray.remote(max_retries=2)(carried_out)
        ahead = int(AHEAD * ray.cluster_resources().get("CPU", 1)) or 1
        running = {self._begun(remote, task): task for task in islice(tasks, ahead)}
        while running:
            ended, _ = ray.wait(list(running), num_returns=1)
            for reference in ended:
                yield _result(ray, reference, running.pop(reference))
            running |= {self._begun(remote, task): task for task in islice(tasks, ahead - len(running))}

    def _begun(self, remote: Any, task: Task) -> object:
        needs = remote.options(num_cpus=1, num_gpus=self.gpus, memory=task.memory or None, name=task.key)
        return needs.remote(task)


def _knock(address: str) -> None:
    """Raises OSError at once where nobody listens: Ray tries for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()


def _result(ray: ModuleType, reference: object, task: Task) -> Result:
    try:
        found: Result = ray.get(reference)
    except ray.exceptions.RayError as error:
        told = str(error).strip().splitlines()
        return Result(task.key, error=f"{type(error).__name__}: {told[0] if told else 'no reason told'}")
    return found
