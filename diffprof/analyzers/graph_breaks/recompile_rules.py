"""GRB010 to GRB014: torch.compile compiles again what it had compiled."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from diffprof.analyzers.graph_breaks.fixes import for_recompile
from diffprof.judge.rules import rule
from diffprof.model.finding import Finding, Severity
from diffprof.model.recording import RecompileCost, RecompileRow, Recording

RECOMPILES = ("recompiles",)

WITHIN = "within one call"
"""What `RecompileRow.variation` says where nothing was varied."""

_SETTINGS = {
    "dynamic=True": "Compile with torch.compile(..., dynamic=True).",
    "mark_dynamic": "Call torch._dynamo.mark_dynamic(tensor, dim) on the inputs whose size changes.",
    "use_duck_shape=False": "Set torch.fx.experimental._config.use_duck_shape = False before compiling.",
}

_SIZE_ONE = re.compile(r"size mismatch at index \d+\. expected (1, |\d+, actual 1$)|^2 <= \S*size\(\)\[\d+\]")

_LENGTH = re.compile(r"^(?:not (.*)|len\((.*)\))$")
"""Guards on how much a container holds, empty or not."""

_NONE = re.compile(r"\bis (?:not )?None$")
"""Guards on whether there is something at all."""

_WHAT = {
    "identity": "for another object",
    "type": "because an object has another type or size",
    "mode": "under another mode",
    "other": "because something else has changed",
}
"""By what the guard looks at, where the rule is about several."""

_OF_ONE_SIZE = "Keep it out of the compiled part, or of one size."

NOT_TIMED = "A compile for each new case, once in a process; its time was not taken."


def _recompile_findings(
    recording: Recording,
    code: str,
    name: str,
    wanted: Callable[[RecompileRow], bool],
    what: str,
    advice: str,
) -> Iterator[Finding]:
    groups: dict[tuple[object, ...], list[RecompileRow]] = {}
    for row in recording.recompiles or ():
        if wanted(row):
            key = (row.component, row.site.file, row.site.function, _source(row.guard))
            groups.setdefault(key, []).append(row)
    for rows in groups.values():
        row = rows[0]
        when = ", ".join(dict.fromkeys(r.variation for r in rows))
        times = sum(r.count for r in rows)
        within = row.variation == WITHIN
        yield Finding(
            rule=code,
            name=name,
            kind=f"recompile: {row.kind}",
            message=f"{row.component} is compiled again {what or _WHAT[row.kind]}, {_times(times)} ({when}): "
            f"the guard `{row.guard}` fails.{_one(row)}{_cures(rows)}{_room(rows)}",
            grade=row.grade,
            severity=Severity.MEDIUM if within else Severity.LOW,
            site=row.site,
            count=times,
            saves_ms=_beyond_ms(rows),
            compiled_ms=_first_known(*(row.cost.eager_ms for row in rows if row.cost)),
            once_ms=_once_ms(rows),
            cost_note=_cost_note(rows),
            advice=_advice(rows) or _of_its_form(row.guard) or advice,
            fixes=for_recompile(rows),
        )


def _of_its_form(guard: str) -> str:
    """What to do about a guard, where its text says it."""
    if _NONE.search(guard):
        return (
            "Have it in every call, or in none: what is None in one call and not in another is two versions."
        )
    return _OF_ONE_SIZE if _LENGTH.match(guard) else ""


def _once_ms(rows: list[RecompileRow]) -> float | None:
    """Of all these compiles: with the backend where that was timed, else Dynamo's part."""
    times = [_first_known(row.cost.compile_ms, row.cost.capture_ms) if row.cost else None for row in rows]
    known = [row.count * each for row, each in zip(rows, times, strict=True) if each is not None]
    return sum(known) if len(known) == len(rows) else None


