"""What a fix is, and what became of one: plain data, without torch.

A fix *is* the plain diffusers code that one would write by hand. The same source is shown in the plan, run
when the fix is tried, and written to `optimized.py`, so that what was measured is what is delivered.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from diffprof.model.finding import Finding
from diffprof.model.recording import Change, Grade, Recording
from diffprof.model.recording.source_text import NotAName


class Safety(enum.StrEnum):
    """What a fix may do to the output."""

    EXACT = "exact"
    """Bit-identical output."""
    NUMERIC = "numeric"
    """Within a stated tolerance."""
    LOSSY = "lossy"
    """The image changes; opt in."""
    ADVICE = "advice"
    """Shown, never run."""


class Stage(enum.IntEnum):
    """When in the order a fix is applied: what changes weights comes before what is derived from them."""

    MODEL = 10
    """Another model, or weights added to it."""
    PLACEMENT = 20
    """Offloading, moving."""
    SCHEDULER = 30
    DTYPE = 40
    ATTENTION = 50
    LORA = 60
    QKV = 70
    LAYOUT = 80
    QUANTIZE = 90
    """1x1 convolutions become linears, linears are quantized."""
    GRAPH = 100
    """What stands in the way of a whole graph."""
    COMPILE = 110
    CALL = 120
    """How the pipeline is called."""


class Fix(msgspec.Struct, frozen=True):
    """A change that resolves findings. key: kebab case, what findings name in `fixes`."""

    key: str
    title: str
    """The change in a sentence, imperative."""
    safety: Safety
    stage: Stage
    tolerance: float | None = None
    """Largest absolute difference of the output image (0..1) allowed for NUMERIC."""
    goals: tuple[str, ...] = ("latency",)
    """What it is good for: latency, memory."""
    conflicts: dict[str, str] = {}
    """Key of a fix that can't stand beside it -> why. One of the two need name the other."""
    why: str = ""
    """What it changes and why that is safe, for a person."""
    short: str = ""
    """What it is called in a sentence, where that is not its key: INT8."""
    once_compiled: str = ""
    """The title where the call is compiled already, if that is another."""


class Code(msgspec.Struct, frozen=True):
    """A fix as Python source that needs no diffprof. Lines are not indented.

    imports: import statements. definitions: module-level functions, classes and constants; names start with
    an underscore. optimize: statements on a pipeline called `pipe`. call: statements on `kwargs`, the dict of
    the call's arguments. around: an expression for a context manager that is open during the call. shim:
    whether it interprets the code around it, over private API, where no plain code is known. kept: lines that
    stand in the library like this: those of a method that is written again with some of them changed.
    """

    imports: tuple[str, ...] = ()
    definitions: str = ""
    optimize: str = ""
    call: str = ""
    around: str = ""
    shim: bool = False
    kept: int = 0

    @property
    def lines(self) -> int:
        """Lines of its own: neither blank nor comments alone, nor kept from the library."""
        texts = (line.strip() for line in self.shown.splitlines())
        return sum(bool(text) and not text.startswith("#") for text in texts) - self.kept

    @property
    def shown(self) -> str:
        """All of it, as one listing for a person."""
        parts = [
            "\n".join(self.imports),
            self.definitions.strip("\n"),
            self.optimize.strip("\n"),
            self.call.strip("\n"),
            f"with {self.around}:\n    pipe(**kwargs)" if self.around else "",
        ]
        return "\n\n".join(part for part in parts if part)


class Skipped(msgspec.Struct, frozen=True):
    """The fix does not apply here. why: a sentence."""

    why: str


class Simulated(msgspec.Struct, frozen=True):
    """What a simulated GPU takes instead of running a fix's `optimize` (compiling, quantizing).

    compiled: denoiser and VAE run compiled, with CUDA graphs if `graphs`. int8: qualified names of linears
    that are quantized dynamically to INT8.
    """

    compiled: bool = False
    graphs: bool = True
    int8: tuple[str, ...] = ()


Write = Callable[[Recording, Sequence[Finding]], Code | Skipped]
"""(recording, the findings that name the fix) -> its code."""


