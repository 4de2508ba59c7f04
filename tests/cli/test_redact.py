"""Commands print what may be sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffprof.model.report import save_report
from tests.cli.conftest import Run
from tests.model.test_redacting import SOURCE, private


@pytest.mark.parametrize("command", [("show",), ("fix",)])
def test_the_commands(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    save_report(private(), tmp_path / "traces" / "20260102-030405-x")
    sent = run(*command, "--format", "markdown")
    assert sent.exit_code == 0
    assert "alice" not in sent.stdout.replace("alice-data", "")
    hidden = run(*command, "--format", "markdown", "--redact")
    assert hidden.exit_code == 0
    assert "alice" not in hidden.stdout
    assert SOURCE not in hidden.stdout


def test_two_runs_compared(run: Run, tmp_path: Path) -> None:
    for name in ("20260102-030405-a", "20260102-030406-b"):
        save_report(private(), tmp_path / "traces" / name)
    hidden = run("compare", "20260102-030405-a", "20260102-030406-b", "--format", "markdown")
    assert hidden.exit_code == 0
    assert "alice" not in hidden.stdout
