"""GRB: torch.compile splits a graph (here), compiles it again (in recompile_rules), or computes with complex
numbers (in complex_rules)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from diffprof.analyzers.graph_breaks import complex_rules, recompile_rules
from diffprof.analyzers.graph_breaks.causes import kind_of
from diffprof.analyzers.graph_breaks.fixes import for_break
from diffprof.judge.pricing import HIDDEN, HIDDEN_SHARE
from diffprof.judge.rules import EditKind, rule
from diffprof.model.finding import Evidence, Finding, Severity
from diffprof.model.recording import BreakCost, GraphBreakRow, Recording

__all__ = ["complex_rules", "recompile_rules"]

BREAKS = ("graph_breaks",)

GRAPH_MS = 0.05
"""Host time to launch one more CUDA graph (`GRAPH_CALL_US` of the cost model)."""

NOT_COSTED = "Not priced: this recording holds no model of the compiled call"


_SAYS_NOTHING = re.compile(
    r"report an issue|file an issue|graph break is fundamental|caused by an earlier graph break|"
    r"may result in an error when running in eager",
    re.IGNORECASE,
)
"""Hints without a next step (torch/_dynamo/graph_break_hints.py)."""

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_BETWEEN = frozenset({"scheduler", "step", "call"})
"""What is captured beside the models."""

_STATES = {
    "cold": " Only the first call in a process breaks there: later ones use what it kept.",
    "warm": " The first call in a process does not break there; those after it do, for what it kept.",
}

_FUNCTION = re.compile(r"<function (\S+) at 0x")


def _breaks(recording: Recording, kind: str) -> Iterator[list[GraphBreakRow]]:
    """Rows of a kind, one list a line and cause: a break may be met from a component and from the call."""
    groups: dict[tuple[str, int, str], list[GraphBreakRow]] = {}
    for row in recording.graph_breaks or ():
        if kind_of(row) == kind:
            groups.setdefault((row.site.file, row.site.line, row.code or row.cause), []).append(row)
    yield from groups.values()


def _break_findings(
    recording: Recording,
    code: str,
    name: str,
    kind: str,
    say: Callable[[GraphBreakRow], str],
    advice: str | Callable[[GraphBreakRow], str],
) -> Iterator[Finding]:
    for rows in _breaks(recording, kind):
        row = max(rows, key=lambda r: (r.per_step or 0.0, r.count or 0))
        costed = max(
            (r for r in rows if r.cost), key=lambda r: r.cost.saves_ms if r.cost else 0, default=None
        )
        cost = costed.cost if costed else None
        per_step = row.per_step or 0.0
        yield Finding(
            rule=code,
            name=name,
            kind=f"graph-break: {kind}",
            message=say(row) + _where(rows) + _reach(row),
            grade=cost.grade if cost else row.grade,
            severity=_severity(per_step),
            site=row.site,
            phase="denoise" if per_step else row.phase,
            in_loop=per_step > 0,
            count=row.count or 1,
            per_step=per_step,
            blocked_ms=cost.blocked_ms if cost else None,
            saves_ms=cost.saves_ms if cost else None,
            compiled_ms=cost.call_ms if cost else None,
            cost_note=_cost_note(cost) if cost else _why_not(row),
            advice=_advice(rows, advice if isinstance(advice, str) else advice(row)),
            fixes=for_break(row),
            evidence=Evidence(syncs=_waits(recording, row)),
        )


def _severity(per_step: float) -> Severity:
    if not per_step:
        return Severity.LOW
    return Severity.HIGH if per_step >= 1 else Severity.MEDIUM


def _waits(recording: Recording, row: GraphBreakRow) -> tuple[int, ...]:
    """Waits that were seen on the line of the break."""
    place = (row.site.file, row.site.line)
    return tuple(i for i, s in enumerate(recording.syncs or ()) if (s.site.file, s.site.line) == place)


def _cost_note(cost: BreakCost) -> str:
    """What the saving is made of, and of which run."""
    parts = [_more(cost.graphs, "CUDA graph"), _more(cost.kernels, "kernel")]
    if cost.blocked_ms:
        parts.append("a wait of the host")
    made = _listed([part for part in parts if part])
    of = f"in a call of {cost.call_ms:,.4g} ms with {_listed(cost.compiled)} compiled"
    if not made:
        return f"No graph, kernel or wait comes with it, {of}: one more piece to compile."
    # A graph or a wait that costs the CPU something, and the call nothing.
    hidden = cost.saves_ms < HIDDEN_SHARE * max(cost.blocked_ms, GRAPH_MS * cost.graphs)
    return f"The break adds {made}, {of}.{f' {HIDDEN}' if hidden else ''}{_together(cost)}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _together(cost: BreakCost) -> str:
    """The saving of all breaks, where it is more than that of this one."""
    if cost.together_ms is None or cost.together_ms <= cost.saves_ms * 1.01:
        return ""
    return f" Without any of its breaks the call is {cost.together_ms:.3g} ms shorter."


def _more(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}" if count > 0 else ""


def _why_not(row: GraphBreakRow) -> str:
    return f"Not priced: {row.uncosted}." if row.uncosted else f"{NOT_COSTED}."


def _where(rows: list[GraphBreakRow]) -> str:
    names = list(dict.fromkeys(row.component for row in rows))
    code = f", {rows[0].code}" if rows[0].code else ""
    return f" ({', '.join(names)}{code})."


def _reach(row: GraphBreakRow) -> str:
    text = ""
    if row.graphs:
        graphs = "A graph ends" if row.graphs == 1 else f"{row.graphs:,} graphs end"
        of = f"of {row.ops:,} operation{'' if row.ops == 1 else 's'}" if row.ops else "empty"
        text = f" {graphs} there, {of}."
    if row.state:
        text += _STATES.get(row.state, "")
    if row.hidden_by:
        text += f" Dynamo comes here only once the break in {row.hidden_by} is cured."
    elif row.skipped_frame:
        text += (
            f" Dynamo skips {row.skipped_frame} for it: that runs as plain Python, what it calls is compiled."
        )
    return text


def _advice(rows: Sequence[GraphBreakRow], advice: str) -> str:
    """What to do, with Dynamo's own word on code that can be edited."""
    row = rows[0]
    if row.site.user_code:
        return advice + _hint(row)
    if all(each.component.partition(".")[0] in _BETWEEN for each in rows):
        return f"{advice} Or compile the models alone: this is library code around them."
    return advice


