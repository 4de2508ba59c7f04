"""`diffprof compare`: exit status, formats, runs by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from diffprof.judge.judging import make_report
from diffprof.model.report import save_report
from tests import builders


def runs(folder: Path) -> None:
    """Two runs: one that reads a value in every step, one that does not."""
    reads = make_report(builders.make_recording(builders.make_sync()))
    save_report(reads, folder / "traces" / "20260102-030405-reads")
    save_report(make_report(builders.make_recording()), folder / "traces" / "20260102-030406-clean")


def test_better_and_worse(run, tmp_path):
    runs(tmp_path)
    better = run("compare", "reads", "clean", "--fail-on-regression")
    assert (better.exit_code, better.stderr) == (0, "")
    assert "Better: blocking operations per step 1 -> 0, 1 finding gone." in better.stdout
    worse = run("compare", "clean", "reads", "--fail-on-regression", "--format", "json")
    assert worse.exit_code == 1
    assert "regression: blocking operations in the loop: 0 per step -> 1 per step" in worse.stderr
    assert [f["rule"] for f in json.loads(worse.stdout)["appeared"]] == ["SYN001"]
    assert run("compare", "clean", "reads").exit_code == 0


def test_an_unknown_run_is_refused(run, tmp_path):
    runs(tmp_path)
    result = run("compare", "reads", "nope")
    assert result.exit_code == 2
    assert "There is no run 'nope'" in result.stderr


def test_comparing_and_planning_start_without_torch(tmp_path):
    runs(tmp_path)
    code = (
        "import sys\nfrom diffprof.cli.app import app\n"
        "for args in (['compare', 'reads', 'clean'], ['fix', 'reads'], ['fix', '--help']):\n"
        "    try:\n        app(args)\n    except SystemExit as end:\n        assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
