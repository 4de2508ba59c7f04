"""Linears, what each costs under each scheme, and which were chosen."""

from __future__ import annotations

from diffprof.model.recording.row import Grade, Row


class SchemeTiming(Row, frozen=True, kw_only=True):
    """One linear under one quantization scheme, next to the original dtype timed in the same rounds.

    Times are of one call in microseconds, activation quantization included.
    """

    scheme: str
    mode: str = "eager"
    """eager, or compiled (`torch.compile` of the layer)."""
    grade: Grade
    original_us: float | None = None
    median_us: float | None = None
    spread_us: float | None = None
    """Half the interquartile range."""
    gain_us: float | None = None
    """Median of original minus scheme, round by round."""
    gain_spread_us: float | None = None
    """Half the interquartile range of that difference; a smaller gain is no clear gain."""
    rounds: int = 0
    rows: int | None = None
    """Rows of the activation that were timed; fewer than M where a slice had settled it."""
    sqnr_db: float | None = None
    """Lowest signal-to-quantization-noise ratio among the layers of the shape."""
    why_not: str | None = None
    """Why it is not available here (unsupported, out of memory, raised, not a number)."""
    cached: bool = False

    @property
    def speedup(self) -> float | None:
        """Original time over this one."""
        if self.original_us is None or not self.median_us:
            return None
        return self.original_us / self.median_us


class LinearRow(Row, frozen=True, kw_only=True):
    """All linears, and 1x1 convolutions that could be one, that see the same (M, K, N) and dtype."""

    m: int
    """Rows of the activation: the product of all its dimensions but the features."""
    in_features: int
    out_features: int
    dtype: str
    bias: bool = False
    kind: str = "linear"
    """linear or conv1x1."""
    modules: tuple[str, ...] = ()
    """Qualified names, component first: `unet.mid_block.attentions.0.proj_in`."""
    count: int = 0
    """Calls in one pipeline call, over all modules."""
    per_step: float = 0.0
    """Median calls of a denoising step."""
    by_step: tuple[int, ...] = ()
    """Calls in each denoising step."""
    phases: dict[str, int] = {}
    """Calls by phase."""
    share: float | None = None
    """Of the device time of one pipeline call, 0..1, as it ran."""
    adapter: bool = False
    """Part of a LoRA adapter, not of the model."""
    quantized: str | None = None
    """How the weights are stored already, if quantized."""
    timings: tuple[SchemeTiming, ...] | None = None
    """None: not timed (`left_out` of the choice says why)."""
    scheme: str | None = None
    """The best scheme that was timed."""
    worth_it: bool | None = None
    """Whether the choice quantizes it; None: not judged."""
    why: str = ""
    sqnr_db: dict[str, float] = {}
    """Module -> signal-to-quantization-noise ratio under `scheme`."""
    published: bool | None = None
    """Whether the published hand-made list quantizes this (K, N); None: it never saw it."""

    def timing(self, scheme: str | None, mode: str) -> SchemeTiming | None:
        """The timing of a scheme in a mode, if there is one."""
        for each in self.timings or ():
            if each.scheme == scheme and each.mode == mode:
                return each
        return None


class Selection(Row, frozen=True, kw_only=True):
    """The layers of one component that the choice quantizes with one scheme, and how to write that."""

    component: str
    scheme: str
    modules: tuple[str, ...]
    """Names within the component, as `named_modules` gives them at inventory."""
    config: str
    """The scheme's configuration as Python source."""
    filter_source: str
    """Python source of a function `filter_fn(module, fqn)`."""
    snippet: str
    """Python source that quantizes a pipeline called `pipe`, in the right order."""
    fqn_to_config: str | None = None
    """torchao's FqnToConfig as Python source; None for schemes that are not torchao's."""
    torchao_config: str | None = None
    """diffusers' TorchAoConfig as Python source, where loading can express it."""
    no_torchao_config: str | None = None
    """Why not, where it can't."""
    saves_ms: float = 0.0
    saves_bytes: int = 0


class PublishedComparison(Row, frozen=True, kw_only=True):
    """The choice beside a published hand-made list, over distinct (K, N) of the denoiser and the VAE."""

    source: str
    setup: str
    agreed: tuple[tuple[int, int], ...] = ()
    """Quantized by both."""
    only_ours: tuple[tuple[int, int], ...] = ()
    only_published: tuple[tuple[int, int], ...] = ()
    precision: float | None = None
    recall: float | None = None
    precision_by_time: float | None = None
    """The same with each layer weighted by the time that it takes unquantized."""
    recall_by_time: float | None = None
    saves_ms: float | None = None
    """What the published list would save here by the same timings."""
    published_gain: float | None = None
    """The end-to-end gain that its authors published, 0..1."""


class Quantization(Row, frozen=True, kw_only=True):
    """The choice: which linears to quantize how, what that gains, and what could not be told."""

    grade: Grade
    mode: str
    """The mode whose timings decide: eager or compiled."""
    min_sqnr_db: float
    accuracy: str
    """What the SQNR was measured on: activations of the call, or a stated distribution."""
    selections: tuple[Selection, ...] = ()
    script: str | None = None
    """Python source that applies all selections to a pipeline called `pipe`, in the known order."""
    saves_ms: float = 0.0
    """Per pipeline call, predicted from the timings of the layers."""
    saves_bytes: int = 0
    """Of weights."""
    call_ms: float | None = None
    """Device time of one pipeline call, as it ran."""
    fused_qkv: bool = False
    swapped_convs: bool = False
    adapters: bool = False
    """LoRA adapters were attached, not fused."""
    budget_s: float | None = None
    spent_s: float | None = None
    left_out: tuple[str, ...] = ()
    """What the time budget did not reach."""
    unavailable: dict[str, str] = {}
    """Scheme -> why it is not available on this device."""
    disorder: tuple[str, ...] = ()
    """Signs that the known order of changes was not kept."""
    notes: tuple[str, ...] = ()
    """What was assumed that nobody asked for."""
    published: PublishedComparison | None = None