def _hint(row: GraphBreakRow) -> str:
    """The first hint that says what to do, by its first sentence."""
    hint = next((hint for hint in row.hints if not _SAYS_NOTHING.search(hint)), "")
    return f" Dynamo says: {_SENTENCE.split(hint, maxsplit=1)[0].rstrip('.')}." if hint else ""


@rule("GRB001", "data-dependent-branch", needs=BREAKS, edit=EditKind.BRANCH)
def data_dependent_branch(recording: Recording) -> Iterator[Finding]:
    """Python branches on the value of a tensor inside a compiled part.

    What it does:
    Reports `if`, `while`, `assert`, `and` and `or` on a tensor where Dynamo traces.

    Why it is slow:
    The graph ends before the branch. The value has to be read back, which makes the host wait, and only then
    does the next graph start: nothing is fused and no CUDA graph reaches across.

    Example:
    if gamma > 0: sample = sample + noise  # gamma is a tensor

    Use instead:
    `torch.where`, or `torch.cond` for large branches; or decide with a Python number that the host has anyway
    (schedulers know their sigmas before the loop).

    Fix safety:
    Numeric: both sides are computed and one is taken.
    """
    yield from _break_findings(
        recording,
        "GRB001",
        "data-dependent-branch",
        "branch",
        lambda row: "A branch on a tensor's value splits the graph",
        "Use torch.where or torch.cond, or branch on a number that Python has.",
    )


@rule("GRB002", "value-read-in-graph", needs=BREAKS, edit=EditKind.BRANCH)
def value_read_in_graph(recording: Recording) -> Iterator[Finding]:
    """A tensor's value is read inside a compiled part.

    What it does:
    Reports `.item()`, `.tolist()`, `int()`, `float()` and operations whose result's shape depends on values
    (`nonzero`, `unique`, boolean masks) where Dynamo traces.

    Why it is slow:
    The graph has to run up to there before Python can go on: a wait for the device, and a border between
    two graphs.

    Example:
    scale = mask.sum().item()

    Use instead:
    Keep the number a 0-d tensor. Where Python must have it, read it before the compiled part and pass it in;
    or set `torch._dynamo.config.capture_scalar_outputs`, which keeps the graph whole, and the wait.

    Fix safety:
    Exact for a 0-d tensor in place of the number; shapes that depend on values need a rewrite.
    """
    yield from _break_findings(
        recording,
        "GRB002",
        "value-read-in-graph",
        "value",
        lambda row: f"A tensor's value is read ({row.cause})",
        "Keep it a tensor, or read it before the compiled part.",
    )


