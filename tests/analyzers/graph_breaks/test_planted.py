"""Planted graph breaks: every distinct one is found once, on its line, also where `explain` reports fewer."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from diffprof.analyzers.graph_breaks.causes import kind_of
from diffprof.model.recording import GraphBreakRow
from tests.analyzers.graph_breaks import planted
from tests.analyzers.graph_breaks.conftest import in_child

pytestmark = pytest.mark.slow

SOURCE = Path(planted.__file__).read_text().splitlines()
MARK = re.compile(r"# breaks: ([\w, -]+)$")


@dataclass
class Seen:
    rows: tuple[GraphBreakRow, ...]
    graphs: int
    whole: bool
    failure: str | None
    unsearched: set[str]
    """Functions not all of which could be looked at."""
    explained: set[int | None]
    """Lines of `explain`'s reasons."""


def look_at_all() -> dict[str, Seen]:
    """In the child: what the capture and `explain` make of each case."""
    import torch

    from diffprof.analyzers.graph_breaks.breaks import break_rows, distinct_breaks
    from diffprof.analyzers.graph_breaks.component import capture_part
    from diffprof.analyzers.graph_breaks.observe import CallSignature, Compilable
    from diffprof.analyzers.graph_breaks.signature import signature
    from diffprof.model.recording import Grade

    found = {}
    for name, (function, args) in planted.CASES.items():
        inputs = signature((args, {}))
        part = Compilable(
            name, function, "__call__", "other", calls=[CallSignature(inputs, inputs, count=1)], order=[0]
        )
        result = capture_part(part)
        rows = break_rows(name, distinct_breaks(result), result, calls=1, per_step=0.0, grade=Grade.MEASURED)
        torch._dynamo.reset()
        with torch.no_grad():
            told = torch._dynamo.explain(function)(*args)
        stacks = [
            [f.lineno for f in r.user_stack if f.filename == planted.__file__] for r in told.break_reasons
        ]
        found[name] = Seen(
            rows,
            len(result.capture.graphs),
            result.capture.whole,
            result.capture.failure,
            {function for (_, _, function), _ in result.capture.unsearched},
            {innermost for *_, innermost in stacks},
        )
    return found


@cache
def seen() -> dict[str, Seen]:
    return in_child(look_at_all)


def expected(name: str) -> Counter[tuple[int, str]]:
    """(line, kind) of every marked line that the case comes to, found by following the names that it uses."""
    reached, pending = set(), [_first_line(planted.CASES[name][0])]
    starts = {start: _block(start) for start in _definitions().values()}
    while pending:
        start = pending.pop()
        if start in reached:
            continue
        reached.add(start)
        text = "\n".join(SOURCE[n - 1].partition("#")[0] for n in starts[start])
        pending += [line for word, line in _definitions().items() if re.search(rf"\b{word}\b", text)]
    lines = {n for start in reached for n in starts[start]}
    marked = {n: match[1] for n in sorted(lines) if (match := MARK.search(SOURCE[n - 1]))}
    return Counter((n, kind) for n, kinds in marked.items() for kind in kinds.split(", "))


def _definitions() -> dict[str, int]:
    found = {}
    for number, line in enumerate(SOURCE, 1):
        if match := re.match(r"(?:def|class) (\w+)", line):
            found[match[1]] = number
    return found


def _first_line(case: Any) -> int:
    return _definitions()[getattr(case, "__name__", type(case).__name__)]


def _block(start: int) -> range:
    """Lines of a definition, with its decorators: until the next text in the first column."""
    after = (n for n in range(start + 1, len(SOURCE) + 1) if re.match(r"\S", SOURCE[n - 1]))
    first = start
    while SOURCE[first - 2].startswith("@"):
        first -= 1
    return range(first, next(after, len(SOURCE) + 1))


@pytest.mark.parametrize("name", planted.CASES)
def test_every_break_is_found_once_on_its_line(name: str) -> None:
    found = Counter((row.site.line, kind_of(row)) for row in seen()[name].rows)
    assert seen()[name].failure is None
    assert found == expected(name)


@pytest.mark.parametrize("name", planted.CASES)
def test_whatever_explain_reports_is_found(name: str) -> None:
    of = seen()[name]
    assert of.explained <= {row.site.line for row in of.rows}


def test_explain_loses_breaks_that_are_found_here() -> None:
    assert sum(len(of.explained) for of in seen().values()) < sum(len(of.rows) for of in seen().values())


@pytest.mark.parametrize("name", planted.CASES)
def test_rows_say_what_dynamo_knows(name: str) -> None:
    for row in seen()[name].rows:
        assert row.code is not None
        assert re.fullmatch(r"GB\d{4}", row.code)
        assert row.cause
        assert row.explanation
        assert dict(row.site.excerpt)[row.site.line] == SOURCE[row.site.line - 1]
        assert row.site.file == "tests/analyzers/graph_breaks/planted.py"


def test_what_is_whole_is_said_to_be() -> None:
    assert [name for name, of in seen().items() if of.whole] == ["whole"]


def test_a_function_that_was_not_searched_whole_is_named() -> None:
    named = {name: of.unsearched for name, of in seen().items() if of.unsearched}
    for name in ("through_a_property", "of_a_generator", "hidden_too_late"):
        assert named.pop(name) == {name}
    assert named.keys() <= {"comprehension"}, "a function of its own before Python 3.12"


def test_a_break_in_a_block_counts_once_a_block() -> None:
    (row,) = seen()["repeated"].rows
    assert row.count == 3
    assert row.modules == tuple(f"repeated.blocks.{i}" for i in range(3))
    assert row.site.module == "repeated.blocks.0"


def test_a_skipped_function_is_told_apart_from_a_break() -> None:
    first, *others = seen()["hidden"].rows
    assert first.skipped_frame is not None
    assert first.skipped_frame.startswith("hidden (")
    assert first.hidden_by is None
    assert first.count == 3
    assert {row.skipped_frame for row in others} == {None}
    by = f"hidden (tests/analyzers/graph_breaks/planted.py:{first.site.line})"
    assert {row.hidden_by for row in others} == {by}


def test_what_ran_compiled_before_a_loop_is_not_called_skipped() -> None:
    before, in_loop, _ = seen()["hidden_in_the_rest"].rows
    assert before.skipped_frame is None
    assert before.graphs == 1
    assert (in_loop.skipped_frame or "").startswith("the rest of hidden_in_the_rest (")


def test_frames_are_the_users_own_and_innermost_first() -> None:
    rows = seen()["several"].rows
    deepest = rows[-1]
    assert [deepest.site.function, *(frame.function for frame in deepest.site.chain)] == [
        "deepest",
        "deeper",
        "several",
    ]
    assert not any("torch_dynamo_resume" in row.site.function for row in rows)
    assert sum(row.graphs for row in rows) <= seen()["several"].graphs