class Recipe(msgspec.Struct, frozen=True):
    """A fix with what makes its code. Analyzers list theirs as `RECIPES` in `fixes.py`, which imports
    neither torch nor diffusers: torch belongs into the code that is written.

    modelled: for code that can't run on a simulated GPU: what it is modelled as. not_on_cpu: why the
    CPU shows nothing of what it does to the output, where that is so. shim: the code where there is no plain
    one, and the caller allows it.
    fits: asked with the built pipeline right before applying; a sentence why not, or None.
    change: what a simulated call is costed with to tell what the fix saves (`Setup.alternatives`).
    stand_in: code that takes as long, run instead on a simulated GPU where the real code loads weights.
    """

    fix: Fix
    code: Write
    modelled: Callable[[Recording, Sequence[Finding]], Simulated] | None = None
    fits: Callable[[Any], str | None] | None = None
    not_on_cpu: str = ""
    change: Change | None = None
    shim: Write | None = None
    stand_in: Write | None = None

    def written(
        self, recording: Recording, findings: Sequence[Finding], *, shims: bool = False
    ) -> Code | Skipped:
        """The code for these findings; none where a name in the recording can't stand in source.

        shims: whether an interpreter may stand in where there is no plain code.
        """
        try:
            plain = self.code(recording, findings)
            if self.shim is None or isinstance(plain, Code):
                return plain
            other = self.shim(recording, findings)
        except NotAName as bad:
            return Skipped(f"the report can't be followed: {bad}")
        if shims or isinstance(other, Skipped):
            return other
        return Skipped(f"{plain.why}. `--shims` allows an interpreter (lines: {other.lines})")


# --- the plan ------------------------------------------------------------------------------------------


class PlanStep(msgspec.Struct, frozen=True, kw_only=True):
    """One fix in a plan."""

    fix: str
    title: str
    safety: Safety
    stage: int
    tolerance: float | None = None
    rules: tuple[str, ...] = ()
    """Codes of the rules whose findings it resolves."""
    findings: tuple[int, ...] = ()
    """Indexes into Report.findings."""
    saves_ms: float | None = None
    """Expected, alone, per call, from replaying the timeline; None: not known before it is tried."""
    once_compiled: bool = False
    """`saves_ms` is of the compiled call: as long as the pipeline runs eagerly, it saves nothing."""
    alone: bool = False
    """Whether `saves_ms` is of this step alone; `Plan.saves_ms` is of all that are selected."""
    saves_bytes: int | None = None
    grade: Grade | None = None
    """Of saves_ms."""
    selected: bool = True
    why_not: str | None = None
    """Why it is not selected, or can't be: lossy, ignored, conflict, does not apply."""
    gives_way_to: str | None = None
    """The selected fix that it can't stand beside, where only that is why it is not selected."""
    conflicts: dict[str, str] = {}
    """Fixes of this plan that can't stand beside it -> why."""
    code: str = ""
    """The source, as one listing."""
    patch: str | None = None
    """Unified diff of the user's own source, where the findings' sites lie there."""
    no_patch: str | None = None
    """Why not, where they lie there and there is none."""
    why: str = ""

    @property
    def is_advice(self) -> bool:
        return self.safety is Safety.ADVICE


class SourceEdit(msgspec.Struct, frozen=True, kw_only=True):
    """What one finding calls for in a file of the user's: a diff, or why there is none."""

    rule: str
    file: str
    line: int
    what: tuple[str, ...] = ()
    """The changes, in words."""
    diff: str = ""
    """Unified; empty where nothing is edited."""
    why_not: str = ""

    def belongs_to(self, finding: Finding) -> bool:
        """Whether it is this finding's."""
        site = finding.site
        return site is not None and (self.rule, self.file, self.line) == (finding.rule, site.file, site.line)


class SourceEdits(msgspec.Struct, frozen=True, kw_only=True):
    """Edits of the user's own files, as those were at the scan. findings: one of each finding that lies
    there. fixes: of each fix that is for such findings, the diff of all of them."""

    findings: tuple[SourceEdit, ...] = ()
    fixes: dict[str, str] = {}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What would be changed, in order, and what that is expected to buy."""

    goal: str = "latency"
    steps: tuple[PlanStep, ...] = ()
    before_ms: float | None = None
    after_ms: float | None = None
    """With the selected steps together."""
    saves_ms: float | None = None
    """What the selected steps save together: less than their sum where savings overlap."""
    grade: Grade | None = None
    edits: tuple[SourceEdit, ...] = ()
    """Of each finding in the user's own files, whether a fix is for it or not."""
    notes: tuple[str, ...] = ()

    @property
    def selected(self) -> tuple[PlanStep, ...]:
        return tuple(step for step in self.steps if step.selected)

    @property
    def listed(self) -> tuple[PlanStep, ...]:
        """As a person reads them, by what they save: the selected, those left out, and advice last."""
        return tuple(
            sorted(
                self.steps,
                key=lambda step: (
                    not step.selected,
                    step.is_advice,
                    -(step.saves_ms or 0.0),
                    min(step.findings, default=0),
                ),
            )
        )