@rule(
    "GRB003",
    "model-output-in-graph",
    needs=BREAKS,
    edit=EditKind.OUTPUT,
    no_edit="the line takes no output of a model by its name",
)
def model_output_in_graph(recording: Recording) -> Iterator[Finding]:
    """A model's output object is built or taken apart where Dynamo can't follow.

    What it does:
    Reports breaks on output classes (`...Output` of diffusers and transformers, or subclasses of them).

    Why it is slow:
    The graph ends where the object is made, although all that is in it are tensors.

    Example:
    noise = self.unet(latents, t, encoder_hidden_states=embeds).sample

    Use instead:
    `return_dict=False` and `[0]`: a plain tuple.

    Fix safety:
    Exact: the same tensor without the object around it.
    """
    yield from _break_findings(
        recording,
        "GRB003",
        "model-output-in-graph",
        "model-output",
        lambda row: f"An output object splits the graph ({row.cause})",
        "Call the model with return_dict=False and take [0].",
    )


@rule(
    "GRB004",
    "side-effect-in-graph",
    needs=BREAKS,
    edit=EditKind.SAID,
    no_edit="a warning, or what is said otherwise than by print or a logger, is meant to be seen",
)
def side_effect_in_graph(recording: Recording) -> Iterator[Finding]:
    """Something is printed, logged or counted on a progress bar inside a compiled part.

    What it does:
    Reports `print`, `logging`, `warnings` and progress bars where Dynamo traces.

    Why it is slow:
    What is said has to be said at that moment, so the graph ends there.

    Example:
    logger.warning("this is slow")

    Use instead:
    Say it outside of the compiled part, or only `if not torch.compiler.is_compiling()`. For prints,
    `torch._dynamo.config.reorderable_logging_functions.add(print)` moves them behind the graph.

    Fix safety:
    Exact for tensors; what is printed may come later or not at all.
    """
    yield from _break_findings(
        recording,
        "GRB004",
        "side-effect-in-graph",
        "side-effect",
        lambda row: "A message in the middle of the computation splits the graph",
        "Move it out of the compiled part, or guard it with torch.compiler.is_compiling().",
    )


@rule(
    "GRB005",
    "numpy-in-graph",
    needs=BREAKS,
    no_edit="PyTorch's function of that name may round otherwise than numpy's",
)
def numpy_in_graph(recording: Recording) -> Iterator[Finding]:
    """A computation goes through numpy inside a compiled part.

    What it does:
    Reports numpy calls that Dynamo can't translate to PyTorch, and conversions to and from arrays.

    Why it is slow:
    numpy works on host memory: the graph ends, the data comes to the host, and goes back for the next graph.

    Example:
    sigmas = np.interp(timesteps, np.arange(0, len(sigmas)), sigmas)

    Use instead:
    The PyTorch operation of the same name, or the computation done once before the compiled part.

    Fix safety:
    Numeric: PyTorch may round differently.
    """
    yield from _break_findings(
        recording,
        "GRB005",
        "numpy-in-graph",
        "numpy",
        lambda row: f"numpy splits the graph ({row.cause})",
        "Compute it with torch, or before the compiled part.",
    )


@rule(
    "GRB006",
    "untraceable-call",
    needs=BREAKS,
    no_edit="whether the call may run outside the compiled part, or before it, only you know",
)
def untraceable_call(recording: Recording) -> Iterator[Finding]:
    """A call that Dynamo can't trace: a built-in, C code, or a function that it skips.

    What it does:
    Reports calls into C extensions, built-ins without a translation, skipped library code and generators.

    Why it is slow:
    The graph ends at the call, which runs as plain Python, and a new one starts after it.

    Example:
    key = hashlib.md5(name.encode()).hexdigest()

    Use instead:
    The call before the compiled part with its result passed in; for C++ and CUDA kernels, a custom operator
    (`torch.library.custom_op`), which the graph can hold.

    Fix safety:
    Exact where the call does not depend on what is computed in between.
    """
    yield from _break_findings(
        recording,
        "GRB006",
        "untraceable-call",
        "call",
        lambda row: f"A call that Dynamo does not trace ({row.cause})",
        "Make the call before the compiled part, or register it as a custom operator.",
    )


