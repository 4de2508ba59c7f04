"""The shortest plain code against waits in a scheduler: a subclass of its class with the one or two methods
that have to differ. Which ones, the class's source and the recorded waits say.

Nothing moves from one side to the other that takes part in what is computed, although one would write that by
hand: a float32 number on the CPU and one on the device are not rounded alike when they meet float16 or
bfloat16 tensors (aten/src/ATen/native/cuda/Loops.cuh, opmath_gpu_kernel_with_scalars: a host scalar takes
part in float32; a device scalar is cast to the tensors' type first).
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from itertools import takewhile

from msgspec.structs import replace

from diffprof.analyzers.syncs.class_source import ClassSource, NoSource, class_at
from diffprof.analyzers.syncs.method_copies import copied
from diffprof.analyzers.syncs.timestep_use import (
    arguments_to_timestep,
    is_timestep,
    optional_timesteps,
    timestep_use,
)
from diffprof.model.fix import Code, Skipped
from diffprof.model.recording import Frame, Site, SyncRow
from diffprof.model.recording.source_text import dotted, quoted

_NUMBERS = '''
def _number_timesteps(scheduler):
    """Hand `step` its timesteps as numbers, with which it indexes tables that are on the CPU."""
    cls = type(scheduler)

    class NumberTimesteps(cls):
        @functools.wraps(cls.set_timesteps)
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs){again}
            self.on_device = self.timesteps  # what a loop hands on are views of them: an address says which
            self.known = dict(zip([each.data_ptr() for each in self.on_device], self.on_device.tolist()))

        def number(self, timestep):
            place = timestep.data_ptr() if hasattr(timestep, "data_ptr") else None
            return self.known.get(place, timestep)

        @functools.wraps(cls.step)
        def step(self, {arguments}, *args, **kwargs):{more}
            return super().step({looked_up}, *args, **kwargs)

    scheduler.__class__ = functools.update_wrapper(NumberTimesteps, cls, updated=())  # it keeps its name
'''

_ON_HOST = '''
def _host_timesteps(scheduler):
    """Let {entries} look timesteps up on the CPU, where the tables are that they index."""
    cls = type(scheduler)

    class HostTimesteps(cls):
        @functools.wraps(cls.set_timesteps)
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs){again}
            self.on_device, self.on_host = self.timesteps, self.timesteps.cpu()  # read once{listed}
            # What a loop hands on are views of them: an address says which.
            self.known = dict(zip([each.data_ptr() for each in self.on_device], self.on_host{numbers})){given}
{lookup}{methods}
    scheduler.__class__ = functools.update_wrapper(HostTimesteps, cls, updated=())  # it keeps its name
'''

_AGAIN = """
            old, new = self.__dict__.get("on_device"), self.timesteps
            if old is not None and old.device == new.device and torch.equal(old, new):
                self.timesteps = old  # this pipeline sets them twice and walks the first ones"""

_ENTRY_OF_ONE = """
        @functools.wraps(cls.{method})
        def {method}(self, {arguments}, *args, **kwargs):
            known = self.known.get(timestep.data_ptr()) if hasattr(timestep, "data_ptr") else timestep
            if known is None or self.timesteps is not self.on_device:
                return super().{method}({arguments}, *args, **kwargs)
            self.timesteps = {table}
            try:
                return super().{method}({looked_up}, *args, **kwargs)
            finally:
                self.timesteps = self.on_device
"""

_ENTRY = """
        @functools.wraps(cls.{method})
        def {method}(self, {arguments}, *args, **kwargs):
            if self.timesteps is not self.on_device:
                return super().{method}({arguments}, *args, **kwargs){more}
            self.timesteps = {table}
            try:
                return super().{method}({looked_up}, *args, **kwargs)
            finally:
                self.timesteps = self.on_device
"""

_LOOKUP = """
        def on_cpu(self, timestep):
            if not hasattr(timestep, "data_ptr"):
                return timestep
            place = timestep.data_ptr()
            return self.known[place] if place in self.known else timestep.cpu()
"""

_HOST_TABLES = '''
def _tables_on_host(scheduler):
    """Keep tables that Python reads on the CPU, as diffusers' own schedulers do."""
    cls = type(scheduler)

    class HostTables(cls):
        @functools.wraps(cls.set_timesteps)
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs){moves}

    scheduler.__class__ = functools.update_wrapper(HostTables, cls, updated=())  # it keeps its name
'''

