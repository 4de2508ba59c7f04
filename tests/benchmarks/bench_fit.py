"""CPU seconds that `diffprof fit` takes beyond imports, by target and device, each in a fresh process; with
--check also what became of the code of the recipes of the frontier, with --all of all that fit.

    python -m tests.benchmarks.bench_fit h100 t4 [--targets flux sdxl] [--check [--all]]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from typing import Any


class Imports:
    """CPU seconds in modules' own code while they are imported."""

    seconds = 0.0
    _depth = 0

    def __init__(self) -> None:
        run = SourceFileLoader.exec_module

        def timed(loader: SourceFileLoader, module: Any) -> None:
            begun, self._depth = time.process_time(), self._depth + 1
            try:
                run(loader, module)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.process_time() - begun

        SourceFileLoader.exec_module = timed  # type: ignore[method-assign,assignment]


def one(target: str, device: str, check: bool, every: bool) -> dict[str, Any]:
    """Of this process. Making the small copy and checking on it is not in its seconds."""
    imports = Imports()
    from diffprof.scanning import fitting
    from diffprof.tuning.fit_checks import Checks
    from diffprof.views.fits import check_words

    def clock() -> float:
        return time.process_time() - imports.seconds

    def timed_twin(call: Any) -> Any:
        begun = clock()
        made = twin(call)
        twins.append(clock() - begun)
        return made

    stages: list[tuple[str, float]] = []
    twins: list[float] = []
    twin, begun = fitting._twin, clock()
    fitting._twin = timed_twin
    found = fitting.fit(
        target,
        device=device,
        check=Checks if check else None,
        every=every,
        on_stage=lambda stage: stages.append((stage, clock())),
    )
    small = sum(twins)
    ended = next((at for stage, at in stages if stage == "making a small copy"), clock())
    checks = [(row.words, row.check) for row in found.rows if row.check is not None]
    return {
        "target": target,
        "device": device,
        "seconds": ended - begun - small,
        "checking": clock() - ended + small,
        "fits": sum(row.fits for row in found.rows),
        "checked": sum(made.status == "checked" for _, made in checks),
        "others": [f"{words}: {check_words(made)}" for words, made in checks if made.status != "checked"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("devices", nargs="+")
    parser.add_argument("--targets", nargs="+")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--all", action="store_true", help="not only what is on the frontier")
    parser.add_argument("--one", action="store_true", help="in this process, as JSON")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one(asked.targets[0], asked.devices[0], asked.check, asked.all)))
        return
    from diffprof.targets import builtin_targets

    more = [f"--{name}" for name in ("check", "all") if getattr(asked, name)]
    rows = []
    for target in asked.targets or [info.name for info in builtin_targets()]:
        for device in asked.devices:
            command = [sys.executable, "-m", __spec__.name, device, "--targets", target, "--one", *more]
            ran = subprocess.run(command, capture_output=True, text=True)
            if ran.returncode:
                print(f"{target} on {device} failed:\n{ran.stderr}", flush=True)
                continue
            rows.append(json.loads(ran.stdout.splitlines()[-1]))
            print(_line(rows[-1]), file=sys.stderr, flush=True)
    for row in sorted(rows, key=lambda row: -row["seconds"]):
        print(_line(row))


def _line(row: dict[str, Any]) -> str:
    line = f"{row['seconds']:6.1f} s  {row['target']:20} {row['device']:10} {row['fits']:3} recipes fit"
    if row["checking"]:
        line += f", {row['checked']} checked in {row['checking']:.0f} s"
    return "\n          ".join([line, *row["others"]])


if __name__ == "__main__":
    main()
