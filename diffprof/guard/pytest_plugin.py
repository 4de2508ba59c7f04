"""The pytest plugin: a fixture `diffprof`, and a marker of the same name.

Loaded with every pytest that finds diffprof installed, so it imports nothing before it is used.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from diffprof.guard.testing import Scans

_MARKER = (
    'diffprof(*targets, fail_on="in-loop", **options): scan these targets before the test, and fail on what '
    "fail_on names; without targets, options and fail_on are for the scans of the fixture `diffprof`"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("diffprof").addoption(
        "--diffprof-reports", metavar="DIR", help="Folder for the reports of scans.  [default: the cache's]"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def diffprof(request: pytest.FixtureRequest) -> object:
    """The module `diffprof`, with a `scan` that is cached in a test run and stores its reports."""
    from diffprof.guard.testing import Fixture

    options, fail_on = {}, ""
    for marker in reversed(list(request.node.iter_markers("diffprof"))):
        given = dict(marker.kwargs)
        fail_on = given.pop("fail_on", fail_on)
        options.update(given)
    return Fixture(_scans(request.config), options, fail_on)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> object:
    """Scan the targets of the markers before the test itself."""
    __tracebackhide__ = True
    for marker in item.iter_markers("diffprof"):
        if marker.args:
            options = {"fail_on": "in-loop", **marker.kwargs}
            gate = options.pop("fail_on")
            for target in marker.args:
                _scans(item.config).checked(target, gate, options)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """What can't be asserted or scanned, and what a marker finds, is told in its own words, without frames of
    diffprof's; with the line of the test, where there is one."""
    report = yield
    errors = sys.modules.get("diffprof.model.errors")
    if call.excinfo is None or errors is None:
        return report
    lines = [entry.lineno + 1 for entry in call.excinfo.traceback if entry.path == item.path]
    if isinstance(call.excinfo.value, errors.DiffprofError):
        at = f":{lines[-1]}" if lines else ""
        report.longrepr = f"{item.location[0]}{at}: {call.excinfo.value}"
    elif not lines and call.excinfo.traceback[-1].frame.f_globals["__name__"] == "diffprof.guard.assertions":
        report.longrepr = str(call.excinfo.value)
    return report


def _scans(config: pytest.Config) -> Scans:
    """Of this test run, in this process."""
    from diffprof.guard.testing import Scans

    found = getattr(config, "_diffprof_scans", None)
    if found is None:
        cache = getattr(config, "cache", None)
        folder = config.getoption("--diffprof-reports") or (cache and cache.mkdir("diffprof"))
        found = config._diffprof_scans = Scans(config.rootpath, folder)  # type: ignore[attr-defined]
    return found
