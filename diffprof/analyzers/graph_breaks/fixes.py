"""Fixes of graph breaks and recompiles: settings of Dynamo during the call, shims on a model, and advice.

Settings are scoped to the call, in which everything is compiled; the process keeps its own.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Sequence

from msgspec.structs import replace

from diffprof.analyzers.graph_breaks.advice import ADVICE, written
from diffprof.analyzers.graph_breaks.causes import kind_of
from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Fix, Recipe, Safety, Skipped, Stage
from diffprof.model.pipeline import Pipeline
from diffprof.model.recording import GraphBreakRow, RecompileRow, Recording
from diffprof.model.recording.source_text import dotted

DYNAMIC_TOLERANCE = 0.02
NUMBER_TOLERANCE = 0.02

_PROGRESS = re.compile(r"tqdm|progress", re.IGNORECASE)
_OFFLOADING = re.compile(r"accelerate/hooks|hooks/group_offloading")
_CASTING = re.compile(r"hooks/layerwise_casting")
_SHAPE_FROM_VALUES = re.compile(r"nonzero|unique|masked_select|dynamic (output )?shape", re.IGNORECASE)
_LORA = re.compile(r"lora|\.scaling\[|_adapter", re.IGNORECASE)
_STRING = re.compile(r"[!=]= *['\"]")
_ARGUMENT = re.compile(r"^(?:-?[\d.e+-]+ <=? )?([A-Za-z_]\w*) *(?:==|!=|<|>)")


# --- which fixes a finding names -------------------------------------------------------------------------


def for_break(row: GraphBreakRow) -> tuple[str, ...]:
    """Keys of the fixes for a graph break, those that can be run first."""
    kind = kind_of(row)
    if kind == "hook":
        if _OFFLOADING.search(_files(row)):
            return ("replace-offload",)
        if _CASTING.search(_files(row)):
            return ("one-type-of-weights",)
        inner = kind_of(replace(row, in_hook=False))
        return ("quiet-in-graph", "hook-outside") if inner == "side-effect" else ("hook-outside",)
    if kind == "side-effect" and _PROGRESS.search(_told(row)):
        return ("no-progress-bar",)
    return _OF_KIND.get(kind, ())


_OF_KIND = {
    "branch": ("branch-as-where",),
    "value": ("capture-scalars",),
    "model-output": ("tuple-outputs", "tuples-in-source"),
    "side-effect": ("quiet-in-graph",),
    "numpy": ("torch-for-numpy",),
    "call": ("call-outside",),
    "disabled": ("compile-inside",),
}


def for_recompile(rows: Sequence[RecompileRow]) -> tuple[str, ...]:
    """Keys of the fixes for a guard that fails."""
    row = rows[0]
    stopped = _stopped(rows)
    by_setting = ("dynamic-shapes",) if set(stopped) & set(_SETTINGS) else ()
    keys: tuple[str, ...] = ()
    if _LORA.search(row.guard):
        keys = ("fuse-lora", *by_setting)
    elif row.kind in ("shape", "dtype"):
        keys = by_setting
        if not keys and "mark_dynamic" in stopped:
            keys = ("mark-dynamic",) if "." not in row.component and row.marked else ("mark-by-hand",)
    elif row.kind == "scalar" and _STRING.search(row.guard):
        keys = by_setting
    elif row.kind == "scalar":
        keys = ("numbers-as-tensors", *by_setting) if _argument(row) else (*by_setting, "number-outside")
    elif row.kind in ("identity", "type", "global") and not row.guard.endswith("None"):
        keys = ("same-object",)
    return (*keys, "more-versions") if any(each.limit_hit for each in rows) else keys


_SETTINGS = {
    "dynamic=True": ("torch._dynamo.config", "assume_static_by_default=False"),
    "use_duck_shape=False": ("torch.fx.experimental._config", "use_duck_shape=False"),
}
"""What was tried -> (the module of the setting, the setting): `dynamic=True` is that setting for one compile
(torch/_dynamo/eval_frame.py, set_enable_dynamic)."""


def _stopped(rows: Sequence[RecompileRow]) -> tuple[str, ...]:
    """Settings that stop every one of them, as tried."""
    return tuple(name for name in rows[0].tried if all(name in row.stopped_by for row in rows))


def _argument(row: RecompileRow) -> str | None:
    """The argument of the component that a guard on a number looks at, if it is one."""
    found = _ARGUMENT.match(row.guard)
    return found[1] if found else None


def _told(row: GraphBreakRow) -> str:
    line = next((text for number, text in row.site.excerpt if number == row.site.line), "")
    return f"{row.cause} {row.context} {line}"


def _files(row: GraphBreakRow) -> str:
    files = [row.site.file, *(frame.file for frame in row.site.chain)]
    return " ".join([*files, row.raised_at.file if row.raised_at else ""])


# --- rows of findings ----------------------------------------------------------------------------------


def _breaks(recording: Recording, findings: Sequence[Finding]) -> list[GraphBreakRow]:
    places = {(f.site.file, f.site.line) for f in findings if f.site is not None}
    return [r for r in recording.graph_breaks or () if (r.site.file, r.site.line) in places]


def _recompiles(recording: Recording, findings: Sequence[Finding]) -> list[RecompileRow]:
    places = {(f.site.file, f.site.function, f.kind) for f in findings if f.site is not None}
    return [
        row
        for row in recording.recompiles or ()
        if (row.site.file, row.site.function, f"recompile: {row.kind}") in places
    ]


def _models(rows: Sequence[GraphBreakRow | RecompileRow]) -> list[str]:
    """Components of the pipeline: `vae` for `vae.decode`."""
    return list(dict.fromkeys(dotted(row.component.partition(".")[0]) for row in rows))


# --- settings during the call ----------------------------------------------------------------------------

_QUIET = """\
_SAID_LATER = {print, warnings.warn}  # behind the graph, in the same order
_UNSAID = {getattr(logging.Logger, name) for name in ("debug", "info", "warning", "error", "critical", "log")}
"""


def quiet_in_graph(recording: Recording, findings: Sequence[Finding]) -> Code:
    """Dynamo moves prints behind the graph, and leaves out what is logged."""
    settings = "reorderable_logging_functions=_SAID_LATER, ignore_logger_methods=_UNSAID"
    return Code(
        imports=("import logging", "import warnings", "import torch._dynamo"),
        definitions=_QUIET,
        around=f"torch._dynamo.config.patch({settings})",
    )


def capture_scalars(recording: Recording, findings: Sequence[Finding]) -> Code:
    """Reads of values become part of the graph."""
    rows = _breaks(recording, findings)
    shapes = any(_SHAPE_FROM_VALUES.search(_told(row)) for row in rows)
    more = ", capture_dynamic_output_shape_ops=True" if shapes else ""
    return Code(
        imports=("import torch._dynamo",),
        around=f"torch._dynamo.config.patch(capture_scalar_outputs=True{more})",
    )


def dynamic_shapes(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """The setting that stopped the recompiles when it was tried."""
    stopped = _stopped(rows) if (rows := _recompiles(recording, findings)) else ()
    for name, (module, setting) in _SETTINGS.items():
        if name in stopped:
            return Code(imports=(f"import {module}",), around=f"{module}.patch({setting})")
    return Skipped("no setting stopped all of these recompiles when it was tried")


def more_versions(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Room for twice as many versions of a function as were needed."""
    rows = [row for row in _recompiles(recording, findings) if row.limit_hit]
    if not rows:
        return Skipped("no limit was reached")
    needed = max((row.limit or 0) + sum(r.count for r in rows if r.site == row.site) for row in rows)
    return Code(
        imports=("import torch._dynamo",),
        around=f"torch._dynamo.config.patch(recompile_limit={2 * needed})",
    )


