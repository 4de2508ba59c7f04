"""torch-tb-profiler's pages on diffprof's runs, without the internet.

The stock plugin loads its charts and the trace viewer's polyfill from elsewhere and shows an endless spinner
where that can't be reached. Here both are served from this package. The plugin has a name of its own, so that
`tensorboard --logdir traces` started by hand has it beside the stock one, whose traces it leaves alone.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Iterator
from html import escape
from pathlib import Path

import torch_tb_profiler
import werkzeug
from tensorboard.plugins import base_plugin
from torch_tb_profiler.plugin import TorchProfilerPlugin
from werkzeug import exceptions, wrappers

from diffprof.judge.judging import load_judged
from diffprof.model import units
from diffprof.model.errors import DiffprofError
from diffprof.model.ladder import LADDER_FILE
from diffprof.model.plain import clean
from diffprof.model.report import REPORT_FILE, Report, load_report
from diffprof.views import words
from diffprof.views.html.templates import templates
from diffprof.views.tensorboard.files import MARKER_FILE, TRACE_FILE, marker_of, prepare, run_folders
from diffprof.views.tensorboard.profiler import NAME
from diffprof.views.tensorboard.profiler.pair import aligned, newest_first, pair
from diffprof.views.tensorboard.profiler.units import binary_units, in_binary_units
from diffprof.views.verdict import verdict

STATIC = Path(__file__).with_name("static")
STOCK = Path(torch_tb_profiler.__file__).with_name("static")

ELSEWHERE = {
    "https://www.gstatic.com/charts/loader.js": "charts.js",
    "https://cdnjs.cloudflare.com/ajax/libs/webcomponentsjs/0.7.24/webcomponents.min.js": (
        "webcomponents.min.js"
    ),
}
"""What the stock pages load -> the file here that they get instead."""

WORDED = {
    'return isNaN(n)?"N/A":n.toFixed(2)+"%"': 'return isNaN(n)?"–":n===1/0?"new":n.toFixed(2)+"%"',
    "Execution Comparsion": "Execution Comparison",
    '"Memory Usage ("+e.metadata.memory_metric+")"': (
        '"Memory Usage ("+e.metadata.memory_metric.replace("B","iB")+")"'
    ),
    "Min Size(KB)": "Min Size (KiB)",
    "Max Size(KB)": "Max Size (KiB)",
    "data.name || 'unknown'": "parent.document.querySelector('input.MuiSelect-nativeInput').value",
}
"""What the stock pages say -> what they say here. Operators that only the second run has grew by Infinity%,
memory is divided by 1024, and a trace is called by its run, the first that the page around it has chosen."""

CHOICE = "diff.js"
"""What the page gets besides: it chooses the runs that are compared first."""

OWN_FILES = (*ELSEWHERE.values(), CHOICE)

PARSED_AT_ONCE = 2
"""Traces; each takes a process, some hundred megabytes and a core."""

MOST_FINDINGS = 12
"""Of a run, shown on its overview."""

log = logging.getLogger(__name__)


class ProfilerPages(TorchProfilerPlugin):
    """Overview, operators, kernels, trace, memory, modules and the difference of two runs."""

    plugin_name = NAME

    def __init__(self, context: base_plugin.TBContext) -> None:
        self._folders: dict[str, Path] = {}
        self._seen: dict[Path, tuple[tuple[int, int], ...]] = {}
        self._parsing = threading.BoundedSemaphore(PARSED_AT_ONCE)
        self._logdir = context.logdir
        if not self._logdir:
            # With --logdir_spec; the stock plugin would search the current folder.
            context = _without_runs(context)
        super().__init__(context)

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Its tab."""
        return base_plugin.FrontendMetadata(
            es_module_path="/index.js", tab_name="Profiler", disable_reload=True
        )

    def get_plugin_apps(self) -> dict[str, object]:
        """The stock routes; pages without references to elsewhere, and the files that they get instead."""
        apps = super().get_plugin_apps()
        apps.update(dict.fromkeys(("/index.html", "/trace_embedding.html"), self._page))
        apps.update({f"/{name}": self._file for name in OWN_FILES})
        apps["/diff_pair"] = self.diff_pair_route
        return apps

    # --- runs -----------------------------------------------------------------------------------------

    def _get_run_dirs(self) -> Iterator[str]:
        """Folders with a trace, newest first by name. What TensorBoard needs is written where it is missing
        or stale."""
        if not self._logdir or "://" in self._logdir:
            return
        for folder in run_folders(Path(self.logdir)):
            if self._ready(folder) and (folder / TRACE_FILE).is_file():
                yield str(folder)

    def _ready(self, folder: Path) -> bool:
        try:
            found = [folder / name for name in (REPORT_FILE, LADDER_FILE) if (folder / name).is_file()]
            stamp = tuple((status.st_mtime_ns, status.st_size) for status in (file.stat() for file in found))
            if self._seen.get(folder) != stamp:
                self._seen[folder] = stamp
                prepare(folder)
        except DiffprofError as error:
            log.warning("%s", clean(error.what))
        except OSError as error:
            log.warning("%s: %s", clean(folder), clean(error))
        return (folder / MARKER_FILE).is_file()

    def _load_run(self, run_dir: str) -> None:
        from diffprof.views.tensorboard.profiler.loader import TraceLoader, ending

        name = self._get_run_name(run_dir)
        try:
            with self._parsing:
                self._folders[name] = Path(run_dir)
                worker = clean(load_report(run_dir).recording.device.spec)
                run = TraceLoader(name, run_dir, self._cache, worker).load()
            if run.profiles:
                self._queue.put(run)
            elif not ending():
                log.warning("The trace of %s could not be read.", clean(run_dir))
        except DiffprofError as error:
            log.warning("%s", clean(error.what))
        except OSError as error:
            log.warning("%s: %s", clean(run_dir), clean(error))
        finally:
            with self._load_lock:
                if threading.current_thread() in self._load_threads:
                    self._load_threads.remove(threading.current_thread())

    # --- pages ----------------------------------------------------------------------------------------

    @wrappers.Request.application
    def _page(self, request: werkzeug.Request) -> werkzeug.Response:
        name = request.path.rpartition("/")[2]
        text = (STOCK / name).read_text(encoding="utf-8")
        for address, local in ELSEWHERE.items():
            text = text.replace(address, local)
        for stock, better in WORDED.items():
            text = text.replace(stock, better)
        if name == "index.html":
            text = text.replace("</head>", f'<script src="{CHOICE}"></script></head>', 1)
        return werkzeug.Response(text, content_type="text/html", headers=self.headers)

    @wrappers.Request.application
    def _file(self, request: werkzeug.Request) -> werkzeug.Response:
        name = request.path.rpartition("/")[2]
        if name not in OWN_FILES:
            raise exceptions.NotFound
        data = (STATIC / name).read_bytes()
        return werkzeug.Response(data, content_type="application/javascript", headers=self.headers)

    @wrappers.Request.application
    def runs_route(self, request: werkzeug.Request) -> werkzeug.Response:
        """The runs that can be shown, newest first; the page opens the first."""
        return self.respond_as_json({"runs": newest_first(self._shown()), "loading": self.is_loading})

    @wrappers.Request.application
    def diff_pair_route(self, request: werkzeug.Request) -> werkzeug.Response:
        """What the page of differences chooses: run, worker and span before, and the same after. While runs
        are still read there may be a better pair, so none is named."""
        loading = self.is_loading
        names = None if loading else pair(self._shown())
        chosen = [part for name in names for part in self._first(name)] if names else None
        hint = (
            "Two runs are compared here, and there is one. `diffprof fix --apply` leaves another: the scan "
            "after the fixes that were kept."
        )
        return self.respond_as_json({"pair": chosen, "loading": loading, "hint": hint})

    @wrappers.Request.application
    def diff_run_node_route(self, request: werkzeug.Request) -> werkzeug.Response:
        """The stock comparison, with its operators side by side."""
        stats = self.get_diff_stats_dict(*self.get_diff_runs(request))
        path = request.args.get("path", "0")
        if path not in stats:
            raise exceptions.NotFound("no such part of the comparison")
        return self.respond_as_json(_rounded(aligned(stats[path].get_diff_node_summary(path)), None), True)

    def _shown(self) -> dict[str, Path]:
        """Runs that were read, with their folders."""
        with self._runs_lock:
            return {name: self._folders[name] for name in self._runs if name in self._folders}

    def _first(self, name: str) -> tuple[str, str, str]:
        """A run with its first worker and span."""
        run = self._get_run(name)
        worker = run.get_workers("Overview")[0]
        spans = run.get_spans(worker)
        return name, worker, spans[0] if spans else ""

    @wrappers.Request.application
    def overview_route(self, request: werkzeug.Request) -> werkzeug.Response:
        """The stock overview, with what was recorded and what diffprof found. Parts that the page takes for
        HTML are escaped."""
        profile = self._get_profile_for_request(request)
        folder = self._folders.get(request.args.get("run", ""))
        data = dict(profile.overview)
        device = "GPU" if profile.has_runtime or profile.has_kernel or profile.has_memcpy_or_memset else "CPU"
        data["environments"] = [{"title": "Device Type", "value": device}]
        if profile.gpu_summary and profile.gpu_tooltip:
            data["gpu_metrics"] = {
                "title": "GPU Summary",
                "data": [_escaped(row) for row in profile.gpu_summary],
                "tooltip": profile.gpu_tooltip,
            }
        if folder is not None:
            report = load_judged(folder)
            data["environments"] += _environment(report)
            data["recommendations"] = recommendations(report)
            problem = (marker := marker_of(folder)) and marker.problem
            if problem:
                data["environments"].append({"title": "Trace", "value": clean(problem)})
        return self.respond_as_json(data)

    @wrappers.Request.application
    def memory_route(self, request: werkzeug.Request) -> werkzeug.Response:
        """The stock table of what operators allocated. Where only sums were recorded it has no rows; the page
        then needs the device's name all the same, or it doesn't draw the curve."""
        profile = self._get_profile_for_request(request)
        start, end = (request.args.get(key, type=int) for key in ("start_ts", "end_ts"))
        metric = request.args.get("memory_metric", "KB")
        data = profile.get_memory_stats(start_ts=start, end_ts=end, memory_metric=metric)
        if not data["rows"]:
            drawn = profile.get_memory_curve()["metadata"]
            data["rows"] = {name: [] for name in drawn["devices"]}
            data["metadata"]["default_device"] = drawn["default_device"]
        return self.respond_as_json(in_binary_units(data), True)

    @wrappers.Request.application
    def memory_curve_route(self, request: werkzeug.Request) -> werkzeug.Response:
        """The stock curve."""
        profile = self._get_profile_for_request(request)
        times, sizes = request.args.get("time_metric", "ms"), request.args.get("memory_metric", "MB")
        curve = profile.get_memory_curve(time_metric=times, memory_metric=sizes)
        return self.respond_as_json(in_binary_units(curve), True)

    @wrappers.Request.application
    def memory_events_route(self, request: werkzeug.Request) -> werkzeug.Response:
        """The stock list of allocations."""
        profile = self._get_profile_for_request(request)
        start, end = (request.args.get(key, type=int) for key in ("start_ts", "end_ts"))
        times, sizes = request.args.get("time_metric", "ms"), request.args.get("memory_metric", "KB")
        events = profile.get_memory_events(start, end, time_metric=times, memory_metric=sizes)
        return self.respond_as_json(in_binary_units(events), True)

    @wrappers.Request.application
    def module_route(self, request: werkzeug.Request) -> werkzeug.Response:
        """The stock table, whose page prints every digit of a float, misspells a heading and has no unit."""
        content = self._get_profile_for_request(request).get_module_view()
        if not content:
            raise exceptions.NotFound("no modules in this trace")
        for column in content["columns"]:
            name = column["name"].replace("Occurences", "Occurrences")
            column["name"] = f"{name} (us)" if name.endswith("Time") else name
        return self.respond_as_json(_rounded(content, 1), True)


