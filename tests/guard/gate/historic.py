"""Five pull requests of diffusers took waits out. Each is taken back, as if somebody brought the wait in
again, and the gate is asked.

    python -m tests.guard.gate.historic CLONE [NUMBER...]

CLONE is a clone of github.com/huggingface/diffusers; its files are changed, and set back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]


class Change(NamedTuple):
    """A merged pull request, and the case of the corpus whose code it changed. on: the revision on which it
    is taken back; where its lines have changed since, one before that."""

    number: int
    commit: str
    target: str
    on: str = "HEAD"


CHANGES = (
    Change(11696, "b272807bc8", "flux"),
    Change(11818, "21543de571", "flux_kontext"),
    Change(12072, "fa4c0e5e2e", "qwen_image", on="dad5cb55e6^"),
    Change(12702, "dad5cb55e6", "qwen_image", on="dad5cb55e6"),
    Change(13461, "71a6fd9f0d", "z_image"),
)


def git(clone: Path, *args: str) -> None:
    who = ("-c", "user.name=gate", "-c", "user.email=gate@localhost")
    subprocess.run(["git", *who, *args], cwd=clone, check=True, capture_output=True)


def caught(clone: Path, change: Change, scratch: Path) -> list[str]:
    """What the check says is new once the change is taken back, a line each."""
    config = scratch / "pyproject.toml"
    target = json.dumps(f"{ROOT}/diffprof/corpus/targets.py:{change.target}")
    config.write_text(
        '[tool.diffprof]\ndevice = "sim:a100-80gb"\nanalyzers = ["syncs"]\nfail-on = "SYN"\n'
        f"[tool.diffprof.targets.{change.target}]\ntarget = {target}\n"
    )
    before = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=clone, check=True, capture_output=True, text=True
    ).stdout.strip()
    take_back = ("revert", "--no-edit", "-X", "theirs")
    try:
        git(clone, "checkout", "--detach", change.on)
        git(clone, *take_back, "--no-commit", change.commit)
        command = [sys.executable, "-m", "diffprof", "check", "--config", str(config), "--against", "HEAD"]
        command += ["--quiet", "--reports", str(scratch / "reports"), "--format", "concise"]
        paths = os.pathsep.join([str(clone / "src"), str(ROOT)])
        env = {**os.environ, "PYTHONPATH": paths}
        done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True)
    finally:
        git(clone, "reset", "--hard")
        git(clone, "checkout", "--detach", before)
    return done.stdout.splitlines() or done.stderr.splitlines()[-3:]


def main(clone: str, *numbers: str) -> None:
    for change in CHANGES:
        if numbers and str(change.number) not in numbers:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            print(f"#{change.number} taken back, {change.target}:")
            for line in caught(Path(clone), change, Path(scratch)):
                print(f"  {line[:150]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
