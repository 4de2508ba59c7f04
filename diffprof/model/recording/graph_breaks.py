"""What `torch.compile` makes of the pipeline: captures, graph breaks, recompiles."""

from __future__ import annotations

from diffprof.model.recording.row import Grade, Row
from diffprof.model.recording.site import Frame, Site


class CaptureRow(Row, frozen=True, kw_only=True):
    """What `torch.compile` made of one component (or of the scheduler's step, the loop's body, the call).

    Captured by Dynamo alone, with the first inputs of the call, on CPU tensors without content.
    """

    component: str
    graphs: int = 0
    """Distinct graphs; 1 and no breaks is what `fullgraph=True` asks for."""
    ops: int = 0
    """Call nodes of all graphs."""
    breaks: int = 0
    fullgraph_ready: bool = False
    calls: int = 1
    """Per pipeline call."""
    per_step: float = 0.0
    regions_per_call: int | None = None
    """Graphs run in one call of the component: what is launched apart."""
    folded: dict[str, int] = {}
    """Equal blocks captured once: class -> how many."""
    tried: tuple[str, ...] | None = None
    """Changes under which it was called again with the same compiled code: `within one call` and the
    variations. What made it compile again is in Recording.recompiles. None: it was not called again."""
    compiled: dict[str, int] = {}
    """Submodules that are compiled one by one: class -> how many. The component was captured that way, its
    own call as plain Python. Empty: captured as a whole."""
    keeps_state: bool = False
    """What its Python holds after the pipeline's call is not what it held before (a cache, a counter): it was
    captured in both states, cold and warm. Otherwise one capture stands for both."""
    seconds: float = 0.0
    cached: bool = False
    failure: str | None = None
    """Why it could not be captured, or not to the end."""


class ComplexRow(Row, frozen=True, kw_only=True):
    """Complex numbers on one line of what was captured."""

    component: str
    site: Site
    ops: dict[str, int] = {}
    """Operations of the graph that read or write them, in one call of the component."""
    calls: int = 1
    """Of the component, in one pipeline call."""
    per_step: float = 0.0
    """Calls of the component in each denoising step."""
    phase: str | None = None
    grade: Grade


class BreakCost(Row, frozen=True, kw_only=True):
    """What one break costs: the call modelled on the simulated GPU as if compiled into CUDA graphs, with the
    break and without it, all others in their place. Per pipeline call."""

    saves_ms: float
    """End to end."""
    blocked_ms: float = 0.0
    """Of the CPU, by the wait on the same line; 0: no wait comes with it."""
    graphs: int = 0
    """CUDA graphs more to launch."""
    kernels: int = 0
    """Kernels more, for what is not fused across the border."""
    call_ms: float
    """The whole call with all breaks."""
    together_ms: float | None = None
    """End to end, without any break of what is compiled there: one alone may hide behind the others."""
    compiled: tuple[str, ...] = ()
    """What is compiled in that model."""
    grade: Grade = Grade.SIMULATED


class GraphBreakRow(Row, frozen=True, kw_only=True):
    """One distinct graph break: one cause on one line."""

    component: str
    code: str | None
    """Dynamo's `GB####`, from the registry of the installed torch; None for a cause that is not in it."""
    cause: str
    """Title of the cause, as in the registry."""
    explanation: str = ""
    hints: tuple[str, ...] = ()
    context: str = ""
    """What Dynamo met, in its own terms."""
    site: Site
    raised_at: Frame | None = None
    """The innermost line, where it is in a library below the site."""
    in_hook: bool = False
    """The innermost line is in a forward hook."""
    count: int | None = None
    """Times that the line is passed in one pipeline call; None where that could not be counted."""
    per_step: float | None = None
    phase: str | None = None
    """encode, prepare, denoise, decode or postprocess: where the line is passed most often, or, of one that
    is not passed, the innermost call above it that is. None: not known."""
    modules: tuple[str, ...] = ()
    """Modules whose call comes there."""
    skipped_frame: str | None = None
    """The function that ran as plain Python because Dynamo can't resume in it, or `the rest of` one, from the
    line of an earlier break on: what it calls is still compiled, what stands in it is not."""
    state: str = ""
    """cold: only the first call of the pipeline breaks here, in a process that has made none; warm: only
    later ones do; empty: every call."""
    hidden_by: str | None = None
    """Dynamo does not come there as long as the break on that line skips the function."""
    graphs: int = 0
    """Graphs that end at this break."""
    ops: int = 0
    """Call nodes of these graphs."""
    cost: BreakCost | None = None
    uncosted: str = ""
    """Why there is no cost."""
    grade: Grade


class RecompileCost(Row, frozen=True, kw_only=True):
    """What one compile more costs: host time, once in a process for each new case, in the call that meets it
    first. None: not known.
    """

    capture_ms: float | None = None
    """Dynamo's part of one compile, by the clock of the machine that scanned. Measured."""
    from_blocks: bool = False
    """Equal blocks were timed once each, and that times their number is in `capture_ms`."""
    compile_ms: float | None = None
    """One compile with its backend, as the pipeline's own compiled code took in the process of the scan; of
    the call as it was, not as varied. Measured. None: the component was not compiled there."""
    eager_ms: float | None = None
    """Beyond the recompile limit: the pipeline call with this component as plain Python, the others compiled.
    Simulated. None: the limit is not reached, or nothing models the call."""
    compiled_ms: float | None = None
    """The same call with it compiled."""
    unpriced: str = ""
    """Why there is no `eager_ms`, where the limit is reached."""


class RecompileRow(Row, frozen=True, kw_only=True):
    """One guard that failed, so that a frame was compiled again."""

    component: str
    guard: str
    """The condition that no longer held, as Dynamo words it."""
    site: Site
    """The function that was compiled again, or the line that made the guard where that is known."""
    kind: str = "other"
    """shape, scalar, identity, global, type, mode or other: what the guard looks at."""
    variation: str
    """What changed: `height=768`, or nothing: `within one call`, `in the next call`."""
    count: int
    """Compiles, in the first pipeline call of a process with that change."""
    stopped_by: tuple[str, ...] = ()
    """Settings under which it did not recompile, each tried: dynamic=True, mark_dynamic,
    use_duck_shape=False."""
    tried: tuple[str, ...] = ()
    marked: dict[str, tuple[int, ...]] = {}
    """What mark_dynamic was tried on: argument, such as `sample` or `added_cond_kwargs['time_ids']` -> its
    dimensions that changed."""
    limit_hit: bool = False
    """The recompile limit was reached: later inputs run as plain Python."""
    refused: tuple[str, ...] = ()
    """Variations that did, for they came after it."""
    entries: int | None = None
    """Compiled versions of the function in the end."""
    limit: int | None = None
    cost: RecompileCost | None = None
    grade: Grade