_LISTED = """
            self.listed = {entries}  # indexed faster than a tensor"""

_GIVEN = """
            self.given = dict(zip(self.known.values(), self.on_device))"""

_COMPUTING = """
        def {method}(self, timestep{more}):
            # It computes with the timestep: with that of the device, as before.
            return super().{method}(self.given.get(timestep, timestep){more})
"""


def host_timesteps(rows: Sequence[SyncRow], schedulers: Iterable[str]) -> Code | Skipped:
    """For reads of timesteps within a scheduler's methods. schedulers: names of the components."""
    try:
        entered = _entered(rows)
        uses = [timestep_use(source.methods, name) for (_, name), source in entered.items()]
        methods = {name: source.methods[name] for (_, name), source in entered.items()}
        arguments = {name: arguments_to_timestep(method) for name, method in methods.items()}
    except NoSource as why:
        return Skipped(f"what the scheduler does with its timesteps is unknown: {why}")
    if any(use.inline for use in uses):
        return Skipped("the scheduler computes with its timestep, and on the host that is rounded otherwise")
    again = _AGAIN if any(map(_sets_twice, rows)) else ""
    number = all(use.number for use in uses)
    if number and set(arguments) == {"step"} and not any(use.searches or use.computing for use in uses):
        given = arguments["step"]
        steps = [source.methods["step"] for source in entered.values()]
        more = dict.fromkeys(name for step in steps for name in optional_timesteps(step))
        text = _NUMBERS.format(
            again=again,
            arguments=", ".join(given),
            more=_more(more, "number"),
            looked_up=", ".join([*given[:-1], f"self.number({given[-1]})"]),
        )
        return _code(text, "_number_timesteps", schedulers)
    computing = sorted({name for use in uses for name in use.computing})
    one = all(_is_of_one(method) for method in methods.values())
    table, known, listed = "self.on_host", zip(uses, entered.values(), strict=True), ""
    if all(use.indexed and "step_index" in source.methods for use, source in known):
        able = number and all(use.listed for use in uses)
        if computing:  # one line less: a recipe has 25 at most
            table, number = f"{table} if self.step_index is None else [*self.known.values()]", able
        else:
            table += " if self.step_index is None else self.listed"
            listed = _LISTED.format(entries="self.on_host.tolist()" if able else "[*self.on_host]")
    written = [_entry(methods[name], given, table, one=one) for name, given in arguments.items()]
    written += [
        _computing(name, [source.methods[name] for source in entered.values() if name in source.methods])
        for name in computing
    ]
    definitions = _ON_HOST.format(
        entries=" and ".join(f"`{name}`" for name in arguments),
        again=again,
        listed=listed,
        numbers=".tolist()" if number else "",
        given=_GIVEN if computing else "",
        lookup="" if one else _LOOKUP,
        methods="".join(written),
    )
    return _code(definitions, "_host_timesteps", schedulers)


def _sets_twice(row: SyncRow) -> bool:
    """Whether the pipeline sets its scheduler's timesteps a second time, whose loop then walks other tensors
    than the scheduler has."""
    for frame in row.site.chain:
        if frame.function.endswith(".__call__") and "/pipelines/" in frame.file:
            site = Site(file=frame.file, line=frame.line, function=frame.function)
            try:
                body = class_at(site).methods["__call__"].body
            except (NoSource, KeyError):
                return False
            calls = [
                s.value
                for s in body
                if isinstance(s, ast.Assign | ast.Expr) and isinstance(s.value, ast.Call)
            ]
            return sum(map(_sets_timesteps, calls)) > 1
    return False


def _sets_timesteps(call: ast.Call) -> bool:
    named = ast.unparse(call.func).rpartition(".")[2]
    of_own = "self.scheduler" in ast.unparse(call)
    return of_own and named in ("retrieve_timesteps", "set_timesteps")


def _computing(name: str, methods: Iterable[ast.FunctionDef]) -> str:
    alone = all([each.arg for each in method.args.args] == ["self", "timestep"] for method in methods)
    return _COMPUTING.format(method=name, more="" if alone else ", *args, **kwargs")


_MORE = """
            for name in kwargs.keys() & {names}:
                kwargs[name] = self.{lookup}(kwargs[name])"""


def _more(names: Iterable[str], lookup: str) -> str:
    """What looks up timesteps that are handed on by their names."""
    given = "{" + ", ".join(map(quoted, names)) + "}"
    return _MORE.format(names=given, lookup=lookup) if names else ""


