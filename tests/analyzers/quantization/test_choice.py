"""The best set above the accuracy floor, its reasons, and how it compares with the published list."""

from __future__ import annotations

import itertools

import pytest

from diffprof.analyzers.quantization.choice import (
    SMALLEST_PART,
    Candidate,
    choose,
    compare_published,
    judged_rows,
    selections,
)
from diffprof.analyzers.quantization.published import published_list
from diffprof.analyzers.quantization.source import Named, Setting
from diffprof.model.recording import Grade, LinearRow, SchemeTiming
from tests.analyzers.quantization.examples import make_row, make_timing


def candidate(name: str, row: int = 0, calls: int = 4, **noise: float) -> Candidate:
    return Candidate(
        component="unet",
        layer=Named(name, 1280, 5120),
        uses={row: calls},
        itemsize=2,
        sqnr_db={key.replace("_", "-"): value for key, value in noise.items()},
    )


def rows(*timings: SchemeTiming) -> list[LinearRow]:
    return [make_row(*timings)]


def test_the_fastest_scheme_above_the_floor_wins() -> None:
    timed = rows(make_timing(40), make_timing(60, scheme="float8-dynamic-row"))
    (gain,) = choose(
        [candidate("a", int8_dynamic=38, float8_dynamic_row=30)], timed, "compiled", 20
    ).schemes.values()
    assert (gain.scheme, gain.us) == ("float8-dynamic-row", 240)
    choice = choose([candidate("a", int8_dynamic=38, float8_dynamic_row=15)], timed, "compiled", 20)
    assert choice.schemes[0].scheme == "int8-dynamic"
    assert not choice.refused


def test_a_sensitive_layer_is_refused_with_its_noise() -> None:
    choice = choose([candidate("a", int8_dynamic=12)], rows(make_timing(40)), "compiled", 20)
    assert not choice.schemes
    assert choice.refused == {0: ("int8-dynamic", 12)}


def test_what_was_not_measured_is_not_chosen() -> None:
    assert not choose([candidate("a")], rows(make_timing(40)), "compiled", 20).schemes


@pytest.mark.parametrize("gain", [-30.0, 0.0, 1.9])
def test_no_clear_gain_no_choice(gain: float) -> None:
    assert not choose([candidate("a", int8_dynamic=40)], rows(make_timing(gain)), "compiled", 20).schemes


def test_only_the_deciding_mode_counts() -> None:
    assert not choose(
        [candidate("a", int8_dynamic=40)], rows(make_timing(40, mode="eager")), "compiled", 20
    ).schemes


def test_a_layer_with_several_shapes_needs_all_of_them_timed_and_a_gain_in_sum() -> None:
    timed = [make_row(make_timing(40)), make_row(make_timing(-50))]
    both = candidate("a", int8_dynamic=40)
    both.uses = {0: 4, 1: 1}
    assert choose([both], timed, "compiled", 20).schemes[0].us == 4 * 40 - 50
    both.uses = {0: 1, 1: 1}
    assert not choose([both], timed, "compiled", 20).schemes
    untimed = [timed[0], make_row()]
    assert not choose([both], untimed, "compiled", 20).schemes


def test_adapters_and_quantized_layers_are_left_alone() -> None:
    for change in ({"adapter": True}, {"quantized": "int8-dynamic"}):
        one = candidate("a", int8_dynamic=40)
        for name, value in change.items():
            setattr(one, name, value)
        assert not choose([one], rows(make_timing(40)), "compiled", 20).schemes


def test_the_choice_is_the_best_of_all_sets() -> None:
    gains = {"int8-dynamic": 40.0, "float8-dynamic-row": -20.0, "int8-weight-only": 5.0}
    timed = [
        make_row(*(make_timing(gain * sign, scheme=key) for key, gain in gains.items()))
        for sign in (1, -1, 0.2)
    ]
    layers = [
        candidate(f"l{n}", row=n, int8_dynamic=40, float8_dynamic_row=40, int8_weight_only=40)
        for n in range(3)
    ]
    choice = choose(layers, timed, "compiled", 20)
    best = max(
        sum(
            0.0 if scheme is None else 4 * (timed[n].timing(scheme, "compiled").gain_us or 0.0)  # type: ignore[union-attr]
            for n, scheme in enumerate(combination)
        )
        for combination in itertools.product([None, *gains], repeat=3)
    )
    assert choice.saves_us == best


def test_a_scheme_that_saves_next_to_nothing_is_not_worth_a_line() -> None:
    timed = rows(make_timing(40))
    layer = candidate("a", int8_dynamic=40)
    enough = 4 * 40 / SMALLEST_PART
    assert choose([layer], timed, "compiled", 20, call_us=enough * 0.99).schemes
    choice = choose([layer], timed, "compiled", 20, call_us=enough * 1.01)
    assert not choice.schemes
    assert choice.small == {0}


def reason(row: LinearRow, *layers: Candidate) -> str:
    choice = choose(layers, [row], "compiled", 20)
    return judged_rows([row], layers, choice, "compiled", published_list(), ["unet"])[0].why


