"""Damaged and hostile JSON, made from a good one by a seed: the same every time."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

CANARY = "canary_of_a_mutation"
HOSTILE = (
    f"'\"</script><img src=x onerror={CANARY}()>\x1b]0;{CANARY}\x07\x1b[31m\r\n::error::{CANARY}\n"
    f"```\n| {CANARY} |\n__import__('{CANARY}')\u202e\x00"
)
"""Acts in a page, in a terminal, in a CI log, in a table, in Python, and is the end of a text in C."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 2**70, 1e308, -1e308, 1e-308, 0.5),
    *("", "x", "0", "1e999", HOSTILE, "n" * 5_000, "\ud800", "../" * 40 + "etc/passwd", "/dev/zero", "{0}"),
    *([], {}, [[]], [None], {"": None}, [1] * 3_000, [HOSTILE], {HOSTILE: HOSTILE}),
)


def mutated(text: bytes, seed: int, *, most: int = 4) -> bytes:
    """JSON with up to `most` changes: values, keys and entries replaced, taken out, doubled or moved; one in
    eight is damaged as bytes."""
    chance = random.Random(seed)
    if chance.random() < 1 / 8:
        return damaged(text, chance)
    data = json.loads(text)
    for _ in range(chance.randint(1, most)):
        change(data, chance)
    return json.dumps(data).encode()


def change(data: Any, chance: random.Random) -> None:
    """One change somewhere inside, in place. Every kind of place is as likely, however many it has of."""
    kinds: dict[tuple[Any, ...], list[tuple[Any, Any]]] = {}
    for kind, holder, key in places(data):
        kinds.setdefault(kind, []).append((holder, key))
    holder, key = chance.choice(kinds[chance.choice(sorted(kinds, key=repr))])
    how = chance.random()
    if how < 0.6 or isinstance(holder, tuple):
        holder[key] = like(holder[key], chance)
    elif how < 0.75:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, holder[chance.randrange(len(holder))])
    else:
        holder[chance.choice((HOSTILE, "", "extra"))] = holder.pop(key)


def like(value: Any, chance: random.Random) -> Any:
    """Another value: of any kind, or near this one, which more of the checks let pass."""
    if chance.random() < 0.5:
        return chance.choice(VALUES)
    if isinstance(value, str):
        return chance.choice((HOSTILE, value + HOSTILE, value[: len(value) // 2], value * 50, ""))
    if isinstance(value, bool) or value is None:
        return chance.choice((True, False, None))
    if isinstance(value, int | float):
        return chance.choice((-value, value + 1, value - 1, value * 1_000_003, 0, 10**6, -2, value / 3))
    if isinstance(value, list) and value:
        return chance.choice((value[:-1], value + value, value[::-1], value[:1], []))
    return chance.choice(VALUES)


def places(data: Any, kind: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """(kind of place, holder, key) of everything inside."""
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, item in entries:
        here = (*kind, "*" if isinstance(data, list) else key)
        yield here, data, key
        yield from places(item, here)


def damaged(text: bytes, chance: random.Random) -> bytes:
    """Cut short, or with bytes changed, taken out or put in."""
    how, at = chance.randrange(5), chance.randrange(len(text))
    if how == 0:
        return text[:at]
    if how == 1:
        return text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
    if how == 2:
        return text[:at] + text[at + chance.randrange(1, 200) :]
    if how == 3:
        return text[:at] + b"[" * 100_000 + text[at:]
    return b"\xff\xfe" + text
