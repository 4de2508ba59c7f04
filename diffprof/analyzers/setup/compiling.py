"""Fixes of compilation: the whole denoiser or its blocks, with the published flags as its options."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.analyzers.setup.alternatives import STEP_CACHES
from diffprof.analyzers.setup.memory import in_channels_last
from diffprof.analyzers.setup.precision import NO_SETUP, ROUNDING_TOLERANCE, place
from diffprof.gpu.inductor_flags import FLAGS, INT8_FLAGS
from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Fix, Recipe, Safety, Simulated, Skipped, Stage
from diffprof.model.recording import Change, Recording, SetupPart, Timeline

COMPILING_S = {"whole": 67.4, "by blocks": 9.6}
"""The first call of FLUX.1-dev, 1024 px, on an H100, compiled with fullgraph; published
(docs.pytorch.org/devlogs/inductor/2026-05-11-torch-compile-and-diffusers)."""

KEPT_BETWEEN_PROCESSES = """\
# The first call compiles{times}.
# Kept for the next process, on the same GPU and versions, by TORCHINDUCTOR_CACHE_DIR, or in a file:
#     pathlib.Path("compiled.bin").write_bytes(torch.compiler.save_cache_artifacts()[0])  # after it
#     torch.compiler.load_cache_artifacts(pathlib.Path("compiled.bin").read_bytes())  # before the next"""


def _kept_between_processes(parts: Sequence[SetupPart]) -> str:
    whole, blocks = (f"{seconds:g} s" for seconds in COMPILING_S.values())
    said = f": {whole} as a whole, {blocks} by blocks (Flux on an H100, published)"
    return KEPT_BETWEEN_PROCESSES.format(times=said if any(part.repeated for part in parts) else "")


def denoiser_calls_per_step(timeline: Timeline | None) -> int | None:
    """How often a step calls denoisers, where phases were recorded: the most in any step."""
    if timeline is None:
        return None
    calls: dict[int, int] = {}
    for span in timeline.phases:
        if span.part == "denoiser" and span.step is not None:
            calls[span.step] = calls.get(span.step, 0) + 1
    return max(calls.values(), default=None)


def uses_graphs(recording: Recording) -> bool:
    """Whether CUDA graphs may be used: the result of one replay is overwritten by the next, so a denoiser
    that is called several times a step, and whose results are kept, is compiled without."""
    return recording.device.kind != "cpu" and (denoiser_calls_per_step(recording.timeline) or 1) == 1


def _options(recording: Recording) -> str:
    mode = "max-autotune" if uses_graphs(recording) else "max-autotune-no-cudagraphs"
    if recording.device.kind == "cpu":
        return "_OPTIONS = {}"
    flags = "".join(f'    "{name}": {value},\n' for name, value in {**FLAGS, **INT8_FLAGS}.items())
    return f'_OPTIONS = {{\n    **torch._inductor.list_mode_options("{mode}"),\n{flags}}}'


def breaks_in(recording: Recording, component: str) -> bool:
    """Whether `fullgraph=True` would fail in a component, or a method such as `vae.decode`, as far as a
    capture was recorded."""
    rows = [row for row in recording.captures or () if row.component == component]
    return any(not row.fullgraph_ready for row in rows)


def _denoisers(recording: Recording) -> list[SetupPart]:
    parts = recording.setup.parts if recording.setup else ()
    return [part for part in parts if part.role == "denoiser"]


def _arguments(recording: Recording, part: SetupPart) -> str:
    captured = f"{part.name}.decode" if part.role == "vae" else part.name
    full = "" if breaks_in(recording, captured) else "fullgraph=True, "
    return f"{full}options=_OPTIONS" if recording.device.kind != "cpu" else full.removesuffix(", ")


def compile_whole(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Denoisers, and the decoder of the VAE. Their convolutions are put into channels_last first: Inductor
    lays activations out for them either way, and would convert weights in another order in every call."""
    setup = recording.setup
    if setup is None:
        return NO_SETUP
    lines = [f"{place(part.name)}.compile({_arguments(recording, part)})" for part in _denoisers(recording)]
    if not lines:
        return Skipped("no denoiser was recognized")
    for part in setup.parts:
        if part.role == "vae" and part.compiled is None:
            name = place(part.name)
            lines.append(f"{name}.decode = torch.compile({name}.decode, {_arguments(recording, part)})")
    return _code(recording, [*in_channels_last(setup.parts), *lines])


def compile_blocks(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """The repeated blocks of denoisers, each class once."""
    if recording.setup is None:
        return NO_SETUP
    parts = [part for part in _denoisers(recording) if part.repeated]
    if not parts:
        return Skipped("the denoiser does not name its repeated blocks")
    lines = [f"{place(part.name)}.compile_repeated_blocks({_arguments(recording, part)})" for part in parts]
    return _code(recording, lines, graphs=False)


def _code(recording: Recording, lines: Sequence[str], graphs: bool = True) -> Code:
    lines = [_kept_between_processes(_denoisers(recording)), *lines]
    if recording.device.kind == "cpu":
        return Code(imports=("import torch",), optimize="\n".join(lines))
    options = _options(recording)
    if not graphs:
        # A replayed graph a block would overwrite what the next block reads.
        options = options.replace('"max-autotune"', '"max-autotune-no-cudagraphs"')
    return Code(
        imports=("import torch", "import torch._inductor"),
        definitions=options + "\n",
        optimize="\n".join(lines),
    )


def _modelled_whole(recording: Recording, findings: Sequence[Finding]) -> Simulated:
    return Simulated(compiled=True, graphs=uses_graphs(recording))


def _modelled_blocks(recording: Recording, findings: Sequence[Finding]) -> Simulated:
    return Simulated(compiled=True, graphs=False)


def no_progress_bar(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Nothing is drawn."""
    if recording.setup is not None and recording.setup.progress_bar is None:
        return Skipped("the pipeline has no progress bar")
    return Code(optimize="pipe.set_progress_bar_config(disable=True)")


RECIPES = (
    Recipe(
        Fix(
            "compile",
            "Compile the denoiser and VAE decoder",
            Safety.NUMERIC,
            Stage.COMPILE,
            tolerance=ROUNDING_TOLERANCE,
            conflicts={
                "compile-blocks": "the blocks are compiled within the whole",
                **dict.fromkeys(STEP_CACHES, "its hooks decide in Python which blocks run"),
            },
            why="Chains of small operations become one kernel, launches are replayed as CUDA graphs. The "
            "published flags are options of this compilation alone. Fused kernels round less often.",
            once_compiled="Compile with CUDA graphs and the published flags",
        ),
        compile_whole,
        modelled=_modelled_whole,
        change=Change.COMPILED,
    ),
    Recipe(
        Fix(
            "compile-blocks",
            "Compile the denoiser's blocks",
            Safety.NUMERIC,
            Stage.COMPILE,
            tolerance=ROUNDING_TOLERANCE,
            why=f"Each class of block is compiled once: {COMPILING_S['by blocks']:g} s where the whole takes "
            f"{COMPILING_S['whole']:g} (Flux on an H100, published). What stands between the blocks stays "
            "eager.",
        ),
        compile_blocks,
        modelled=_modelled_blocks,
        change=Change.COMPILED_BLOCKS,
    ),
    Recipe(
        Fix(
            "no-progress-bar",
            "Switch the progress bar off",
            Safety.EXACT,
            Stage.CALL,
            why="It draws, and computes nothing.",
        ),
        no_progress_bar,
    ),
)