def _disabled(row: GraphBreakRow) -> str:
    found = _FUNCTION.search(row.context)
    return f"`{found[1]}`" if found else "A function"


@rule(
    "GRB007",
    "disabled-function",
    needs=BREAKS,
    no_edit="the function was kept out of compiled code on purpose",
)
def disabled_function(recording: Recording) -> Iterator[Finding]:
    """A function under `torch.compiler.disable`, or an explicit graph break, stands on the way.

    What it does:
    Reports calls of functions that were told not to be compiled, and `torch._dynamo.graph_break()`.

    Why it is slow:
    Somebody asked for the border: the function runs as plain Python between two graphs.

    Example:
    @torch.compiler.disable
    def progress_bar(self, iterable): ...

    Use instead:
    Compile the part below or beside the call and not the one around it; take the decorator off where its
    reason is gone.

    Fix safety:
    Advice: the one who disabled it had a reason.
    """
    yield from _break_findings(
        recording,
        "GRB007",
        "disabled-function",
        "disabled",
        lambda row: f"{_disabled(row)} is marked not to be compiled, and splits the graph",
        "Compile what is inside the call instead of what is around it.",
    )


@rule(
    "GRB008",
    "hook-in-graph",
    needs=BREAKS,
    no_edit="who set the hook, and whether it may go, can't be told from the line",
)
def hook_in_graph(recording: Recording) -> Iterator[Finding]:
    """A forward hook of a module breaks the graph.

    What it does:
    Reports breaks in forward hooks: accelerate's offloading, diffusers' own hooks, the user's.

    Why it is slow:
    A hook runs around every call of its module. If Dynamo can't trace it, each such module is a border.

    Example:
    pipe.enable_model_cpu_offload()  # puts a hook on every model

    Use instead:
    Compile without the hook: keep the model on the device, or compile the blocks inside
    (`compile_repeated_blocks`) so that the hook stays outside of the compiled code.

    Fix safety:
    Exact: hooks for offloading don't change values. What a hook of your own does, you know.
    """
    yield from _break_findings(
        recording,
        "GRB008",
        "hook-in-graph",
        "hook",
        lambda row: f"A forward hook splits the graph ({row.cause})",
        _without_hook,
    )


def _without_hook(row: GraphBreakRow) -> str:
    fixes = for_break(row)
    if "replace-offload" in fixes:
        return "Keep the weights on the device: offloading and whole graphs don't go together."
    if "one-type-of-weights" in fixes:
        return (
            "Load the model without layerwise casting; torchao's float8 weights are as small and stay whole."
        )
    return "Take the hook off the compiled module, or compile the blocks inside of it."


def _other(row: GraphBreakRow) -> str:
    if row.cause == "Observed exception":
        return "Dynamo follows the code into an exception here, and gives up"
    return f"The graph breaks: {row.cause}"


@rule(
    "GRB009",
    "graph-break",
    needs=BREAKS,
    no_edit="what the compiler can't follow there has no counterpart that is sure to compute the same",
)
def graph_break(recording: Recording) -> Iterator[Finding]:
    """The graph breaks, for a reason that no other rule covers.

    What it does:
    Reports every break that no other rule is about, with Dynamo's code, explanation and hints.

    Why it is slow:
    A break ends one graph and starts another: a launch more, nothing fused across, no CUDA graph across.

    Example:
    with some_context_manager_that_dynamo_does_not_know(): ...

    Use instead:
    What Dynamo hints at; the page of the code is at
    https://meta-pytorch.github.io/compile-graph-break-site/.

    Fix safety:
    Advice: it depends on the line.
    """
    yield from _break_findings(
        recording,
        "GRB009",
        "graph-break",
        "other",
        _other,
        "See what the line does that Dynamo can't trace.",
    )
