"""How the pipeline and the process are set up."""

from __future__ import annotations

import enum

from diffprof.model.recording.row import Grade, Row


class SetupPart(Row, frozen=True, kw_only=True):
    """How one model of the pipeline is set up. Counts are of modules; None: the model has no such switch."""

    name: str
    role: str
    dtypes: dict[str, int] = {}
    """Bytes of parameters by type."""
    convs: int = 0
    """Two-dimensional convolutions, of a model that has no others."""
    convs_channels_last: int = 0
    """Those whose weights are stored with the channels innermost."""
    linears: int = 0
    quantized: int = 0
    """Modules with quantized weights."""
    left_as_is: bool = False
    """It was to be quantized, which was left out without weights."""
    attention: dict[str, int] = {}
    """Attention processors by class."""
    unfused: dict[str, str] = {}
    """Processors that compute scores, softmax and product apart: class -> the class beside it that uses
    scaled_dot_product_attention, empty where there is none, or the pipeline replaces it in its call."""
    dispatched: bool = False
    """Attention goes through diffusers' dispatcher, whose backend can be chosen."""
    backend: str | None = None
    """The backend that was chosen there."""
    fusable: int | None = None
    """Attention modules whose projections can be fused and are not; None: the model has no switch for it, or
    the pipeline runs it with other processors."""
    adapted: int = 0
    """Layers with LoRA adapters around them that are not merged."""
    tiling: bool | None = None
    slicing: bool | None = None
    force_upcast: bool = False
    """Pipelines that look at it run the model in float32, where float16 may overflow. diffusers' default."""
    asks_upcast: bool = False
    """The model's own configuration says so, not the default."""
    compiled: str | None = None
    """whole, regional (only blocks), or None."""
    repeated: tuple[str, ...] = ()
    """Classes of blocks that `compile_repeated_blocks` compiles, as the model names them."""
    hooks: tuple[str, ...] = ()
    """Offloading hooks on the model: cpu-offload, sequential, group."""
    cacheable: bool = False
    """It takes diffusers' caches between steps (`enable_cache`)."""
    cache: str | None = None
    """The one that is enabled."""


class Projection(Row, frozen=True, kw_only=True):
    """Linears, or 1x1 convolutions that could be, of one component and shape with alike names, and what INT8
    would make of them."""

    component: str
    pattern: str
    """Names within the component, `*` for every index."""
    in_features: int
    out_features: int
    rows: int
    """Of the activation."""
    count: int
    """Calls in one pipeline call."""
    now_us: float
    """All calls, in half precision."""
    int8_us: float
    """Quantized dynamically, quantizing the activation included."""
    kind: str = "linear"
    """linear or conv1x1."""


class Change(enum.StrEnum):
    """A change of how a pipeline is set up that a simulated call can be costed with."""

    CHANNELS_LAST = "channels-last"
    """Convolutions' weights with the channels innermost."""
    HALF = "half"
    """float32 in half precision."""
    TF32 = "tf32"
    """float32 matrix products in TF32."""
    SDPA = "sdpa"
    """Attention in one kernel."""
    ATTENTION = "attention"
    """Attention by the fastest of PyTorch's kernels for the call."""
    QKV = "qkv"
    """Query, key and value projected together."""
    COMPILED = "compiled"
    """Denoiser and VAE compiled, replayed as CUDA graphs."""
    COMPILED_BLOCKS = "compiled-blocks"
    """The same without CUDA graphs."""
    INT8 = "int8"
    """The linears of what is compiled that gain by it, quantized dynamically."""


class Alternative(Row, frozen=True, kw_only=True):
    """How long the call takes with some changes made, simulated."""

    changes: tuple[Change, ...]
    """In the order of `Change`."""
    ms: float
    without_waits_ms: float | None = None
    """The same without the waits of the denoising loop, nor offloading."""
    without_offload_ms: float | None = None
    """The same with all weights on the device; None where they are."""
    card_ms: float | None = None
    """At the steps of the model card, where fewer were made; None where no two steps are alike."""


class KindCosts(Row, frozen=True, kw_only=True):
    """What the same operations would cost under another setup: `Setup.alternatives`, and each projection.

    The columns are of recordings of 0.1.0, and empty since. They run along `Timeline.kinds`: device time of
    one call of the kind; changes build on each other in the order half, sdpa, qkv, compiled, int8, so that
    each column is to be read as a ratio to the one before."""

    grade: Grade
    half: str = "bfloat16"
    """The type that stands for half precision."""
    now_us: tuple[float, ...] = ()
    half_us: tuple[float, ...] = ()
    sdpa_us: tuple[float, ...] = ()
    """Attention in one kernel."""
    qkv_us: tuple[float, ...] = ()
    """Query, key and value projected together."""
    compiled_us: tuple[float, ...] = ()
    compiled_host_left: float = 1.0
    """Share of the host time of launching the compiled components' kernels that is left as a graph."""
    int8_us: tuple[float, ...] = ()
    projections: tuple[Projection, ...] = ()


class Setup(Row, frozen=True, kw_only=True):
    """How the pipeline and the process are set up."""

    parts: tuple[SetupPart, ...] = ()
    matmul_tf32: bool = False
    conv_tf32: bool = True
    inductor: dict[str, bool] = {}
    """Inductor's flags of the published recipe, as they are; empty where nothing is compiled."""
    progress_bar: bool | None = None
    """Whether one is drawn; None: the pipeline has none."""
    fuses_qkv: bool = False
    """The pipeline itself has `fuse_qkv_projections`."""
    fuses_lora: bool = False
    """The pipeline itself has `fuse_lora`."""
    upcasts_vae: bool = False
    """The pipeline turns a VAE that overflows in float16 to float32 for decoding."""
    adapters: tuple[str, ...] = ()
    """Names of the active LoRA adapters."""
    offload: str | None = None
    """model, sequential or group: how the weights are kept off the device."""
    guided: bool | None = None
    """Classifier-free guidance doubles the batch."""
    packages: tuple[str, ...] = ()
    """Attention libraries that are installed."""
    costs: KindCosts | None = None
    """None: not known before it is tried."""
    alternatives: tuple[Alternative, ...] | None = None
    """Changes that were costed, alone and together; None where nothing was."""
