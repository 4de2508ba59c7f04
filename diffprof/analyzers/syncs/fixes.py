"""Fixes of waits in a scheduler, in a pipeline's loop and in a denoiser. All exact: the device computes what
it did before, on the same tensors.

None of them moves what is computed from one side to the other, although one would write that by hand: a
float32 number on the CPU and one on the device are not rounded alike when they meet float16 or bfloat16
tensors (aten/src/ATen/native/cuda/Loops.cuh, opmath_gpu_kernel_with_scalars: a host scalar takes part in
float32; a device scalar is cast to the tensors' type first).
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

from diffprof.analyzers.syncs import plain, plain_models, shims
from diffprof.analyzers.syncs.edited_classes import edited_classes
from diffprof.analyzers.syncs.tree_shake import needed
from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Fix, Recipe, Safety, Skipped, Stage
from diffprof.model.recording import Recording, SyncRow
from diffprof.model.recording.source_text import dotted, quoted

_HALF = ("float16", "bfloat16")

_SHIMS = Path(__file__).with_name("shims")


@functools.cache
def _shim(name: str) -> tuple[tuple[str, ...], str]:
    """Import statements and definitions of a shim; those of shims that it imports stand before its own."""
    text = (_SHIMS / f"{name}.py").read_text(encoding="utf-8")
    nodes = [node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    own = "".join(text.splitlines(keepends=True)[nodes[-1].end_lineno or 0 :]).strip("\n") + "\n"
    imports: list[str] = []
    definitions = []
    for node in nodes:
        package, _, shared = (
            (node.module or "").rpartition(".") if isinstance(node, ast.ImportFrom) else ("",) * 3
        )
        if package == shims.__name__:
            more, text = _shim(shared)
            imports += more
            definitions.append(text)
        else:
            imports.append(ast.unparse(node))
    return tuple(dict.fromkeys(imports)), "\n\n".join([*definitions, own])


def _rows(recording: Recording, findings: Sequence[Finding]) -> list[SyncRow]:
    syncs = recording.syncs or ()
    return [syncs[index] for finding in findings for index in finding.evidence.syncs if index < len(syncs)]


def _schedulers(recording: Recording, rows: Iterable[SyncRow]) -> tuple[str, ...]:
    """The schedulers that the rows lie in, by name of the component; all of them where that is not told."""
    known = [c.name for c in recording.target.components if c.role == "scheduler"] or ["scheduler"]
    modules = {row.site.module for row in rows}
    return tuple(dotted(name) for name in known if name in modules) or tuple(map(dotted, known))


def _entered_by(row: SyncRow) -> str | None:
    """The method of the scheduler through which the run came to the site: the outermost in its file."""
    inside = [row.site.function, *(f.function for f in row.site.chain if f.file == row.site.file)]
    owner, _, method = inside[-1].rpartition(".")
    return method if owner else None


def _methods(rows: Sequence[SyncRow]) -> tuple[str, ...]:
    """`set_timesteps` and `step`, and what else of the scheduler the sites were reached through."""
    found = dict.fromkeys(("set_timesteps", "step"))
    for row in rows:
        if method := _entered_by(row):
            found[method] = None
    return tuple(found)


def _tuple(names: Sequence[str]) -> str:
    """As Python source, formatted."""
    inner = ", ".join(map(quoted, names))
    return f"({inner},)" if len(names) == 1 else f"({inner})"


def _code(shim: str, lines: Iterable[str], around: str = "") -> Code:
    optimize = "\n".join(lines)
    imports, definitions = needed(*_shim(shim), f"{optimize}\n{around}")
    return Code(imports=imports, definitions=definitions, optimize=optimize, around=around, shim=True)


def _host_timesteps(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    rows = _rows(recording, findings)
    code = plain.host_timesteps(rows, _schedulers(recording, rows))
    other = plain.searched(rows, _schedulers(recording, rows)) if isinstance(code, Skipped) else code
    return other if isinstance(other, Code) else code


def _tables_on_host(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Once its tables were put on the device, to add noise say, what is read may be its timesteps."""
    rows = _rows(recording, findings)
    half = any(c.dtype in _HALF for c in recording.target.components if c.role == "denoiser")
    code = plain.tables_read_on_host(rows, _schedulers(recording, rows), half=half)
    return code if isinstance(code, Code) else plain.host_timesteps(rows, _schedulers(recording, rows))


