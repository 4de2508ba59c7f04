"""diffprof for agents: tools of the Model Context Protocol. None of them changes source or a pipeline."""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

import diffprof
from diffprof.judge.comparing import compare as compared
from diffprof.judge.judging import load_judged
from diffprof.judge.plan import Choice, make_plan
from diffprof.judge.rules import find_rule
from diffprof.model import runs
from diffprof.model.errors import DiffprofError
from diffprof.model.report import Report
from diffprof.scanning.storing import store

READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False)
MOST = 30
"""Findings in an answer; the stored report has all."""


class Tools:
    """What the server offers. traces: folder of the stored runs, where scans are stored too."""

    def __init__(self, traces: Path) -> None:
        self.traces = traces

    def scan(self, target: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
        """Scan a diffusers pipeline: what makes it slow, with file and line, and what to do, in order.

        target: a built-in architecture such as "sdxl", a checkpoint folder or hub id, a factory
        "file.py:function", or a script. options: of `diffprof scan` by name, such as
        {"device": "sim:h100", "steps": 4, "analyzers": "all"}. Runs the target's code; needs no GPU with a
        sim: device."""
        from diffprof.scanning.scan import scan

        with _quiet():
            report = scan(target, **(options or {}))
        return answer(store(report, self.traces, now=datetime.datetime.now(datetime.UTC)))

    def show(self, run: str = "") -> dict[str, Any]:
        """A stored run as `scan` answers it. run: its name, a part of it, or a target; empty: the newest."""
        return answer(self._report(run))

    def explain(self, rule: str) -> str:
        """A rule's page: what it finds, why that is slow, what to write instead. rule: such as "SYN001"."""
        return find_rule(rule).doc

    def plan_fixes(self, run: str = "", lossy: bool = False) -> dict[str, Any]:
        """The fixes of a stored run as a plan: what each changes, its safety, what it is expected to save,
        its code. Nothing is applied. lossy: with fixes that change the picture. `pipelines` has those of the
        other pipelines of a script."""
        first, *others = (make_plan(each, Choice(lossy=lossy)) for each in self._report(run).alone)
        return _plain(first) | ({"pipelines": _plain(others)} if others else {})

    def compare(self, before: str, after: str) -> dict[str, Any]:
        """What changed from one stored run to another: figures, findings new and gone, regressions."""
        return _plain(compared(self._report(before), self._report(after)))

    def _report(self, run: str) -> Report:
        return load_judged(runs.find(self.traces, run or None))


def answer(report: Report) -> dict[str, Any]:
    """What an agent acts on: the verdict, the actions in order, the findings that they rest on."""
    found = _plain(msgspec.structs.replace(report, findings=report.findings[:MOST]))
    kept = ("verdict", "actions", "rest", "findings", "allowed", "unchecked", "path")
    shown = {name: found[name] for name in kept}
    recording = report.recording
    shown["text"] = report.render()
    shown["target"], shown["device"] = recording.target.spec, recording.device.spec
    shown["findings_left_out"] = max(len(report.findings) - MOST, 0)
    return shown


def _plain(data: Any) -> Any:
    return msgspec.to_builtins(data)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the target prints goes to stderr: stdout is the protocol's."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def make_server(traces: Path) -> MCPServer:
    """A server with the tools."""
    server = MCPServer(
        "diffprof",
        version=diffprof.__version__,
        instructions="Find what makes a diffusers pipeline slow. Scan first; explain a finding's rule; plan "
        "its fixes; after an edit scan again and compare the two runs. Every figure says whether it was "
        "measured or simulated.",
    )
    tools = Tools(traces)
    for tool in (tools.scan, tools.show, tools.explain, tools.plan_fixes, tools.compare):
        server.tool(annotations=READ_ONLY)(_clear(tool))
    return server


def _clear(tool: Callable[..., Any]) -> Callable[..., Any]:
    """The tool, with errors for people passed on as they are."""

    @functools.wraps(tool)
    def called(*args: Any, **kwargs: Any) -> Any:
        try:
            return tool(*args, **kwargs)
        except DiffprofError as error:
            raise ToolError(str(error)) from error

    return called


def serve(traces: Path) -> None:
    """Serve on stdin and stdout until the client goes. What writes to the number of stdout below Python, as
    libraries in C do, goes to stderr."""
    protocol = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(protocol, "w", encoding="utf-8")
    make_server(traces).run("stdio")
