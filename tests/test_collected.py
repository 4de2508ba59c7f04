"""Each worker of the README's test command collects the same tests in the same order, whatever its hashes and
the second in which it begins: `python -m tests.test_collected 10` tries ten."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COLLECT = (sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "-p", "no:xdist")


def collecting(seed: int, root: Path = ROOT) -> subprocess.Popen[str]:
    """A process that prints the ids of all tests, slow ones too."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(COLLECT, cwd=root, env=environment, stdout=subprocess.PIPE, text=True)


def collected(count: int, *, apart: float = 1.1, root: Path = ROOT) -> list[list[str]]:
    """The ids that so many processes collect, begun in different seconds."""
    begun = []
    for seed in range(1, count + 1):
        begun.append(collecting(seed, root))
        time.sleep(apart)
    return [[line for line in each.communicate()[0].splitlines() if "::" in line] for each in begun]


@pytest.mark.nightly
def test_every_worker_collects_the_same_tests_in_the_same_order() -> None:
    first, *others = collected(4)
    assert len(first) > 1000
    assert all(each == first for each in others)


VALUES = {
    "second": "[gzip.compress(b'x')]",
    "no_second": "[gzip.compress(b'x', mtime=0)]",
    "hashes": "set('abcdefgh')",
    "no_hashes": "sorted(set('abcdefgh'))",
}


@pytest.mark.slow
def test_ids_that_differ_between_workers_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which import much, and order nothing
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -q\n")
    tests = (
        f"@pytest.mark.parametrize('value', {values})\ndef test_{name}(value): pass\n"
        for name, values in VALUES.items()
    )
    (tmp_path / "test_a.py").write_text("import gzip, pytest\n" + "\n".join(tests))

    def of(ids: list[str], name: str) -> list[str]:
        return [each for each in ids if f"::test_{name}[" in each]

    one, other = collected(2, root=tmp_path)
    assert len(one) == len(other) == 18
    assert {name for name in VALUES if of(one, name) != of(other, name)} == {"second", "hashes"}


if __name__ == "__main__":
    first, *others = collected(int(sys.argv[1]))
    for number, each in enumerate(others, 2):
        print(
            f"{number}: {len(each)} of {len(first)}, {sorted(set(first) ^ set(each))[:10] or each == first}"
        )
    sys.exit(not all(each == first for each in others))
