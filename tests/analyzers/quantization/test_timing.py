"""Rounds, spreads, ties, slices and the budget, by a clock that only fake layers move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.analyzers.quantization import bench as bench_module
from diffprof.analyzers.quantization.bench import Bench
from diffprof.analyzers.quantization.cache import TimingCache, machine
from diffprof.analyzers.quantization.inventory import Inventory, Key, Layer
from diffprof.analyzers.quantization.layers import Unavailable, quantized_copy
from diffprof.analyzers.quantization.schemes import ORIGINAL, SCHEMES
from diffprof.analyzers.quantization.timing import (
    Budget,
    Patience,
    SchemeTimings,
    clear_gain,
    clear_loss,
    compare,
    near_tie,
    spread,
)
from diffprof.devices.stopwatches import HostRunner
from diffprof.model.recording import SchemeTiming
from tests.analyzers.quantization.fakes import Ticks, builder

INT8 = SCHEMES["int8-dynamic"]
WEIGHT_ONLY = SCHEMES["int8-weight-only"]


def key(m: int = 8, k: int = 4, n: int = 6) -> Key:
    return Key(m=m, in_features=k, out_features=n, dtype="float32", bias=True, kind="linear")


def inventory(*keys: Key) -> Inventory:
    layers = []
    for number, each in enumerate(keys):
        layer = Layer(
            "unet",
            f"l{number}",
            torch.nn.Linear(1, 1),
            each.in_features,
            each.out_features,
            "linear",
            False,
            None,
        )
        layer.uses[each] = 1
        layers.append(layer)
    return Inventory(layers, counts=Counter(keys))


def bench(ticks: Ticks, price: Callable[..., float | None], seconds: float = 1.0, **more: Any) -> Bench:
    return Bench(
        device=torch.device("cpu"),
        runner=ticks,
        budget=Budget(seconds, ticks.seconds),
        schemes=more.pop("schemes", (INT8, WEIGHT_ONLY)),
        build=builder(ticks, price),
        **more,
    )


def timed(*durations: float, original: float = 100.0) -> SchemeTiming:
    times = {ORIGINAL: [original] * len(durations), "int8-dynamic": list(durations)}
    return SchemeTimings(times).timing("int8-dynamic", "eager")


def test_median_and_spread_of_rounds() -> None:
    timing = timed(50, 60, 70, 80, 500)
    assert (timing.median_us, timing.gain_us, timing.rounds) == (70, 30, 5)
    assert timing.spread_us == 10
    assert timing.speedup == pytest.approx(100 / 70)


def test_spread_of_few_values_is_half_their_range() -> None:
    assert spread([3.0, 7.0]) == 2.0
    assert spread([5.0]) == 0.0


@pytest.mark.parametrize(
    ("durations", "gain", "loss"),
    [((90, 91, 92, 90, 91), True, False), ((110, 111, 110, 112, 111), False, True)],
)
def test_a_difference_beyond_its_spread_is_clear(
    durations: tuple[float, ...], gain: bool, loss: bool
) -> None:
    assert clear_gain(timed(*durations)) is gain
    assert clear_loss(timed(*durations)) is loss


def test_a_difference_within_its_spread_is_neither() -> None:
    timing = timed(70, 130, 98, 60, 140)
    assert not clear_gain(timing)
    assert not clear_loss(timing)
    assert near_tie(timing, 2.0)


def test_every_other_round_runs_backwards() -> None:
    order: list[str] = []
    works = {name: lambda name=name: order.append(name) for name in (ORIGINAL, "a", "b")}
    compare(works, Ticks(), Patience(least=9), rounds=2)
    assert order == [ORIGINAL, "a", "b", "b", "a", ORIGINAL]


def test_a_hopeless_scheme_is_dropped_and_the_others_go_on() -> None:
    ticks = Ticks()
    found = bench(ticks, lambda layer, scheme: 1000.0 if scheme is INT8 else 50.0).time_all(
        inventory(key()), ["eager"]
    )[key()]
    rounds = {timing.scheme: timing.rounds for timing in found}
    assert rounds == {"int8-dynamic": Patience().sure, "int8-weight-only": Patience().least}


def test_what_is_not_settled_is_timed_longer() -> None:
    durations = iter([100.0, 60.0, 90.0, 100.0] * 20)

    class Restless:
        def microseconds(self, work: Any) -> float:
            return next(durations)

    works = {ORIGINAL: lambda: None, "int8-dynamic": lambda: None}
    result = compare(works, Restless(), Patience(), rounds=Patience().most)
    assert len(result.times[ORIGINAL]) == Patience().most


def test_a_slice_settles_what_loses_even_on_few_rows() -> None:
    ticks = Ticks()
    (timing,) = bench(ticks, lambda *_: 2000.0, schemes=(INT8,)).time_all(inventory(key(m=1024)), ["eager"])[
        key(m=1024)
    ]
    assert timing.rows == 1024 // Patience().slices
    assert clear_loss(timing)
    assert timing.speedup == pytest.approx(0.05)


def test_a_near_tie_is_timed_again_with_more_rounds() -> None:
    ticks = Ticks()
    calls = 0

    def price(*_: Any) -> float:
        return 0.0

    class Noisy:
        def microseconds(self, work: Any) -> float:
            nonlocal calls
            calls += 1
            ticks.now += 100
            return 100.0 + 30 * ((calls * 7) % 5)

    one = bench(ticks, price, schemes=(INT8,))
    one.runner = Noisy()
    (timing,) = one.time_all(inventory(key()), ["eager"])[key()]
    assert timing.rounds == Patience().again


def test_the_budget_goes_to_the_largest_share_and_says_what_is_left_out() -> None:
    large, small = key(m=64, k=64), key(m=2)
    found = bench(Ticks(), lambda *_: 400.0, seconds=0.001).time_all(inventory(small, large), ["eager"])
    assert list(found) == [large]
    again = bench(Ticks(), lambda *_: 400.0, seconds=0.001)
    again.time_all(inventory(small, large), ["eager"])
    assert again.left_out == ["M=2 K=4 N=6 float32"]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (NotImplementedError("aten::_int_mm"), "NotImplementedError: aten::_int_mm"),
        (Unavailable("needs a newer GPU"), "needs a newer GPU"),
    ],
)
def test_a_scheme_that_fails_is_not_available_and_the_rest_goes_on(error: Exception, why: str) -> None:
    ticks = Ticks()
    working = builder(ticks, lambda *_: 50.0)

    def build(layer: Any, scheme: Any) -> Any:
        if scheme is INT8:
            raise error
        return working(layer, scheme)

    one = bench(ticks, lambda *_: 50.0)
    one.build = build
    failed, fine = one.time_all(inventory(key()), ["eager"])[key()]
    assert (failed.why_not, failed.median_us) == (why, None)
    assert fine.median_us == 50.0


def test_a_result_that_is_no_number_is_not_available() -> None:
    ticks = Ticks()
    one = bench(ticks, lambda *_: 50.0, schemes=(INT8,))
    one.build = lambda layer, scheme: lambda given: torch.full((1,), float("nan"))  # type: ignore[assignment]
    (timing,) = one.time_all(inventory(key()), ["eager"])[key()]
    assert "not finite" in (timing.why_not or "")


def test_compiling_needs_time_for_it() -> None:
    one = bench(Ticks(), lambda *_: 50.0, seconds=1.0, compiler=lambda module: module)
    one.time_all(inventory(key()), ["eager", "compiled"])
    assert one.left_out == ["M=8 K=4 N=6 float32 compiled"]


@pytest.mark.parametrize(
    ("each_s", "timed"),
    [(30.0, 1), (0.5, 4)],
    ids=["slow compiles use the budget up", "those that were seen to be quick do not"],
)
def test_off_the_cpu_compiling_takes_its_part_of_the_budget(
    monkeypatch: pytest.MonkeyPatch, each_s: float, timed: int
) -> None:
    for name in ("new_layer", "new_input"):
        here = partial(getattr(bench_module, name))
        monkeypatch.setattr(bench_module, name, lambda *a, here=here, **k: here(*a, **{**k, "device": "cpu"}))
    ticks = Ticks()

    def compiler(module: Any) -> Any:
        left = [each_s * 1e6]

        def call(given: torch.Tensor) -> Any:
            ticks.now += left.pop() if left else 0.0
            return module(given)

        return call

    one = bench(ticks, lambda *_: 50.0, seconds=100.0, compiler=compiler)
    one.device = torch.device("cuda")
    keys = [key(m=8 * number) for number in range(1, 5)]
    found = one.time_all(inventory(*keys), ["compiled"])
    assert len(found) == timed
    assert len(one.left_out) == len(keys) - timed
    assert all(words.endswith(" compiled") for words in one.left_out)


def test_what_was_hopeless_eager_is_not_compiled_on_a_cpu() -> None:
    compiled: list[Any] = []
    ticks = Ticks()
    one = bench(
        ticks,
        lambda layer, scheme: 900.0 if scheme is INT8 else 50.0,
        seconds=1000.0,
        compiler=lambda module: compiled.append(module) or module,
    )
    found = one.time_all(inventory(key()), ["eager", "compiled"])[key()]
    assert {t.scheme for t in found if t.mode == "compiled"} == {"int8-weight-only"}
    assert len(compiled) == 2


def test_a_second_scan_reads_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "quantization.json"
    first = Ticks()
    before = bench(first, lambda *_: 50.0, cache=TimingCache(path, "here")).time_all(
        inventory(key()), ["eager"]
    )
    second = Ticks()
    after = bench(second, lambda *_: 999.0, cache=TimingCache(path, "here")).time_all(
        inventory(key()), ["eager"]
    )
    assert (first.runs > 0, second.runs) == (True, 0)
    assert [t.median_us for t in after[key()]] == [t.median_us for t in before[key()]]
    assert all(t.cached for t in after[key()])
    third = Ticks()
    bench(third, lambda *_: 50.0, cache=TimingCache(path, "elsewhere")).time_all(inventory(key()), ["eager"])
    assert third.runs > 0


def test_a_damaged_cache_counts_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "quantization.json"
    path.write_text('{"here/linear": [1, 2')
    assert TimingCache(path, "here").get(key(), "int8-dynamic", "eager") is None
    path.write_text("[]")
    assert TimingCache(path, "here").get(key(), "int8-dynamic", "eager") is None


def test_the_cache_knows_device_threads_and_versions() -> None:
    assert machine("a", {"threads": 1}) != machine("a", {"threads": 2}) != machine("b", {"threads": 2})


def test_host_runner_reads_its_clock() -> None:
    moments = iter([1.0, 1.5])
    assert HostRunner(lambda: next(moments), cache_bytes=64).microseconds(lambda: None) == 5e5


def test_the_library_s_quantization_leaves_the_layer_and_inductor_alone() -> None:
    import torch._inductor.config as inductor

    precision = torch.get_float32_matmul_precision()
    everything = inductor.save_config_portable()
    layer = torch.nn.Linear(32, 16)
    weight = layer.weight
    for scheme in SCHEMES.values():
        try:
            quantized_copy(layer, scheme)
        except Unavailable:
            continue
    assert layer.weight is weight
    assert everything == inductor.save_config_portable()
    assert precision == torch.get_float32_matmul_precision()
