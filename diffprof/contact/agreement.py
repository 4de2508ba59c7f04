"""What the stored parts say together: figures of agreement, and the list of what disagreed. No torch."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

NEAR = 0.25
"""A measured figure within this share of the predicted one agrees with it."""

Parts = Mapping[str, Mapping[str, Any]]


def summary(parts: Parts, *, timed: bool) -> dict[str, Any]:
    """figures: by name. disagreements: sentences, each with where to look. timed: whether times were measured
    on a GPU; those of a rehearsal on the CPU are compared with nothing."""
    figures, wrong = dict(_figures(parts)), list(_disagreements(parts))
    if timed:
        figures |= dict(_figures_of_time(parts))
        wrong += _disagreements_of_time(parts)
    return {"figures": figures, "disagreements": wrong}


def data_of(parts: Parts, part: str) -> dict[str, dict[str, Any]]:
    """key -> what was found, of the items of a part that came to their end."""
    items = parts.get(part, {}).get("items", ())
    return {item["key"]: item["data"] for item in items if item["status"] == "ok"}


def _figures(parts: Parts) -> Iterator[tuple[str, Any]]:
    for name, part in parts.items():
        failed = sum(1 for item in part["items"] if item["status"] != "ok")
        yield (
            f"{name}: items done, failed, left out",
            [
                len(part["items"]) - failed,
                failed,
                len(part.get("left_out", ())),
            ],
        )
    pairs = [pair for found in data_of(parts, "waits").values() for pair in compared(found)]
    if pairs:
        same = sum(1 for *_, one, other in pairs if one == other)
        yield "waits: sites and kinds on which simulator and device agree", [same, len(pairs)]


def _figures_of_time(parts: Parts) -> Iterator[tuple[str, object]]:
    for family, ratios in ratios_by_family(parts).items():
        errors = [abs(ratio - 1) for ratio in ratios]
        yield (
            f"kernels, {family}: predicted / measured, median; median error; shapes",
            [
                round(statistics.median(ratios), 3),
                round(statistics.median(errors), 3),
                len(ratios),
            ],
        )
    for key, found in data_of(parts, "ladder").items():
        if not key.startswith("rung"):
            continue
        predicted, measured = (found["seconds"][name] for name in ("predicted", "measured"))
        if predicted and measured:
            yield f"ladder, {key}: predicted / measured", round(predicted / measured, 3)


def compared(found: Mapping[str, Any]) -> list[tuple[str, str, int, int]]:
    """(site, kind, count by the simulator, count on the device) of each site that either saw."""
    one, other = ({(s, k): n for s, k, n in found[name] or ()} for name in ("simulator", "dispatch"))
    return [(*key, one.get(key, 0), other.get(key, 0)) for key in sorted({*one, *other})]


def ratios_by_family(parts: Parts) -> dict[str, list[float]]:
    """family -> predicted / measured of each shape that was measured."""
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    for row in rows(parts):
        if row.get("us") and row.get("predicted_us"):
            ratios[row["family"]].append(row["predicted_us"] / row["us"])
    return dict(sorted(ratios.items()))


def rows(parts: Parts) -> list[dict[str, Any]]:
    """Every single kernel that was tried."""
    return [row for found in data_of(parts, "kernels").values() for row in found.get("rows", ())]


# --- what disagreed ----------------------------------------------------------------------------------------


def _disagreements(parts: Parts) -> Iterator[str]:
    for name, part in parts.items():
        for item in part["items"]:
            if item["status"] != "ok":
                yield f"{name}, {item['key']}: failed: {item['error']}"
    for key, found in data_of(parts, "waits").items():
        yield from _of_waits(key, found)
    for key, found in data_of(parts, "graphs").items():
        told, counted = found["told"], found["counted"]
        again = counted["graphs"] - 1 - counted["breaks"]
        for what, one, other in (
            ("breaks", told["breaks"], counted["breaks"]),
            ("recompiles", told["recompiles"], again),
        ):
            if one != other:
                yield f"graphs, {key}: {one} {what} told, {other} counted"


def _disagreements_of_time(parts: Parts) -> Iterator[str]:
    for key, found in data_of(parts, "ladder").items():
        if key.startswith("rung"):
            yield from _of_pair(f"ladder, {key}", "s", found["seconds"])
    for key, found in data_of(parts, "kernels").items():
        if key.startswith("call"):
            yield from _of_pair(f"kernels, {key}, device time", "ms", found["device_ms"])
    yield from _of_families(parts)
    for found in data_of(parts, "fixes").values():
        if found.get("planned"):
            yield from _of_fix(found)


def _of_waits(key: str, found: Mapping[str, Any]) -> Iterator[str]:
    for site, kind, one, other in compared(found):
        if one != other:
            yield f"waits, {key}: {site} {kind}: {one} by the simulator, {other} on the device"
    if found.get("debug_mode") is None:
        return
    warned = {site: count for site, _, count in found["debug_mode"]}
    told: defaultdict[str, int] = defaultdict(int)
    for site, kind, count in found["dispatch"] or ():
        told[site] += 0 if kind in ("staged-copy", "synchronize") else count
    for site in sorted({*warned, *told}):
        if warned.get(site, 0) != told.get(site, 0):
            seen = f"{told.get(site, 0)} by the dispatcher, {warned.get(site, 0)} warnings"
            yield f"waits, {key}: {site}: {seen} of the sync debug mode"


def _of_pair(what: str, unit: str, pair: Mapping[str, float | None]) -> Iterator[str]:
    predicted, measured = pair["predicted"], pair["measured"]
    if predicted and measured and abs(predicted / measured - 1) > NEAR:
        yield f"{what}: {predicted:.4g} {unit} predicted, {measured:.4g} measured"


def _of_families(parts: Parts) -> Iterator[str]:
    for family, ratios in ratios_by_family(parts).items():
        median = statistics.median(ratios)
        if abs(median - 1) > NEAR:
            yield f"kernels, {family}: predicted {median:.2f} of the measured time (median of {len(ratios)})"


LEAST_MS = 0.02
"""Share of the call under which a saving can't be told from noise."""

LEAST_BYTES = 16 << 20


def _of_fix(fix: Mapping[str, Any]) -> Iterator[str]:
    if fix["status"] != "kept":
        yield f"fixes: {fix['fix']} {fix['status']}: {fix['why']}"
        return
    before, after = fix["before_ms"], fix["after_ms"]
    if fix["promised_ms"] and before and after:
        room = max(NEAR * fix["promised_ms"], LEAST_MS * before)
        if abs(before - after - fix["promised_ms"]) > room:
            yield f"fixes: {fix['fix']} promised {fix['promised_ms']:.3g} ms, saved {before - after:.3g}"
    held, left = fix["before_bytes"], fix["after_bytes"]
    if fix["promised_bytes"] and held and left:
        room = max(NEAR * fix["promised_bytes"], LEAST_BYTES)
        if abs(held - left - fix["promised_bytes"]) > room:
            mib = [value / 2**20 for value in (fix["promised_bytes"], held - left)]
            yield f"fixes: {fix['fix']} promised {mib[0]:.0f} MiB, saved {mib[1]:.0f}"