def _is_of_one(method: ast.FunctionDef) -> bool:
    """Whether a method can be handed one timestep alone, as most of them are."""
    given = list(filter(is_timestep, arguments_to_timestep(method)))
    return given == ["timestep"] and not optional_timesteps(method)


def _entry(method: ast.FunctionDef, arguments: Sequence[str], table: str, *, one: bool) -> str:
    """table: of the timesteps, while the method runs. one: whether none of the methods is handed several."""
    lookup = "known" if one else "self.on_cpu({})"
    looked_up = [lookup.format(name) if is_timestep(name) else name for name in arguments]
    return (_ENTRY_OF_ONE if one else _ENTRY).format(
        method=method.name,
        more=_more(optional_timesteps(method), "on_cpu"),
        arguments=", ".join(arguments),
        looked_up=", ".join(looked_up),
        table=table,
    )


def tables_read_on_host(rows: Sequence[SyncRow], schedulers: Iterable[str], *, half: bool) -> Code | Skipped:
    """For reads of tables that lie on the device.

    half: whether the model runs in half precision. What Python decides on it then reads from a copy on the
    host, in methods written again; else the table itself moves there, and is rounded alike on both sides.
    """
    tables = {row.owner.rpartition(".")[2] for row in rows if row.owner and row.owner_device == "device"}
    if "timesteps" in tables or not tables:
        return Skipped("it is timesteps that are read")
    if half or any(row.kind != "value-read" for row in rows):
        doc = "Let Python read tables from a copy on the CPU; the device computes with its own."
        return _copied(rows, schedulers, "_tables_read_on_host", "HostTables", doc)
    moves = "".join(f"\n            self.{name} = self.{name}.cpu()" for name in sorted(tables))
    return _code(_HOST_TABLES.format(moves=moves), "_tables_on_host", schedulers)


def tables_on_device(rows: Sequence[SyncRow], schedulers: Iterable[str]) -> Code | Skipped:
    """For tables of the CPU whose entries are sent in each step, and solvers that check their result."""
    return _copied(
        rows,
        schedulers,
        "_tables_on_device",
        "DeviceTables",
        "Send tables to the device once, before the loop, instead of their entries in each step.",
    )


def searched(rows: Sequence[SyncRow], schedulers: Iterable[str]) -> Code | Skipped:
    """For searches of the step's timestep in the table, where the scheduler computes with it too."""
    doc = "Find the place of a timestep by its address, not by its value."
    return _copied(rows, schedulers, "_timesteps_by_address", "TimestepsByAddress", doc)


def _copied(
    rows: Sequence[SyncRow], schedulers: Iterable[str], function: str, name: str, doc: str
) -> Code | Skipped:
    try:
        made = copied(rows, function, name, doc)
    except NoSource as why:
        return Skipped(f"{why}")
    code = _code(made.definitions, function, schedulers)
    return replace(code, imports=made.imports, kept=made.kept)


def _code(definitions: str, function: str, schedulers: Iterable[str]) -> Code:
    lines = [f"{function}(pipe.{dotted(name)})" for name in schedulers]
    return Code(
        imports=tuple(f"import {name}" for name in ("functools", "torch") if f"{name}." in definitions),
        definitions=definitions.strip("\n") + "\n",
        optimize="\n".join(lines),
    )


def _entered(rows: Iterable[SyncRow]) -> dict[tuple[str, str], ClassSource]:
    """(file, method) -> class, of the methods through which the rows' schedulers were entered; where one of
    them is called by that of a class above it, both.

    Raises NoSource where one can't be read.
    """
    found: dict[tuple[str, str], ClassSource] = {}
    for row in rows:
        inside: list[Site | Frame] = [
            row.site,
            *takewhile(lambda frame: "/schedulers/" in frame.file, row.site.chain),
        ]
        frames = {inside[-1].file: inside[-1]}
        for frame in inside:
            if frame.function.rpartition(".")[2] == inside[-1].function.rpartition(".")[2]:
                frames[frame.file] = frame
        for file, frame in frames.items():
            excerpt = row.site.excerpt if file == row.site.file else ()
            site = Site(file=file, line=frame.line, function=frame.function, excerpt=excerpt)
            found.setdefault((file, frame.function.rpartition(".")[2]), class_at(site))
    return found