# --- shims on a model ------------------------------------------------------------------------------------

_TUPLES = '''\
def _answer_with_tuples(model):
    """The model makes a plain tuple, with names for what it holds, in the place of its output object."""
    own = model.forward
    annotated = typing.get_type_hints(own)["return"]
    output = next(c for c in typing.get_args(annotated) or (annotated,) if dataclasses.is_dataclass(c))
    names = [field.name for field in dataclasses.fields(output)]
    named = collections.namedtuple(output.__name__, names, defaults=[None] * len(names))

    @functools.wraps(own)
    def forward(*args, return_dict=True, **kwargs):
        values = own(*args, return_dict=False, **kwargs)
        return named(*values) if return_dict else values

    model.forward = forward
'''


def tuple_outputs(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Components whose output objects split the graph; those that are methods of a model are left."""
    rows = [row for row in _breaks(recording, findings) if "." not in row.component]
    if not rows:
        return Skipped("what splits the graph is not the output of a component's own call")
    return Code(
        imports=("import collections", "import dataclasses", "import functools", "import typing"),
        definitions=_TUPLES,
        optimize="\n".join(f"_answer_with_tuples(pipe.{name})" for name in _models(rows)),
    )


_CALLED = '''\
def _look_at_arguments(model, look):
    """`look` gets the arguments of each call, by name, before compiled code begins; it may change them."""
    cls = type(model)
    signature = inspect.signature(getattr(model, "_orig_mod", model).forward)

    class Called(cls):
        def __call__(self, *args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            look(bound.arguments)
            return super().__call__(*bound.args, **bound.kwargs)

    Called.__name__, Called.__qualname__, Called.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    model.__class__ = Called
'''

_NUMBERS = f'''\
{_CALLED}

def _take_numbers_as_tensors(model, names):
    """Floats of these arguments reach the compiled code as 0-d tensors: one version for all values."""

    def look(arguments):
        for name in names:
            if isinstance(arguments.get(name), float):
                arguments[name] = torch.tensor(arguments[name], dtype=torch.float64)

    _look_at_arguments(model, look)
'''


def numbers_as_tensors(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Arguments that guards on numbers look at."""
    names: dict[str, dict[str, None]] = {}
    for row in _recompiles(recording, findings):
        argument = _argument(row)
        if row.kind == "scalar" and argument and "." not in row.component:
            names.setdefault(row.component, {})[argument] = None
    if not names:
        return Skipped("no number of these guards is an argument of a component")
    return Code(
        imports=("import inspect", "import torch"),
        definitions=_NUMBERS,
        optimize="\n".join(
            f"_take_numbers_as_tensors(pipe.{dotted(component)}, {tuple(own)!r})"
            for component, own in names.items()
        ),
    )


_SIZES = f'''\
{_CALLED}

def _let_sizes_vary(model, sizes):
    """These sizes of the arguments are symbols in the compiled code: one version for all of them."""

    def look(arguments):
        for (name, *keys), dims in sizes.items():
            tensor = arguments.get(name)
            for key in keys:
                tensor = None if tensor is None else tensor[key]
            for dim in dims if tensor is not None else ():
                if tensor.shape[dim] > 1:  # a size of 1 gets code of its own, whatever is marked
                    torch._dynamo.maybe_mark_dynamic(tensor, dim)

    _look_at_arguments(model, look)
'''


def mark_dynamic(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """The sizes with which marking stopped the recompiles when it was tried."""
    rows = [row for row in _recompiles(recording, findings) if "mark_dynamic" in row.stopped_by]
    sizes = {row.component: row.marked for row in rows if row.marked and "." not in row.component}
    if not sizes:
        return Skipped("marking the sizes of a component's own arguments stopped none of these recompiles")
    calls = []
    for component, marked in sizes.items():
        paths = {_path(argument): dims for argument, dims in marked.items()}
        calls.append(f"_let_sizes_vary(pipe.{dotted(component)}, {paths!r})")
    return Code(
        imports=("import inspect", "import torch._dynamo"), definitions=_SIZES, optimize="\n".join(calls)
    )


def _path(argument: str) -> tuple[str | int, ...]:
    """`added['ids'][0]` as its keys."""
    name, *keys = argument.replace("]", "").split("[")
    return (name, *(int(key) if key.isdigit() else key.strip("'") for key in keys))


# --- the table -------------------------------------------------------------------------------------------


def fits_tuples(pipe: Pipeline) -> str | None:
    """Whether a model can be asked for a tuple, and says what class its output is of."""
    for model in getattr(pipe, "components", {}).values():
        forward = getattr(model, "forward", None)
        if forward is None or "return_dict" not in inspect.signature(forward).parameters:
            continue
        annotated = typing.get_type_hints(forward).get("return")
        if any(map(dataclasses.is_dataclass, typing.get_args(annotated) or (annotated,))):
            return None
    return "no model takes return_dict and names the class of its output"


RECIPES: tuple[Recipe, ...] = (
    Recipe(
        Fix(
            "quiet-in-graph",
            "Let prints wait for the end of the graph, and leave out what is logged",
            Safety.EXACT,
            Stage.GRAPH,
            why="Messages are no part of the computation. Prints and warnings come after the graph that they"
            " stood in; log messages of compiled code don't come. The setting holds while the pipeline is"
            " called.",
        ),
        quiet_in_graph,
    ),
    Recipe(
        Fix(
            "capture-scalars",
            "Let the graph hold the reads of values",
            Safety.EXACT,
            Stage.GRAPH,
            why="`.item()` and operations whose shape depends on values become nodes of the graph: it stays"
            " whole, and the host still waits for the value.",
        ),
        capture_scalars,
    ),
    Recipe(
        Fix(
            "tuple-outputs",
            "Let the model answer with a named tuple",
            Safety.EXACT,
            Stage.GRAPH,
            why="The same tensors under the same names and indexes; Dynamo follows tuples.",
        ),
        tuple_outputs,
        fits=fits_tuples,
    ),
    Recipe(
        Fix(
            "numbers-as-tensors",
            "Pass numbers that change as 0-d tensors",
            Safety.NUMERIC,
            Stage.GRAPH,
            tolerance=NUMBER_TOLERANCE,
            why="A float is burnt into the graph, a tensor is an input of it. In float64, so that it promotes"
            " as Python's number does. Where the model branches on the number, the graph breaks instead.",
        ),
        numbers_as_tensors,
    ),
    Recipe(
        Fix(
            "dynamic-shapes",
            "Compile for sizes and numbers that vary",
            Safety.NUMERIC,
            Stage.GRAPH,
            tolerance=DYNAMIC_TOLERANCE,
            why="Sizes and numbers are symbols from the first compile on: one version for all. Kernels for"
            " symbolic sizes may round otherwise, and be slower than those for one size.",
        ),
        dynamic_shapes,
    ),
    Recipe(
        Fix(
            "mark-dynamic",
            "Compile for sizes that vary, of the arguments in which they do",
            Safety.NUMERIC,
            Stage.GRAPH,
            tolerance=DYNAMIC_TOLERANCE,
            why="The sizes that changed are symbols from the first compile on, all others stay fixed. It is"
            " told before the compiled code begins. Kernels for symbolic sizes may round otherwise.",
        ),
        mark_dynamic,
    ),
    Recipe(
        Fix(
            "more-versions",
            "Make room for more versions of a function",
            Safety.EXACT,
            Stage.GRAPH,
            why="Beyond the limit a function runs as plain Python. Each version is still compiled once, so"
            " the guard that fails is the better cure.",
        ),
        more_versions,
    ),
    *(
        Recipe(Fix(key, title, Safety.ADVICE, Stage.GRAPH, why=why), written(text))
        for key, title, text, why in ADVICE
    ),
)
