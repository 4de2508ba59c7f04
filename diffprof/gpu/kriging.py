"""Values of a grid where none was measured, from the others.

Kriging with a separable covariance (that of two points is the product of one for each axis) which is learned
from the grid itself: how much the times at 1,025 rows resemble those at 1,281, and how little those at 1,024.
Single measurements that were disturbed are pulled towards what the others say. By leaving out a fifth of the
measured points of each table (`diffprof/docs/accuracy.md`); covariances that fall off with the distance alone
are off by half as much again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

NUGGET = 0.15
"""Variance of a single measurement along each axis, of that of the field."""

ROUNDS = 10
STEPS = 60
"""Conjugate gradients, in a round, at most; they end when the error has shrunk to EXACT of what it was."""

EXACT = 1e-4

BEYOND = 1.0
"""Deviations at which what a measurement differs from the others' estimate of it is cut off."""


def filled(
    values: np.ndarray, axes: Sequence[np.ndarray], lengths: Sequence[float], share: float
) -> np.ndarray:
    """The grid with its holes (NaN) filled.

    values: (len(axes[0]), len(axes[1]), ...). axes: ascending coordinates. lengths: how far along each axis
    values resemble one another before anything is learned. share: of that in what is learned.
    """
    holes = np.isnan(values)
    if not holes.any():
        return values
    mean = float(np.nanmedian(values))
    found = _estimates(values - mean, axes, lengths, share)
    return np.where(holes, found + mean, values)


def _estimates(
    values: np.ndarray, axes: Sequence[np.ndarray], lengths: Sequence[float], share: float
) -> np.ndarray:
    """The field: values whose mean was taken off, pulled and filled."""
    holes = np.isnan(values)
    before = [
        np.exp(-np.abs(np.subtract.outer(axis, axis)) / length)
        for axis, length in zip(axes, lengths, strict=True)
    ]
    covariances = [_with_nugget(each) for each in before]
    field = np.where(holes, 0.0, values)
    for _ in range(ROUNDS):
        precisions = [np.linalg.inv(each) for each in covariances]
        field = _conditional(precisions, field, holes)
        off = _times(precisions, field) / _diagonal(precisions)
        scales = 1.0 / np.sqrt(_diagonal(precisions))
        scales *= 1.4826 * float(np.median(np.abs(off / scales)[~holes]))
        others = field - off
        pulled = others + np.clip(values - others, -BEYOND * scales, BEYOND * scales)
        field = np.where(holes, field, pulled)
        covariances = _learned(field, covariances, before, share)
    precisions = [np.linalg.inv(each) for each in covariances]
    return _conditional(precisions, field, holes)


def _learned(
    field: np.ndarray, covariances: Sequence[np.ndarray], before: Sequence[np.ndarray], share: float
) -> list[np.ndarray]:
    """The covariance of each axis from a whole field, given the other axes' (Dutilleul 1999, the maximum
    likelihood of a matrix normal distribution)."""
    found = list(covariances)
    for axis in range(field.ndim):
        whitening = [np.linalg.inv(each) for each in found]
        whitening[axis] = np.eye(field.shape[axis])
        rows = np.moveaxis(field, axis, 0).reshape(field.shape[axis], -1)
        whitened = np.moveaxis(_times(whitening, field), axis, 0).reshape(rows.shape)
        own = rows @ whitened.T / rows.shape[1]
        deviations = np.sqrt(np.diag(own))
        own = (1 - share) * own + share * before[axis] * np.outer(deviations, deviations)
        own = _with_nugget(own)
        # One scale is free: it is kept on the last axis.
        found[axis] = own if axis == field.ndim - 1 else own / np.mean(np.diag(own))
    return found


def _with_nugget(covariance: np.ndarray) -> np.ndarray:
    return covariance + NUGGET * np.diag(np.diag(covariance))


def _conditional(precisions: Sequence[np.ndarray], field: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """The field with what is likeliest in its holes, by conjugate gradients from what is there."""
    scale = _diagonal(precisions)
    found = field.copy()
    left = np.where(holes, -_times(precisions, found), 0.0)
    step = left / scale
    size = first = float((left * step).sum())
    for _ in range(STEPS):
        if size <= EXACT**2 * first:
            break
        through = np.where(holes, _times(precisions, step), 0.0)
        far = size / float((step * through).sum())
        found += far * step
        left = left - far * through
        near = left / scale
        before, size = size, float((left * near).sum())
        step = near + size / before * step
    return found


def _times(matrices: Sequence[np.ndarray], field: np.ndarray) -> np.ndarray:
    """The Kronecker product of the matrices, times the field."""
    for axis, matrix in enumerate(matrices):
        field = np.moveaxis(np.tensordot(matrix, field, (1, axis)), 0, axis)
    return field


def _diagonal(matrices: Sequence[np.ndarray]) -> np.ndarray:
    return reduce(np.multiply.outer, (np.diag(each) for each in matrices))