# --- what became of it ---------------------------------------------------------------------------------


NOT_SELECTED = "not selected"
"""Why a fix was passed over: others were named."""


class Status(enum.StrEnum):
    """How trying a fix ended."""

    KEPT = "kept"
    """Checked: the output is bit-equal, or as near as the fix claims; a lossy one was compared."""
    KEPT_UNCHECKED = "kept unchecked"
    """It helps, and was to be kept although its output could not be compared."""
    UNCHECKED = "unchecked"
    """It would help, but its output could not be compared; undone."""
    UNDONE = "undone"
    """It did not help, or changed the output more than it may."""
    SKIPPED = "skipped"
    FAILED = "failed"
    """It raised; undone."""
    ADVICE = "advice"
    """Shown only."""
    INTERRUPTED = "interrupted"


class Reason(enum.StrEnum):
    """What decides whether a fix that ran stays."""

    CHANGED = "changed the output"
    """By more than it may."""
    FASTER = "faster"
    SLOWER = "slower"
    NO_COST = "no cost"
    """As fast as before, and what it is for is resolved."""
    STATED_COST = "stated cost"
    """Slower by no more than the share that waits may cost to be rid of."""
    STILL_FOUND = "still found"
    """As fast as before, and what it is for is still there."""
    NO_GAIN = "no gain"
    """As fast as before, for a change that is not exact."""
    TOO_LITTLE = "too little"
    """Faster by less than a picture is changed for."""
    FEWER_COMPILES = "fewer compiles"
    COMPILES_LOST = "fewer compiles, slower calls"
    """What the compiles took is lost again within too few calls."""
    MORE_BREAKS = "more graph breaks"
    SAVES_MEMORY = "saves memory"
    NO_MEMORY = "saves no memory"
    MEMORY_UNKNOWN = "memory not measured"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Output with the fix beside the one without it, same seed. Images in 0..1, latents in their units."""

    compared_on: str
    """Where: the device itself, or a shrunken twin of the architecture with real values on the CPU."""
    bit_equal: bool | None = None
    max_abs: float | None = None
    psnr_db: float | None = None
    """None where bit-equal: it is infinite."""
    ssim: float | None = None
    latents_max_abs: float | None = None
    latents_psnr_db: float | None = None
    """Against the range of the baseline's latents."""
    latents_ssim: float | None = None
    why_not: str | None = None
    """Why nothing could be compared."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What happened when one fix was applied: before and after are of one pipeline call."""

    fix: str
    title: str
    safety: Safety
    status: Status
    reason: Reason | None = None
    """What decided, of a fix that ran to the end."""
    why: str = ""
    before_ms: float | None = None
    after_ms: float | None = None
    spread_ms: float | None = None
    """Half the interquartile range of the passes, the larger of before and after; None where simulated."""
    grade: Grade | None = None
    max_abs_diff: float | None = None
    difference: Difference | None = None
    """Against the output right before the fix: what this fix alone did."""
    from_baseline: Difference | None = None
    """Against the output of the pipeline as it was scanned, with all fixes kept until then."""
    memory_before_bytes: int | None = None
    memory_after_bytes: int | None = None
    in_loop_before: int | None = None
    """Blocking operations in the denoising loop."""
    in_loop_after: int | None = None
    resolved: tuple[str, ...] = ()
    """Rules that no longer find anything at the sites that the fix was for."""
    remaining: tuple[str, ...] = ()
    python_ratio: float | None = None
    """CPU time of the Python of the pipeline and its scheduler with the fix, as a share of what it was before
    any; None where it was not measured."""
    code: str = ""
    """The source, as one listing."""
    written: Code | None = None
    """The source in its parts, as it was run: what `optimized.py` is made of. It may differ from the plan's,
    where a fix before it changed what it is for."""

    @property
    def stays(self) -> bool:
        """Whether the pipeline has it in the end."""
        return self.status in (Status.KEPT, Status.KEPT_UNCHECKED)
