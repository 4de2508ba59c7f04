from __future__ import annotations

import json
import os
import subprocess
import sys

from click.testing import CliRunner

from diffprof.cli.app import app
from diffprof.gpu.specs import spec_names


def test_gpus_are_listed_with_what_their_times_come_from() -> None:
    result = CliRunner().invoke(app, ["gpus", "--format", "json"])
    assert result.exit_code == 0, result.output
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert set(rows) == set(spec_names())
    assert "matmul.fp8" in rows["h100"]["tables"]
    assert rows["h100-pcie"]["sibling"] == "h100"
    assert rows["rtx4090"]["kernels"] == "none: modelled"
    assert rows["t4"]["tflops"] == "none, none"
    assert all(row["sources"]["peak"] for row in rows.values())


def test_gpus_are_listed_as_text_without_torch() -> None:
    code = (
        "import sys; sys.argv = ['diffprof', 'gpus']; from diffprof.cli import main\n"
        "try: main()\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "140"},
    )
    assert done.returncode == 0, done.stderr
    assert "NVIDIA GeForce RTX 5090" in done.stdout
