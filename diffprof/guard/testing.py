"""Scans of a test run: cached for equal arguments, stored, under the configuration of the tested project."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffprof.guard.configuration import Configuration, load_configuration

if TYPE_CHECKING:
    from diffprof.model.report import Report

__tracebackhide__ = True


class Scans:
    """All scans of one test run in one process. folder: where reports are stored; None: a temporary one."""

    def __init__(self, root: Path, folder: str | Path | None) -> None:
        self.configuration: Configuration = load_configuration(root)
        self.folder = Path(folder) if folder else Path(tempfile.mkdtemp(prefix="diffprof-"))
        self._done: dict[Any, Report] = {}

    def scan(self, target: object, options: Mapping[str, object]) -> Report:
        """The report on a target, a function that makes a pipeline, or a live pipeline. Equal arguments are
        scanned once; a live pipeline each time, for nobody tells what was changed in it."""
        key = _key(target, options)
        if key is None:
            return self._scanned(target, options)
        if key not in self._done:
            self._done[key] = self._scanned(target, options)
        return self._done[key]

    def checked(self, target: object, fail_on: str, options: Mapping[str, object]) -> Report:
        """The same, held against a gate."""
        from diffprof.guard.assertions import assert_none
        from diffprof.judge.gate import parse_gate

        report = self.scan(target, options)
        if fail_on:
            assert_none(report, parse_gate(fail_on, option="fail_on"))
        return report

    def _scanned(self, target: Any, options: Mapping[str, Any]) -> Report:
        from diffprof.model.report import save_report, slug
        from diffprof.scanning.scan import scan

        known = self.configuration
        given = {"device": known.device, "allow": known.allowances(), **options}
        report = scan(target, **given)
        # One folder for each scan of the test run: a later run stores in the same, so they don't pile up.
        mark = hashlib.sha256(repr((_described(target), sorted(options.items()))).encode()).hexdigest()[:8]
        return save_report(report, self.folder / f"{slug(report.recording.target.spec)}-{mark}")


class Fixture:
    """What a test gets as `diffprof`: the module, with a `scan` of the test run."""

    def __init__(self, scans: Scans, options: Mapping[str, object], fail_on: str) -> None:
        self._scans = scans
        self._options = dict(options)
        self._fail_on = fail_on

    def scan(self, target: object, **options: object) -> Report:
        """As `diffprof.scan`, with the options of the test's marker, and the device and allowances of
        `[tool.diffprof]`."""
        return self._scans.checked(target, self._fail_on, {**self._options, **options})

    def __getattr__(self, name: str) -> object:
        import diffprof

        return getattr(diffprof, name)


def _described(target: object) -> str:
    return (
        str(getattr(target, "__qualname__", type(target).__qualname__))
        if not isinstance(target, str)
        else target
    )


def _key(target: object, options: Mapping[str, object]) -> object:
    """What makes two scans the same; None where they may differ although they look the same."""
    if isinstance(target, str):
        same: str | Callable[..., object] = target
    elif callable(target) and not hasattr(target, "components"):
        same = target
    else:
        return None
    key = (os.getcwd(), same, _frozen(options))
    with contextlib.suppress(TypeError):
        hash(key)
        return key
    return None


def _frozen(value: object) -> object:
    if isinstance(value, Mapping):
        return tuple(sorted((name, _frozen(each)) for name, each in value.items()))
    if isinstance(value, list | tuple):
        return (type(value).__name__, *map(_frozen, value))
    return value