def _rounded(value: object, digits: int | None) -> object:
    """Every float in it with so many decimals; None: whole."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, dict):
        return {key: _rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item, digits) for item in value]
    return value


def _without_runs(context: base_plugin.TBContext) -> base_plugin.TBContext:
    blank = copy.copy(context)
    blank.logdir = "."
    return blank


def _escaped(row: dict[str, object]) -> dict[str, object]:
    if row.get("title") == "<hr/>":
        return row
    size = row.get("title") == "Memory"
    return {key: escape(binary_units(str(value)) if size else str(value)) for key, value in row.items()}


def _environment(report: Report) -> list[dict[str, str]]:
    recording = report.recording
    grade = recording.timeline.grade if recording.timeline else recording.device.grade
    rows = {
        "Target": recording.target.spec,
        "Device": recording.device.spec,
        "Times": str(grade),
        "Recorded": recording.created[:16].replace("T", " "),
    }
    return [{"title": title, "value": clean(value)} for title, value in rows.items()]


def recommendations(report: Report) -> str:
    """Verdict and findings as HTML for the overview's last card; everything from the report is escaped."""
    findings = [
        (
            each.rule,
            each.name,
            units.place(each.site) if each.site else each.message.rstrip("."),
            words.how_often(each),
            words.cost(each),
        )
        for each in report.findings[:MOST_FINDINGS]
    ]
    left = len(report.findings) - len(findings)
    more = units.plural(left, "more finding") if left > 0 else ""
    template = templates().get_template("overview.html")
    return template.render(top=verdict(report), findings=findings, more=more)
