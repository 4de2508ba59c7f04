"""Hosts: a sheet a machine, apart from the GPU's."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffprof.gpu import this_host as measuring
from diffprof.gpu.cost import CostModel
from diffprof.gpu.hosts import DEFAULT, THIS, chosen_host, host_names, load_host, on_host
from diffprof.gpu.mode import Mode
from diffprof.gpu.specs import load_spec
from diffprof.gpu.timeline_builder import TimelineBuilder
from diffprof.model.errors import UsageError
from tests.devices.simulated.signatures import add

CLOUD = load_host()


def host_time(gpu: str) -> float:
    builder = TimelineBuilder(CostModel(load_spec(gpu), Mode()))
    builder.op(add(8), "unet.a")
    return sum(builder.finish().host_us)


def test_named_hosts_have_sources() -> None:
    assert DEFAULT in host_names()
    for name in host_names():
        host = load_host(name)
        assert host.source
        assert 0 < host.op_us < host.module_us < 1000


def test_an_unknown_host_names_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        load_host("laptop")
    assert "desktop" in caught.value.hint
    assert THIS in caught.value.hint


def test_gpus_are_compared_on_one_host() -> None:
    assert host_time("l4") == host_time("a100-80gb") == CLOUD.op_us + 2 * CLOUD.module_us


def test_a_chosen_host_holds_while_it_is_chosen() -> None:
    before = host_time("h100")
    with on_host("desktop"):
        assert chosen_host().key == "desktop"
        assert host_time("h100") < before / 2
        with on_host(None):
            assert chosen_host().key == "desktop"
    assert chosen_host() == CLOUD
    with pytest.raises(UsageError), on_host("nowhere"):
        pass


def test_this_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measured(seconds: float) -> float:
        asked.append(seconds)
        return 7.5

    monkeypatch.setattr(measuring, "measured_op_us", measured)
    file = tmp_path / "new" / "hosts.json"
    first, second = (measuring.this_host(store=file) for _ in range(2))
    assert first == second
    assert (first.key, first.op_us, first.module_us) == (THIS, 7.5, 15.0)
    assert asked == [measuring.SECONDS]
    file.write_text("damaged", encoding="utf-8")
    assert measuring.this_host(store=file).op_us == 7.5
    assert len(asked) == 2


def test_the_fastest_call_counts() -> None:
    ticks = iter([0.0, 1.0, 3.0, 4.0, 5.0, 5.5, 10.0])  # end at 3; calls of 2 and 0.5 s

    def clock() -> float:
        return next(ticks)

    assert measuring._fastest(lambda: None, 4.5, clock) == 0.5


def test_a_narrow_unet_is_mostly_calls() -> None:
    model, inputs = measuring._narrow_unet()
    units = measuring._units(model, inputs)
    modules = sum(1 for _ in model.modules())
    assert units > modules
    assert 0.5 < measuring.measured_op_us(0.05) < 500
