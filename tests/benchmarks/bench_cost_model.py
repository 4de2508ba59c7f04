"""Hold the cost model against ladders that its constants were not fitted to.

    python tests/benchmarks/bench_cost_model.py [--fits NAME ...] [--evaluations N]

The constants that no measurement gives ([FIT] in diffprof/gpu/efficiency.py) are fitted again,
from the middle of what is physically plausible and not from their present values, to the published times of
some of the three ladders, and the errors on the others are printed. Then: how well 18 times determine them.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from diffprof.devices import resolve_device
from diffprof.gpu.efficiency import EFFICIENCY, Efficiency
from diffprof.targets import Options, resolve
from diffprof.targets.baseline import RUNGS, tf32_matmuls
from diffprof.tuning.ladder import published
from diffprof.tuning.ladder.predicted import Predictions

PLAUSIBLE = {
    "prologue_k": (16, 512),
    "gemm_memory": (0.5, 0.95),
    "conv": (0.5, 1.0),
    "int8": (0.5, 1.0),
    "int8_prologue_k": (64, 2000),
    "attention_large_head": (0.1, 0.6),
    "attention_fp32": (0.3, 1.0),
    "stream_narrow": (0.4, 0.95),
    "triton": (0.5, 0.95),
    "layout": (0.2, 0.9),
    "copy": (0.3, 0.9),
    "norm": (0.3, 0.95),
    "softmax_elements_per_us_sm": (500, 4000),
}
"""Constant -> lowest and highest value that the hardware and the kernels allow."""

PRIOR = 0.01
"""Weight of staying in the middle, where nothing pulls a constant: half of its range costs as much as an
error of 0.5 % in one time. Without it six times do not determine thirteen constants."""

NOISE = 0.02
"""Error of one published time, or of the model's form, under which a constant counts as determined."""

LADDERS = ("sdxl", "ssd-1b", "sd15")
FITS = {
    "sdxl alone": ("sdxl",),
    "ssd-1b alone": ("ssd-1b",),
    "sd15 alone": ("sd15",),
    "all but sdxl": ("ssd-1b", "sd15"),
    "all but ssd-1b": ("sdxl", "sd15"),
    "all but sd15": ("sdxl", "ssd-1b"),
    "all three": LADDERS,
}


class Model:
    """Predicted times of the ladders for any constants. A point is an array over PLAUSIBLE, 0 to 1 each,
    on a logarithmic scale."""

    def __init__(self) -> None:
        conditions, self.published = published()
        device = resolve_device(f"sim:{conditions['gpu']}")
        self.runs = {}
        for name in LADDERS:
            options = Options(steps=conditions["steps"], scheduler=self.published[name].scheduler)
            self.runs[name] = Predictions(resolve(name), device, options)
        self.evaluations = 0

    def errors(self, name: str, rates: Efficiency) -> Any:
        """Logarithm of predicted / published of each rung."""
        self.evaluations += 1
        figures = self.published[name].seconds
        with tf32_matmuls():
            times = [self.runs[name].seconds(rung, rates) / figures[rung.name] for rung in RUNGS]
        return np.log(times)

    def fit(self, names: tuple[str, ...], evaluations: int) -> Any:
        """The best point for these ladders."""

        def residuals(point: Any) -> Any:
            found = [self.errors(name, constants(point)) for name in names]
            return np.concatenate([*found, PRIOR * (point - 0.5)])

        middle = np.full(len(PLAUSIBLE), 0.5)
        return least_squares(
            residuals, middle, bounds=(0.0, 1.0), diff_step=0.01, max_nfev=evaluations, xtol=1e-3, ftol=1e-3
        ).x

    def slopes(self, point: Any) -> Any:
        """How the errors of all ladders change with each constant: (times, constants)."""
        base = np.concatenate([self.errors(name, constants(point)) for name in LADDERS])
        columns = []
        for index in range(len(point)):
            step = -0.02 if point[index] > 0.5 else 0.02
            moved = point.copy()
            moved[index] += step
            there = np.concatenate([self.errors(name, constants(moved)) for name in LADDERS])
            columns.append((there - base) / step)
        return np.stack(columns, axis=1)


def constants(point: Any) -> Efficiency:
    changed = {
        name: low * (high / low) ** float(at)
        for at, (name, (low, high)) in zip(point, PLAUSIBLE.items(), strict=True)
    }
    return replace(EFFICIENCY, **changed)


def point_of(rates: Efficiency) -> Any:
    return np.array(
        [
            math.log(getattr(rates, name) / low) / math.log(high / low)
            for name, (low, high) in PLAUSIBLE.items()
        ]
    )


def print_errors(title: str, fitted_on: tuple[str, ...], model: Model, rates: Efficiency) -> None:
    """One line a ladder: the error of each rung, the mean of their sizes and the largest."""
    for name in LADDERS:
        errors = np.expm1(model.errors(name, rates))
        kind = "fit" if name in fitted_on else "HELD OUT"
        rungs = " | ".join(f"{error:+.1%}" for error in errors)
        sizes = np.abs(errors)
        print(f"| {title} | {name} | {kind} | {rungs} | {sizes.mean():.1%} | {sizes.max():.1%} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", nargs="*", choices=list(FITS), default=list(FITS))
    parser.add_argument("--evaluations", type=int, default=12, help="steps of the search, at most")
    chosen = parser.parse_args()
    os.nice(10)
    started = time.perf_counter()
    model = Model()
    names = " | ".join(rung.name for rung in RUNGS)
    print(f"| constants | ladder | | {names} | mean | largest |")
    print(f"|{' --- |' * (len(RUNGS) + 5)}")
    print_errors("as shipped", LADDERS, model, EFFICIENCY)
    middle = np.full(len(PLAUSIBLE), 0.5)
    print_errors("middle of the plausible", (), model, constants(middle))
    points = {}
    for title in chosen.fits:
        points[title] = model.fit(FITS[title], chosen.evaluations)
        print_errors(title, FITS[title], model, constants(points[title]))
    print()
    slopes = model.slopes(np.clip(point_of(EFFICIENCY), 0.02, 0.98))
    sizes = np.linalg.svd(slopes, compute_uv=False)
    # A direction is determined if going along it through half the plausible range shows above the noise.
    print(f"directions that {len(slopes)} times determine: {(sizes * 0.5 > NOISE).sum()} of {len(sizes)}")
    covariance = np.linalg.inv(slopes.T @ slopes / NOISE**2 + np.eye(len(sizes)) / 0.29**2)
    print(f"{'constant':28}{'shipped':>10}{'+- factor':>10}", *(f"{title:>15}" for title in points), sep="")
    for index, (name, (low, high)) in enumerate(PLAUSIBLE.items()):
        spread = (high / low) ** math.sqrt(covariance[index, index])
        found = (getattr(constants(point), name) for point in points.values())
        loose = " (the range's own)" if math.sqrt(covariance[index, index]) > 0.2 else ""
        print(
            f"{name:28}{getattr(EFFICIENCY, name):10.4g}{spread:10.2f}",
            *(f"{value:15.4g}" for value in found),
            loose,
            sep="",
        )
    print(f"{model.evaluations} ladders priced in {time.perf_counter() - started:,.0f} s")


if __name__ == "__main__":
    main()
