"""What `diffprof init` writes: the section of pyproject.toml, and a workflow for GitHub."""

from __future__ import annotations

import json
from collections.abc import Sequence

from diffprof.guard.finding_targets import FoundTarget

WORKFLOW_FILE = ".github/workflows/diffprof.yml"


def section(targets: Sequence[FoundTarget]) -> str:
    """`[tool.diffprof]` with these targets."""
    lines = [
        "[tool.diffprof]",
        'device = "sim:a100-80gb"  # needs no GPU; `diffprof gpus` lists more',
        'fail-on = "in-loop"  # waits in the denoising loop; or rules, such as "SYN,GRB"',
        'baseline-file = "diffprof-baseline.json"  # what is known: `diffprof check --update` writes it',
        '# allow = [{rule = "SYN001", file = "app.py", function = "decode", reason = "why"}]',
    ]
    for each in targets:
        lines += ["", f"[tool.diffprof.targets.{_key(each.name)}]", f"target = {json.dumps(each.spec)}"]
    if not targets:
        lines += ["", "# [tool.diffprof.targets.sdxl]", '# target = "app.py:make_pipe"']
    return "\n".join([*lines, ""])


def _key(name: str) -> str:
    bare = name.replace("-", "").replace("_", "")
    return name if bare.isascii() and bare.isalnum() else json.dumps(name)


WORKFLOW = """\
name: diffprof
on:
  pull_request:
permissions:
  contents: read
  pull-requests: write
  security-events: write
jobs:
  check:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
        with:
          fetch-depth: 0
      - uses: actions/setup-python@v5
        with:
          python-version: "3.11"
      - run: pip install torch --index-url https://download.pytorch.org/whl/cpu
      - run: pip install -e . diffprof
      - run: diffprof check --against "origin/$GITHUB_BASE_REF" --format github
"""
