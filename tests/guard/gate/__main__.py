"""Write the configuration of the gate: a target for each case of the corpus."""

from __future__ import annotations

from pathlib import Path

from diffprof.corpus.targets import names

HEAD = """\
[tool.diffprof]
device = "sim:a100-80gb"
analyzers = ["syncs"]
fail-on = "in-loop"
baseline-file = "tests/guard/gate/diffusers-baseline.json"
"""


def text() -> str:
    """The file."""
    targets = [
        f'\n[tool.diffprof.targets.{name}]\ntarget = "diffprof/corpus/targets.py:{name}"\n'
        for name in names()
    ]
    return "".join([HEAD, *targets])


if __name__ == "__main__":
    Path(__file__).with_name("diffusers.toml").write_text(text(), encoding="utf-8")