def test_reasons() -> None:
    good, bad = candidate("a", int8_dynamic=40), candidate("b", int8_dynamic=3)
    assert "1.67 times as fast" in reason(make_row(make_timing(40)), good)
    assert "1 of 2 layers left out" in reason(make_row(make_timing(40)), good, bad)
    assert "under the floor" in reason(make_row(make_timing(40)), bad)
    assert "1.30 times slower" in reason(make_row(make_timing(-30)), good)
    assert "no clear gain" in reason(make_row(make_timing(1)), good)
    unavailable = SchemeTiming(
        scheme="int8-dynamic", mode="compiled", grade=Grade.MEASURED, why_not="no units"
    )
    assert "no units" in reason(make_row(unavailable), good)
    assert "not timed" in reason(make_row(timings=None), good)


def test_verdicts_are_true_false_or_unknown() -> None:
    layer = candidate("a", int8_dynamic=40)
    for row, expected in (
        (make_row(make_timing(40)), True),
        (make_row(make_timing(-40)), False),
        (make_row(timings=None), None),
    ):
        choice = choose([layer], [row], "compiled", 20)
        (judged,) = judged_rows([row], [layer], choice, "compiled", published_list(), ["unet"])
        assert judged.worth_it is expected


def test_selections_say_bytes_and_milliseconds() -> None:
    layers = [candidate("a", int8_dynamic=40), candidate("b", int8_dynamic=40)]
    choice = choose(layers, rows(make_timing(40)), "compiled", 20)
    (selection,) = selections(layers, {"unet": [each.layer for each in layers]}, choice, Setting())
    assert selection.modules == ("a", "b")
    assert selection.saves_ms == pytest.approx(0.32)
    assert selection.saves_bytes == 2 * 1280 * 5120
    assert selection.torchao_config is not None
    assert selection.fqn_to_config is not None


@pytest.mark.parametrize(
    ("setting", "adapters", "why"),
    [
        (Setting(fuse_qkv=True), {}, "before the projections can be fused"),
        (Setting(), {"unet": ["x"]}, "before a LoRA can be fused"),
    ],
)
def test_what_diffusers_can_not_say_while_loading(
    setting: Setting, adapters: dict[str, list[str]], why: str
) -> None:
    layers = [candidate("a", int8_dynamic=40)]
    choice = choose(layers, rows(make_timing(40)), "compiled", 20)
    (selection,) = selections(layers, {"unet": [layers[0].layer]}, choice, setting, adapters)
    assert selection.torchao_config is None
    assert why in (selection.no_torchao_config or "")


def test_entries_that_would_leave_out_a_chosen_layer_are_not_offered() -> None:
    chosen, kept = Named("single.norm.linear", 4, 4), Named("norm.linear", 4, 4)
    layer = Candidate("unet", chosen, {0: 4}, 2, sqnr_db={"int8-dynamic": 40})
    choice = choose([layer], rows(make_timing(40)), "compiled", 20)
    (selection,) = selections([layer], {"unet": [chosen, kept]}, choice, Setting())
    assert selection.torchao_config is None
    assert "single.norm.linear" in (selection.no_torchao_config or "")


def test_published_list_as_its_filter_reads() -> None:
    published = published_list()
    assert published.gain == pytest.approx(0.0373, abs=1e-4)
    assert len(published.left_out) == 19
    assert published.quantizes(1280, 10240)
    assert not published.quantizes(640, 5120)
    assert not published.quantizes(16, 4096)
    assert published.quantizes(256, 128, "conv1x1") is False
    assert published.quantizes(320, 128, "conv1x1")
    assert not published.quantizes(320, 640, "conv1x1")
    assert published.verdict(1280, 10240) is True
    assert published.verdict(640, 640) is False
    assert published.verdict(3072, 3072) is None


def test_comparison_counts_shapes_and_time() -> None:
    timed = [make_row(make_timing(40)), make_row(make_timing(-30))]
    agreed = Candidate("unet", Named("a", 1280, 10240), {0: 4}, 2, sqnr_db={"int8-dynamic": 40})
    missed = Candidate("unet", Named("b", 5120, 1280), {1: 4}, 2, sqnr_db={"int8-dynamic": 40})
    extra = Candidate("unet", Named("c", 640, 640), {0: 8}, 2, sqnr_db={"int8-dynamic": 40})
    elsewhere = Candidate("text_encoder", Named("d", 1280, 3840), {0: 8}, 2, sqnr_db={"int8-dynamic": 40})
    layers = [agreed, missed, extra, elsewhere]
    found = compare_published(
        timed, layers, choose(layers, timed, "compiled", 20), "compiled", published_list(), ["unet"]
    )
    assert found is not None
    assert (found.agreed, found.only_ours, found.only_published) == (
        ((1280, 10240),),
        ((640, 640),),
        ((5120, 1280),),
    )
    assert (found.precision, found.recall) == (0.5, 0.5)
    assert (found.precision_by_time, found.recall_by_time) == (pytest.approx(1 / 3), 0.5)
    assert found.saves_ms == pytest.approx(4 * (40 - 30) / 1e3)


def test_no_comparison_where_no_shape_is_known() -> None:
    stranger = Candidate("unet", Named("a", 3072, 3072), {0: 4}, 2)
    timed = rows(make_timing(40))
    choice = choose([stranger], timed, "compiled", 20)
    assert compare_published(timed, [stranger], choice, "compiled", published_list(), ["unet"]) is None
