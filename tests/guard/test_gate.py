"""The gate on diffusers: every pipeline of the corpus, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from diffprof.corpus import CASES
from diffprof.guard.baseline import load_baseline
from diffprof.guard.configuration import load_configuration
from tests.guard.gate.__main__ import text

GATE = Path(__file__).with_name("gate")
CONFIG = GATE / "diffusers.toml"


def test_its_configuration_is_that_of_the_corpus_and_its_baseline_knows_each_target() -> None:
    assert CONFIG.read_text() == text(), "write it anew: python -m tests.guard.gate"
    targets = load_configuration(".", CONFIG).targets
    assert len(targets) == len(CASES)
    known = load_baseline(GATE / "diffusers-baseline.json").targets
    assert set(known) == {f"{name} on sim:a100-80gb" for name in targets}
    assert all(entry.in_loop for entries in known.values() for entry in entries)


@pytest.mark.nightly
def test_nothing_new_waits_in_the_loops_of_diffusers(
    diffprof_run: Callable[..., Result], tmp_path: Path
) -> None:
    result = diffprof_run("check", "--config", CONFIG, "--quiet", "--reports", tmp_path)
    assert result.exit_code == 0, result.stdout[-3000:]
