"""A report: a recording with the judgement derived from it. Stored as JSON, read back without torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from diffprof.model.errors import UNREADABLE, DiffprofError, UsageError
from diffprof.model.finding import Finding, Unchecked
from diffprof.model.fix import Outcome, Plan, SourceEdits
from diffprof.model.methods import method
from diffprof.model.recording import SCHEMA, Recording
from diffprof.model.recording.invariants import broken
from diffprof.model.recording.whole_file import write_whole
from diffprof.model.summary import Action, Answer, Rest

REPORT_FILE = "report.json"
_INVISIBLE = re.compile(
    r"[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
"""Control and format characters that JSON need not escape, and a terminal may act on."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Evidence, and what diffprof makes of it."""

    recording: Recording
    findings: tuple[Finding, ...] = ()
    facts: tuple[Finding, ...] = ()
    """What was looked at and is well: decisions that the tables show, with nothing to do."""
    allowed: tuple[Finding, ...] = ()
    """What was found and is allowed on purpose: no view counts it among the findings."""
    unchecked: tuple[Unchecked, ...] = ()
    verdict: Answer | None = None
    """What a call costs and would cost, derived from the rest; None in reports of 0.1.0."""
    actions: tuple[Action, ...] = ()
    """What to do, sorted by what it saves; what changes the picture after the others."""
    rest: Rest = Rest()
    schema: int = SCHEMA
    path: str | None = None
    """Folder that holds the report, once stored."""
    source: SourceEdits | None = None
    """Edits of the user's own files; None: no finding lies in one, or it was not looked for."""
    plan: Plan | None = None
    """The fixes that were tried, as planned; None: none were."""
    outcomes: tuple[Outcome, ...] | None = None
    """What became of each; None: none were tried."""
    after: str | None = None
    """Name of the run, in the same folder of runs, that holds the scan after the fixes."""
    pipelines: tuple[Report, ...] = ()
    """The reports on the other pipelines that a script calls, in order: all else here is of the first."""

    @property
    def each(self) -> tuple[Report, ...]:
        """This, and those of the other pipelines."""
        return self, *self.pipelines

    @property
    def alone(self) -> tuple[Report, ...]:
        """As `each`, every one a report of its own that is stored where this is."""
        return tuple(msgspec.structs.replace(each, pipelines=(), path=self.path) for each in self.each)

    @property
    def names(self) -> tuple[str, ...]:
        """Of each pipeline its class, with its number where others are of the same."""
        classes = [each.recording.target.pipeline or "pipeline" for each in self.each]
        return tuple(
            name if classes.count(name) == 1 else f"{name} ({number})"
            for number, name in enumerate(classes, 1)
        )

    def with_pipeline(self, number: int, one: Report) -> Report:
        """With this in the place of one of `each`, counted from 0."""
        if number == 0:
            return msgspec.structs.replace(one, pipelines=self.pipelines)
        others = list(self.pipelines)
        others[number - 1] = msgspec.structs.replace(one, path=None)
        return msgspec.structs.replace(self, pipelines=tuple(others))

    @property
    def all_findings(self) -> tuple[Finding, ...]:
        """Of all pipelines."""
        return tuple(finding for report in self.each for finding in report.findings)

    # Showing and asserting is for rooms above: see `diffprof.model.methods`.

    def __repr__(self) -> str:
        return method("repr")(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: the answer, and what to do or what was kept."""
        return method("notebook")(self)

    def render(self, form: str = "text", *, columns: int = 80, verbose: bool = False) -> str:
        """As a text, in one of the formats of `diffprof show`. columns: width of "text"; verbose: all of it,
        as with -v.

        Raises UsageError for another format.
        """
        return method("render")(self, form, columns=columns, verbose=verbose)

    @property
    def in_loop(self) -> tuple[Finding, ...]:
        """Findings in the denoising loop."""
        return tuple(f for f in self.findings if f.in_loop)

    # Assertions for tests. Each raises AssertionError where it does not hold, and UsageError where the report
    # holds no evidence on it; what is allowed on purpose does not count.

    def assert_no_waits(self, *, in_loop: bool = True) -> None:
        """Nothing makes the CPU wait for the GPU in the denoising loop; in_loop=False: nor in the call."""
        __tracebackhide__ = True
        method("assert_no_waits")(self, in_loop=in_loop)

    def assert_fullgraph(self, *components: str) -> None:
        """These components, or all that were captured, are one graph each under `torch.compile`."""
        __tracebackhide__ = True
        method("assert_fullgraph")(self, components)

    def assert_no_recompiles(self, *, vary: Mapping[str, Iterable[object]] | None = None) -> None:
        """Nothing is compiled again. vary: arguments of the call, name -> values, that have to have been
        tried: the scan's `vary`."""
        __tracebackhide__ = True
        method("assert_no_recompiles")(self, vary)

    def assert_max_memory(self, most: str | int) -> None:
        """The call's peak of memory on the device. most: bytes, or such as "8GiB"."""
        __tracebackhide__ = True
        method("assert_max_memory")(self, most)

    def assert_time_ratio(self, baseline: Report, *, at_most: float) -> None:
        """A call takes at most this share of the time of the baseline's call, on the same device."""
        __tracebackhide__ = True
        method("assert_time_ratio")(self, baseline, at_most)


def to_json(report: Report) -> bytes:
    """The report as JSON; the stored and printed form."""
    return as_json(report)


def as_bytes(data_of: object) -> bytes:
    """Plain data as JSON on one line. Lone surrogates, as in file names that are no UTF-8, become escapes:
    JSON can't hold them."""
    try:
        return msgspec.json.encode(data_of)
    except UnicodeEncodeError:
        return msgspec.json.encode(_encodable(msgspec.to_builtins(data_of)))


def as_json(data_of: object) -> bytes:
    """As `as_bytes`, indented, with characters that a terminal may act on escaped."""
    data = msgspec.json.format(as_bytes(data_of), indent=1) + b"\n"
    if data.isascii() and b"\x7f" not in data:
        return data
    return _INVISIBLE.sub(_escape, data.decode()).encode()


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _encodable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value


class _Header(msgspec.Struct):
    schema: int


class Unjudged(msgspec.Struct, kw_only=True):
    """A report without its judgement, which is skipped unread: half of the time that reading takes."""

    schema: int
    recording: Recording
    source: SourceEdits | None = None
    plan: Plan | None = None
    outcomes: tuple[Outcome, ...] | None = None
    after: str | None = None
    pipelines: tuple[Unjudged, ...] = ()


def from_json(data: bytes, *, origin: str = "report") -> Report:
    """Read a stored report.

    Raises UsageError for anything that is no report, is cut short, or is of a newer schema.
    """
    return decode(data, Report, origin)


Kind = TypeVar("Kind", Report, Unjudged)


def decode(data: bytes, kind: type[Kind], origin: str) -> Kind:
    """A stored report as one of the two forms. Raises UsageError, as `from_json`."""
    again = "Scan again with `diffprof scan`, or name another run (`diffprof runs`)."
    try:
        found = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Why is asked only now: the schema alone takes a pass over the whole file.
        try:
            _check_schema(msgspec.json.decode(data, type=_Header).schema, origin)
        except UNREADABLE as no_report:
            raise UsageError(f"{origin} is not a diffprof report: {no_report}.", again) from no_report
        raise UsageError(f"{origin} is damaged: {error}.", again) from error
    except RecursionError as error:
        raise UsageError(f"{origin} is damaged: it is nested too deeply.", again) from error
    _check_schema(found.schema, origin)
    _check(found, origin, again)
    return found


def _check(found: Report | Unjudged, origin: str, again: str) -> None:
    """Raises UsageError for what no scan leaves, in it or in the reports on other pipelines in it."""
    if fault := broken(found.recording) or _misplaced(found):
        raise UsageError(f"{origin} is damaged: {fault}.", again)
    for each in found.pipelines:
        _check(each, origin, again)


def _misplaced(report: Report | Unjudged) -> str | None:
    """The first index of the summary that no finding has, as a clause; None where there is none."""
    if not isinstance(report, Report):
        return None
    if any(not action.findings for action in report.actions):
        return "an action of its summary is for no finding"
    told = report.verdict.finding if report.verdict else None
    named = [n for action in report.actions for n in action.findings] + [*report.rest.findings]
    named += [] if told is None else [told]
    wrong = next((n for n in named if not 0 <= n < len(report.findings)), None)
    return None if wrong is None else f"its summary names finding {wrong}, of {len(report.findings)}"


def _check_schema(schema: int, origin: str) -> None:
    if schema > SCHEMA:
        raise UsageError(
            f"{origin} has schema {schema}; this diffprof reads up to {SCHEMA}.",
            "It was written by a newer diffprof: `pip install --upgrade diffprof`.",
        )


def save_report(report: Report, folder: Path) -> Report:
    """Write `report.json` into folder (made if missing), whole or not at all; returns the report with
    its path.

    Raises DiffprofError when the disk does not take it.
    """
    stored = msgspec.structs.replace(report, path=str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / REPORT_FILE, to_json(stored))
    except OSError as error:
        raise DiffprofError(
            f"The report could not be stored in {folder}: {error.strerror or error}.",
            "Free some space or choose another folder with --traces.",
        ) from error
    return stored


def load_report(path: str | Path) -> Report:
    """Read a report from a run's folder or from its file.

    Raises UsageError when there is none, or it can't be read.
    """
    file, data = read_file(path)
    report = from_json(data, origin=str(file))
    return msgspec.structs.replace(report, path=str(file.parent))


def read_file(path: str | Path) -> tuple[Path, bytes]:
    """The file of a report and its bytes; path: it, or its folder. Raises UsageError."""
    file = Path(path)
    if file.is_dir():
        file = file / REPORT_FILE
    try:
        return file, file.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"No report at {path}: {why}.", "`diffprof runs` lists the stored ones.") from error


def slug(text: str) -> str:
    """A target's spec as part of a folder name; of a trace's file without its endings and its time stamp.

    Of an absolute path its last part: names of runs are in what is sent, and its folders tell who ran it.
    """
    if re.match(r"[A-Za-z]:[/\\]|[/\\]", text):
        text = re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    text = re.sub(r"(\.\d{12,})?(\.pt)?(\.trace)?\.json(\.gz)?$", "", text)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:60] or "run"
