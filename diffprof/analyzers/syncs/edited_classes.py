"""Plain code against waits in the middle of a pipeline's or a model's method: a subclass of its class with
that method, in which the lines that wait are written otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diffprof.analyzers.syncs.class_source import ClassSource, NoSource, class_at
from diffprof.analyzers.syncs.line_edits import LineEdit
from diffprof.analyzers.syncs.loop_edits import ONCE, ONCE_OF, TELLS, loop_edits
from diffprof.analyzers.syncs.method_copies import Copied, subclassed
from diffprof.analyzers.syncs.plain_models import takes
from diffprof.model.fix import Code, Skipped
from diffprof.model.recording import Site, SyncRow
from diffprof.model.recording.source_text import quoted

_GIVE = '''
def _give(pipe, owner, subclass):
    """Give all of a pipeline that is of the class `owner` the methods of a subclass."""
    models = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    modules = [module for model in models for module in model.modules()]
    made = {}
    parts = [*modules, *(getattr(module, "processor", None) for module in modules)]
    for thing in [pipe, *vars(pipe).values(), *parts]:
        cls = type(thing)
        if any(each.__name__ == owner for each in cls.__mro__):
            made[cls] = made.get(cls) or subclass(cls)
            thing.__class__ = made[cls]
'''


def edited_classes(rows: Sequence[SyncRow]) -> Code | Skipped:
    """For rows outside of schedulers: those that some kind of edit fits; the others stay as they are."""
    found: dict[tuple[str, str], tuple[ClassSource, dict[str, list[LineEdit]]]] = {}
    why = "no wait lies in a method"
    for row in (each for each in rows if not takes(each)):
        try:
            site = _edited_at(row)
            source = class_at(site)
            own = site.function.partition(".<locals>")[0].rpartition(".")[2]
            made = loop_edits(source, source.methods[own], row, site.line)
        except (NoSource, KeyError) as error:
            why = str(error)
            continue
        edits = found.setdefault((source.file, source.name), (source, {}))[1]
        edits.setdefault(own, []).extend(made)
    texts: list[tuple[str, str, Copied]] = []
    for source, edits in found.values():
        function = f"_without_waits_{len(texts)}" if texts else "_without_waits"
        try:
            texts.append((source.name, function, subclassed(source, edits, function)))
        except NoSource as error:
            why = str(error)
    return _code(texts) if texts else Skipped(why)


def _edited_at(row: SyncRow) -> Site:
    """The line that decides where the value is: what a hook asks a pipeline for, the pipeline sets."""
    if "/hooks/" not in row.site.file:
        return row.site
    calls = [f for f in row.site.chain if f.function.endswith(".__call__") and "/pipelines/" in f.file]
    for frame in calls[:1]:
        site = Site(file=frame.file, line=frame.line, function=frame.function)
        method = class_at(site).methods["__call__"]
        lines = class_at(site).lines
        span = range(method.lineno, (method.end_lineno or 0) + 1)
        kept = [n for n in span if TELLS.fullmatch(lines[n - 1])]
        if len(kept) == 1:
            return Site(file=frame.file, line=kept[0], function=frame.function)
    raise NoSource("what the hook asks for is set in no loop over timesteps")


def _code(texts: Iterable[tuple[str, str, Copied]]) -> Code:
    texts = list(texts)
    definitions = "\n\n".join([_GIVE.strip("\n") + "\n", *(copied.definitions for *_, copied in texts)])
    for name, helper in (("_once(", ONCE), ("_once_of(", ONCE_OF)):
        if name in definitions:
            definitions = f"{helper.strip(chr(10))}\n\n\n{definitions}"
    imports = ["import torch", *(line for *_, copied in texts for line in copied.imports)]
    return Code(
        imports=tuple(dict.fromkeys(imports)),
        definitions=definitions,
        optimize="\n".join(f"_give(pipe, {quoted(owner)}, {function})" for owner, function, _ in texts),
        kept=sum(copied.kept for *_, copied in texts),
    )