def _first_known(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _beyond_ms(rows: list[RecompileRow]) -> float | None:
    """What a call beyond the limit takes longer, for its component runs as plain Python."""
    cost = _beyond(rows)
    if cost is None or cost.eager_ms is None or cost.compiled_ms is None:
        return None
    return max(0.0, cost.eager_ms - cost.compiled_ms)


def _beyond(rows: list[RecompileRow]) -> RecompileCost | None:
    known = [row.cost for row in rows if row.limit_hit and row.cost is not None]
    return next((cost for cost in known if cost.eager_ms is not None), known[0] if known else None)


def _cost_note(rows: list[RecompileRow]) -> str:
    """What the figures are made of."""
    costs = [row.cost for row in rows if row.cost is not None]
    if _once_ms(rows) is None:
        note = NOT_TIMED
    elif all(cost.compile_ms is not None for cost in costs):
        note = "A compile with its backend, as it took in this process for the call as it was."
    else:
        blocks = " (equal blocks timed once, times their number)" if any(c.from_blocks for c in costs) else ""
        note = f"Dynamo's capture on this machine{blocks}; what the backend adds was not timed."
    beyond = _beyond(rows)
    if beyond is None:
        return note
    if beyond.eager_ms is None or beyond.compiled_ms is None:
        return f"{note} Beyond the limit, not priced: {beyond.unpriced}."
    return (
        f"{note} A call beyond the limit takes {beyond.eager_ms:,.4g} ms, with {rows[0].component} as plain "
        f"Python, and {beyond.compiled_ms:,.4g} ms compiled."
    )


def _source(guard: str) -> str:
    """What the guard looks at, without the value that it expected: of a container its length."""
    looked_at = guard.partition(" expected")[0].partition(" == ")[0]
    return _LENGTH.sub(r"\1\2", looked_at)


def _cures(rows: list[RecompileRow]) -> str:
    stopped = [c for c in rows[0].tried if all(c in row.stopped_by for row in rows)]
    if stopped:
        return f" Tried: {' or '.join(stopped)} stops it."
    return f" Tried: neither {' nor '.join(rows[0].tried)} stops it." if rows[0].tried else ""


def _advice(rows: list[RecompileRow]) -> str:
    """The setting that stops all of them, if one does."""
    stopped = [c for c in rows[0].tried if all(c in row.stopped_by for row in rows)]
    return _SETTINGS.get(stopped[0], "") if stopped else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _one(row: RecompileRow) -> str:
    """Dynamo compiles sizes 0 and 1 apart, whatever is dynamic."""
    one = _SIZE_ONE.search(row.guard)
    return " A size of 1 always gets code of its own." if one else ""


def _room(rows: list[RecompileRow]) -> str:
    """How far the limit is."""
    entries = max((row.entries or 0 for row in rows), default=0)
    limit = rows[0].limit
    if not entries or limit is None:
        return ""
    if any(row.limit_hit for row in rows):
        others = ", ".join(dict.fromkeys(name for row in rows for name in row.refused)) or "other cases"
        return (
            f" The limit of {limit} versions of a function is reached: {others} run as plain Python; under "
            "fullgraph=True they raise."
        )
    return f" {entries} of at most {limit} versions of the function are compiled then."


def _below_limit(row: RecompileRow, *kinds: str) -> bool:
    return not row.limit_hit and row.kind in kinds


_ELSEWHERE = "what differs from call to call is decided where the compiled part is called, not here"


@rule("GRB010", "recompile-on-shape", needs=RECOMPILES, no_edit=_ELSEWHERE)
def recompile_on_shape(recording: Recording) -> Iterator[Finding]:
    """Another size, stride or dtype of an input makes Dynamo compile again.

    What it does:
    Reports guards on shapes that fail between calls, and whether `dynamic=True`, `mark_dynamic` or
    `use_duck_shape=False` stops that, each tried.

    Why it is slow:
    The call in which it happens waits for a whole compile; later calls of the same process don't. After the
    second size Dynamo makes the dimension dynamic, unless the model's code fixes it again. The cost is that
    compile's, by the clock: with the backend where the pipeline's own compiled code was compiled in the
    process of the scan, else Dynamo's capture alone. It is no time of every call, so nothing is said to be
    saved per call.

    Example:
    pipe(prompt, height=1024); pipe(prompt, height=768)

    Use instead:
    `torch.compile(..., dynamic=True)` or `torch._dynamo.mark_dynamic` where the finding says that it stops
    it; otherwise warm up every size that will be used.

    Fix safety:
    Numeric: kernels for dynamic shapes may differ, and be slower than those for one size.
    """
    yield from _recompile_findings(
        recording,
        "GRB010",
        "recompile-on-shape",
        lambda row: _below_limit(row, "shape", "dtype"),
        "for another shape",
        "Warm up every size before serving.",
    )


@rule("GRB011", "recompile-on-scalar", needs=RECOMPILES, no_edit=_ELSEWHERE)
def recompile_on_scalar(recording: Recording) -> Iterator[Finding]:
    """A Python number that changes is burnt into the compiled code.

    What it does:
    Reports guards on ints, floats and bools that fail: a step counter, a LoRA scale, a guidance scale, a
    scheduler's floats.

    Why it is slow:
    A number that is only computed with becomes dynamic after its second value, which costs one compile more.
    One that the code branches on, or looks something up with, costs a compile for each new case, until the
    recompile limit.

    Example:
    self._step_index += 1  # read inside a compiled scheduler step

    Use instead:
    A 0-d tensor in place of the number, or the number kept out of the compiled part. LoRA: fuse it, or keep
    one scale.

    Fix safety:
    Numeric: a tensor computes in its own dtype where Python's float had 64 bits.
    """
    yield from _recompile_findings(
        recording,
        "GRB011",
        "recompile-on-scalar",
        lambda row: _below_limit(row, "scalar"),
        "for another number",
        "Pass it as a tensor, or keep it out of the compiled part.",
    )


@rule("GRB012", "recompile-on-identity", needs=RECOMPILES, no_edit=_ELSEWHERE)
def recompile_on_identity(recording: Recording) -> Iterator[Finding]:
    """Another object, or one of another type or form, makes Dynamo compile again.

    What it does:
    Reports guards on an object's identity, type, keys or length, and on global modes (gradients, autocast).

    Why it is slow:
    The object may hold the same values: the guard asks whether it is the same one, and each new one is a
    compile.

    Example:
    pipe.set_adapters("other-lora")  # other modules, other dictionary keys

    Use instead:
    Make such objects once, before the loop; keep the set of adapters and hooks fixed while serving.

    Fix safety:
    Exact.
    """
    yield from _recompile_findings(
        recording,
        "GRB012",
        "recompile-on-identity",
        lambda row: _below_limit(row, *_WHAT),
        "",
        "Make the object once and use the same one in every call.",
    )


@rule("GRB013", "recompile-on-global", needs=RECOMPILES, no_edit=_ELSEWHERE)
def recompile_on_global(recording: Recording) -> Iterator[Finding]:
    """A module-level global that changes makes Dynamo compile again.

    What it does:
    Reports guards on globals that fail between calls.

    Why it is slow:
    A global's value is burnt into the code that reads it: each change is a compile.

    Example:
    CALLS += 1  # at module level, read by the model

    Use instead:
    A tensor, an argument, or no such global in the compiled part.

    Fix safety:
    Exact.
    """
    yield from _recompile_findings(
        recording,
        "GRB013",
        "recompile-on-global",
        lambda row: _below_limit(row, "global"),
        "because a global changed",
        "Pass it as an argument, or keep it constant.",
    )


@rule("GRB014", "recompile-limit", needs=RECOMPILES, no_edit=_ELSEWHERE)
def recompile_limit(recording: Recording) -> Iterator[Finding]:
    """So many versions of a function are compiled that Dynamo gives up on it.

    What it does:
    Reports functions that reach `torch._dynamo.config.recompile_limit` in the calls that were made.

    Why it is slow:
    Beyond the limit the function runs as plain Python for every new case, or raises if it was compiled with
    `fullgraph=True`: all the compiles were paid, and the speed-up is gone. What that costs is the call on the
    simulated GPU with the component as plain Python, less the same call with everything compiled; the scanned
    call stands for the new case.

    Example:
    for name in styles: pipe(prompt, cross_attention_kwargs={"style": name})  # a string that a layer looks up

    Use instead:
    Cure the guard that fails; a higher limit only makes the queue longer.

    Fix safety:
    Advice: it depends on the guard.
    """
    for finding in _recompile_findings(
        recording,
        "GRB014",
        "recompile-limit",
        lambda row: row.limit_hit,
        "until the limit is reached",
        "Cure the guard that fails; raising recompile_limit only delays it.",
    ):
        yield replace(finding, severity=Severity.HIGH)
