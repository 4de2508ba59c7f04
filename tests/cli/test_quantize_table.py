"""`diffprof quantize-table`: its options reach the library, its forms reach stdout."""

from __future__ import annotations

import json
import sys
import types
from typing import Any

import pytest

from diffprof.judge.judging import make_report
from diffprof.model.errors import UsageError
from tests.analyzers.quantization.examples import BAD
from tests.cli.conftest import Run


class FakeQuantizing(types.ModuleType):
    """Stands in for `diffprof.scanning.quantizing`, which needs torch."""

    def __init__(self) -> None:
        super().__init__("diffprof.scanning.quantizing")
        self.called: dict[str, Any] = {}
        self.error: Exception | None = None

    def quantization_report(self, spec: str, **options: Any) -> Any:
        self.called = {"spec": spec, **options}
        if self.error:
            raise self.error
        print("a library talks")
        return make_report(BAD["QNT001"])


@pytest.fixture
def quantizing(monkeypatch: pytest.MonkeyPatch) -> FakeQuantizing:
    fake = FakeQuantizing()
    monkeypatch.setitem(sys.modules, "diffprof.scanning.quantizing", fake)
    targets = types.ModuleType("diffprof.targets")
    targets.Options = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "diffprof.targets", targets)
    return fake


def test_options_reach_the_library(run: Run, quantizing: FakeQuantizing) -> None:
    result = run(
        *("quantize-table", "sdxl", "--device", "sim:h100", "--fuse-qkv", "--eager", "--budget", "30"),
        *("--min-sqnr", "25", "--no-cache", "--schemes", "int8-dynamic", "--steps", "4"),
    )
    assert result.exit_code == 0, result.output
    called = quantizing.called
    assert (called["spec"], called["device"]) == ("sdxl", "sim:h100")
    assert (called["budget_s"], called["min_sqnr"], called["cache"]) == (30.0, 25.0, False)
    assert called["settings"] == {"fuse_qkv": True, "compile": False, "schemes": "int8-dynamic"}
    assert called["options"]["steps"] == 4


def test_defaults_are_the_library_s(run: Run, quantizing: FakeQuantizing) -> None:
    run("quantize-table", "sdxl")
    called = quantizing.called
    assert (called["budget_s"], called["min_sqnr"], called["cache"]) == (120.0, None, True)
    assert called["settings"] == {"fuse_qkv": False, "compile": None, "schemes": None}


def test_stdout_is_data(run: Run, quantizing: FakeQuantizing) -> None:
    result = run("quantize-table", "sdxl", "--format", "json")
    (shape,) = json.loads(result.stdout)["shapes"]
    assert shape["worth_it"] is True
    assert "a library talks" in result.stderr


def test_errors_have_a_next_step(run: Run, quantizing: FakeQuantizing) -> None:
    quantizing.error = UsageError("It is quantized already.", "Build it again.")
    result = run("quantize-table", "sdxl")
    assert result.exit_code == 2
    assert "Build it again." in result.stderr


@pytest.mark.parametrize("bad", [("--budget", "0"), ("--format", "xml"), ("--min-sqnr", "much")])
def test_bad_options_are_refused(run: Run, quantizing: FakeQuantizing, bad: tuple[str, str]) -> None:
    assert run("quantize-table", "sdxl", *bad).exit_code == 2
    assert not quantizing.called
