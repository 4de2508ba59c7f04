"""Functions rewritten on the way to hidden breaks and to loop bodies: same results, same lines."""

from __future__ import annotations

import dis
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from diffprof.analyzers.graph_breaks.hidden import _rewritten
from diffprof.analyzers.graph_breaks.rewrite import body_apart, straightened

LOG: list[Any] = []


def nested(n: int) -> list[int]:
    out = []
    for i in range(1, n):
        for j in (10, 20):
            if i == n:
                continue
            out.append(i * j)
        while i:
            out.append(-i)
            break
    return out


def adds(n: int) -> tuple[int, int]:
    total, skipped = 0, 0
    for i in range(n):
        if i % 2:
            skipped += 1
            continue
        if i > 6:
            break
        total += i
    return total, skipped


def counts_down(n: int) -> list[int]:
    out = []
    while n > 0:
        n -= 1
        if n % 3 == 1:
            continue
        for each in enumerate("abc"):
            if each[0] > n:
                break
            out.append(each[0] + n)
        if n == 1:
            break
    return out


def leaves(n: int) -> int:
    for i in range(n):
        if i == 2:
            return i
    return -1


def straight(n: int) -> int:
    return n + 1


class Owner:
    step = 2

    def __times(self, i: int) -> int:
        return i * self.step

    def run(self, n: int) -> list[int]:
        out = []
        for i in range(n):
            out.append(self.__times(i))  # noqa: PERF401
        return out


class Doubled:
    def __init__(self, times: int = 2) -> None:
        self.times = times

    def __enter__(self) -> int:
        return self.times

    def __exit__(self, *args: object) -> None:
        self.times = 0


def in_blocks(x: int) -> tuple[int, int]:
    doubled = Doubled()
    with doubled as times, Doubled():
        try:
            y = x * times
        except ValueError:
            y = 0
        else:
            y += 1
        finally:
            y += 10
    return y, doubled.times


def with_code(function: Callable[..., Any], code: Any, **more: Any) -> FunctionType:
    return FunctionType(code, {**function.__globals__, **more}, function.__name__, function.__defaults__)


def loop_lines(function: Callable[..., Any]) -> tuple[int, int]:
    first = function.__code__.co_firstlineno
    lines = [line for _, line in dis.findlinestarts(function.__code__) if line]
    return first + 2, max(lines) - 1


def test_loops_make_one_pass_and_never_jump_back() -> None:
    code = straightened(nested.__code__)
    assert code is not None
    assert with_code(nested, code)(3) == [10, -1]
    assert not [step for step in dis.get_instructions(code) if "BACKWARD" in step.opname]


@pytest.mark.parametrize("n", [0, 1, 3, 4, 12])
@pytest.mark.parametrize("function", [nested, adds, leaves, counts_down])
def test_written_out_passes_compute_the_same(function: Callable[..., Any], n: int) -> None:
    code = straightened(function.__code__, 13)
    assert code is not None
    assert with_code(function, code)(n) == function(n)
    assert not [step for step in dis.get_instructions(code) if "BACKWARD" in step.opname]
    lines = {line for _, line in dis.findlinestarts(function.__code__)}
    assert {line for _, line in dis.findlinestarts(code)} <= lines


def test_no_more_passes_are_made_than_are_written_out() -> None:
    code = straightened(adds.__code__, 4)
    assert code is not None
    assert with_code(adds, code)(12) == adds(4) == (2, 2)


def test_lines_stay_where_they_are() -> None:
    code = straightened(nested.__code__)
    assert code is not None
    before = {line for _, line in dis.findlinestarts(nested.__code__)}
    assert {line for _, line in dis.findlinestarts(code)} <= before
    assert (code.co_name, code.co_filename, code.co_firstlineno) == (
        "nested",
        nested.__code__.co_filename,
        nested.__code__.co_firstlineno,
    )


def test_private_names_of_a_class_still_resolve() -> None:
    code = straightened(Owner.run.__code__)
    assert code is not None
    assert with_code(Owner.run, code)(Owner(), 3) == [0]


def test_blocks_are_gone_and_what_stands_in_them_is_not() -> None:
    code = straightened(in_blocks.__code__)
    assert code is not None
    assert with_code(in_blocks, code)(3) == in_blocks(3) == (17, 0)
    handled = dis.Bytecode(code).exception_entries
    assert not handled
    lines = {line for _, line in dis.findlinestarts(in_blocks.__code__)}
    assert {line for _, line in dis.findlinestarts(code)} <= lines


def test_what_has_no_block_is_left_alone() -> None:
    assert straightened(straight.__code__) is None


@pytest.mark.parametrize("n", [0, 3, 20])
def test_a_loop_body_on_its_own_computes_the_same(n: int) -> None:
    code = body_apart(adds.__code__, *loop_lines(adds), "RUN")
    assert code is not None
    passes = []

    def run(body: Callable[[], Any]) -> Any:
        passes.append(body.__name__)
        return body()

    assert with_code(adds, code, RUN=run)(n) == adds(n)
    assert passes == ["adds"] * min(n, 9)


def test_a_body_that_returns_can_not_be_moved() -> None:
    assert body_apart(leaves.__code__, *loop_lines(leaves), "RUN") is None


def _as_it_is(function: Any) -> Any:
    return function


@_as_it_is
def _with_a_decorator(rows: list[int]) -> int:
    total = 0
    for row in rows:
        total += row
    return total


def test_a_function_with_a_decorator_is_written_out_as_often_as_asked() -> None:
    """What is written in its place begins below the decorator, where the break's place is not."""
    own = _with_a_decorator.__code__
    place = own.co_filename, own.co_firstlineno, own.co_name
    with _rewritten() as rewrite:
        assert rewrite([place], 2)
        assert _with_a_decorator([1, 2, 4]) == 3
        assert rewrite([place], 1)
        assert _with_a_decorator([1, 2, 4]) == 1
    assert _with_a_decorator.__code__ is own