def _upload_once(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Of a scheduler, or of a model; in a pipeline's own code only by an interpreter."""
    rows = _rows(recording, findings)
    known = {each.name for each in recording.target.components if each.role == "scheduler"}
    if all(row.part == "scheduler" or row.site.module in known for row in rows):
        return plain.tables_on_device(rows, _schedulers(recording, rows))
    return _sent_once(recording, findings)


def _sent_once(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    code = plain_models.sent_once(_rows(recording, findings))
    return code if isinstance(code, Code) else Skipped(f"{code.why}; {_ELSEWHERE}")


def _edited(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    return edited_classes(_rows(recording, findings))


def _no_plain_code(recording: Recording, findings: Sequence[Finding]) -> Skipped:
    return Skipped(_ELSEWHERE)


_ELSEWHERE = (
    "it stands in the middle of a pipeline's or a model's method; `diffprof fix --library` edits it there"
)


# --- interpreters, which --shims allows ------------------------------------------------------------------


def _answered_timesteps(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    rows = _rows(recording, findings)
    methods = _tuple(_methods(rows))
    return _code(
        "host_copies",
        (f"_answer_from_host(pipe.{name}, {methods})" for name in _schedulers(recording, rows)),
    )


def _host_copies(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """In the pipeline's own code, where uploads are seen, and in the parts of models that read."""
    lines = _in_parts("_answer_from_host_in", _rows(recording, findings))
    return _code("host_copies", lines, around="_answered_from_host(pipe)")


def _in_parts(function: str, rows: Iterable[SyncRow]) -> list[str]:
    """A call for each model of the modules that the rows lie in."""
    parts: dict[str, dict[str, None]] = {}
    for row in rows:
        for name in row.modules:
            model, _, part = name.partition(".")
            parts.setdefault(model, {})[part] = None
    return [f"{function}(pipe.{dotted(model)}, {_tuple(tuple(named))})" for model, named in parts.items()]


def _answered_tables(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    rows = _rows(recording, findings)
    methods = _tuple(_methods(rows))
    owners = [row.owner.rpartition(".") for row in rows if row.owner]
    lines = []
    for name in _schedulers(recording, rows):
        tables = tuple(dict.fromkeys(table for owner, _, table in owners if owner == name))
        if tables:
            lines.append(f"_answer_from_host(pipe.{name}, {methods}, tables={_tuple(tables)})")
    return _code("host_copies", lines) if lines else Skipped("no table of a scheduler is read")


def _answered_search(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    rows = _rows(recording, findings)
    return _code(
        "host_copies",
        (
            f'_answer_from_host(pipe.{name}, ("set_timesteps", "_init_step_index"))'
            for name in _schedulers(recording, rows)
        ),
    )


def _filled_uploads(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    rows = _rows(recording, findings)
    known = {each.name for each in recording.target.components if each.role == "scheduler"}
    scheduled = [row for row in rows if row.part == "scheduler" or row.site.module in known]
    others = [row for row in rows if row not in scheduled]
    methods = _tuple([name for name in _methods(scheduled) if name != "set_timesteps"])
    names = _schedulers(recording, scheduled) if scheduled else ()
    lines = [f"_fill_small_uploads(pipe.{name}, {methods})" for name in names]
    lines += _in_parts("_fill_small_uploads_in", others)
    in_call = any(not row.modules for row in others)
    return _code("small_uploads", lines, around="_small_uploads_filled(pipe)" if in_call else "")


def _host_tensors(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    parts: dict[str, dict[str, None]] = {}
    for row in _rows(recording, findings):
        model, _, part = (row.site.module or "").partition(".")
        named = parts.setdefault(model, {})
        if part and "*" not in part:
            named[part] = None
    return _code(
        "host_tensors",
        (
            f"_host_tensors_once(pipe.{dotted(model)}, {_tuple(tuple(named))})"
            if named
            else f"_host_tensors_once(pipe.{dotted(model)})"
            for model, named in parts.items()
        ),
    )


_SAME_TENSORS = (
    "The device computes the same operations on the same tensors; only where the host reads from changes."
    " What the host has not uploaded itself is read from the device as before."
)

RECIPES = (
    Recipe(
        Fix(
            "set-begin-index",
            "Find the first step on the CPU",
            Safety.EXACT,
            Stage.SCHEDULER,
            why="The scheduler searches its timesteps for the first one; the search runs on the host's copy"
            " of them and finds the same index, also in the middle of the schedule (image to image). "
            + _SAME_TENSORS,
        ),
        _host_timesteps,
        shim=_answered_search,
    ),
    Recipe(
        Fix(
            "scheduler-tables-on-host",
            "Read scheduler tables from a CPU copy",
            Safety.EXACT,
            Stage.SCHEDULER,
            why="Tables such as sigmas stay on the device for what is computed there; what Python decides on"
            " is read from a copy on the host, made before the loop. " + _SAME_TENSORS,
        ),
        _tables_on_host,
        shim=_answered_tables,
    ),
    Recipe(
        Fix(
            "host-timesteps",
            "Read the timesteps once, on the CPU",
            Safety.EXACT,
            Stage.SCHEDULER,
            why="The timesteps were uploaded by the host, so it knows the value of `t` by its place in them:"
            " it indexes and compares with its own copy. Those that the scheduler computes on the device are"
            " read once, before the loop. " + _SAME_TENSORS,
        ),
        _host_timesteps,
        shim=_answered_timesteps,
    ),
    Recipe(
        Fix(
            "edited-lines",
            "Write the lines that wait otherwise, in a subclass with that method",
            Safety.EXACT,
            Stage.SCHEDULER,
            why="The method stands there as in the library, but for the lines that are marked: a timestep is"
            " read from a copy made before the loop, a tensor of device numbers is a view of them, a mask's"
            " selection a sort of known size, what is stored for later stays on the device. The device"
            " computes what it did before.",
        ),
        _edited,
    ),
    Recipe(
        Fix(
            "host-copies",
            "Read uploaded values from CPU copies",
            Safety.EXACT,
            Stage.SCHEDULER,
            why="The pipeline's own code, and the parts of models that read, run with the host keeping a"
            " copy of the small tensors that it uploads or makes, and of what follows from them exactly:"
            " comparisons, whole numbers, rearranging. `if t > limit`, lengths of prompts and `x[mask]`"
            " then need no answer of the device. A tensor of `[t / 1000]` is made on the device. In code"
            " under"
            " `torch.compile` nothing changes. " + _SAME_TENSORS,
        ),
        _no_plain_code,
        shim=_host_copies,
    ),
    # After the fixes above: it has to stand outside of them, so that they see its tensors arrive.
    Recipe(
        Fix(
            "upload-once",
            "Put small constants and tables on the device once",
            Safety.EXACT,
            Stage.SCHEDULER,
            why="A copy from the host ends in a wait, a fill kernel's argument does not; up to eight numbers"
            " are filled in, larger constants are sent once and copied on the device. `linalg.solve` becomes"
            " `linalg.solve_ex`, the same solver without the check for a singular matrix. The same numbers"
            " arrive, with the same type, on the same device.",
        ),
        _upload_once,
        shim=_filled_uploads,
    ),
    Recipe(
        Fix(
            "host-tensors-once",
            "Upload the denoiser's tensors once",
            Safety.EXACT,
            Stage.SCHEDULER,
            why="Rotary tables, frequencies and timesteps on the host are sent by the parts that use them,"
            " in each step and often in each block. Here they are sent before, once for the same numbers, and"
            " tables that a part keeps stay on the device. The first call is watched: only what is sent as it"
            " is moves; what the host computes with stays there, so that not a bit changes. In code under"
            " `torch.compile` nothing changes.",
        ),
        _sent_once,
        shim=_host_tensors,
    ),
)
