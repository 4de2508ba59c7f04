"""`[tool.diffprof]` of a pyproject.toml: what is scanned and how, what fails, what is allowed."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from diffprof.model.errors import UsageError
from diffprof.model.recording import Allowance, Site

FILE = "pyproject.toml"
DEFAULT_GATE = "in-loop"
NAMED = (
    "scheduler",
    "steps",
    "height",
    "width",
    "batch",
    "dtype",
    "guidance_scale",
    "no_weights",
    "baseline",
)
"""Options of `diffprof scan` that a target takes in the configuration, by these names, with dashes."""


class Allowed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An entry of `allow`. file, function: ends of a path and of a qualified name; None: any."""

    rule: str
    reason: str
    file: str | None = None
    function: str | None = None


class _Settings(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab", omit_defaults=True
):
    """What holds for all targets, and what one says for itself."""

    device: str | None = None
    devices: tuple[str, ...] | None = None
    host: str | None = None
    analyzers: tuple[str, ...] | str | None = None
    fail_on: str | None = None
    max_memory: str | int | None = None
    compile_scope: str | None = None
    vary: dict[str, list[Any]] | None = None
    allow: tuple[Allowed, ...] = ()


class TargetSettings(_Settings, frozen=True, kw_only=True, rename="kebab", omit_defaults=True):
    """A target by its name. target: as `diffprof scan` takes it; None: the name is one."""

    target: str | None = None
    args: tuple[str, ...] = ()
    scheduler: str | None = None
    steps: int | None = None
    height: int | None = None
    width: int | None = None
    batch: int | None = None
    dtype: str | None = None
    guidance_scale: float | None = None
    no_weights: bool | None = None
    baseline: bool | None = None
    call: dict[str, Any] = msgspec.field(name="set", default_factory=dict)


class Configuration(_Settings, frozen=True, kw_only=True, rename="kebab", omit_defaults=True):
    """The whole section. root: folder that its paths are relative to. file: where it stands."""

    baseline_file: str | None = None
    targets: dict[str, TargetSettings] = {}
    sweep: Any = None
    """For `diffprof.fleet.grid`."""
    root: str = "."
    file: str = ""

    def allowances(self, target: TargetSettings | None = None) -> tuple[Allowance, ...]:
        """What is allowed for all targets, and for this one."""
        return tuple(_allowances((*self.allow, *(target.allow if target else ()))))

    def of(self, target: TargetSettings, name: str) -> Any:
        """A setting: the target's own, else that of all."""
        own = getattr(target, name)
        return getattr(self, name) if own is None else own

    def devices_of(self, target: TargetSettings) -> tuple[str | None, ...]:
        """Where a target is scanned; None: the default device."""
        for settings in (target, self):
            if settings.devices or settings.device:
                return settings.devices or (settings.device,)
        return (None,)


def load_configuration(folder: str | Path, file: Path | None = None) -> Configuration:
    """The section of the nearest pyproject.toml that has one, in this folder or above; empty without one.

    file: the one to read instead; its paths are relative to the folder then. Raises UsageError for a file
    that is no TOML, and for keys and values that are not known.
    """
    start = Path(folder).resolve()
    if file is not None:
        found = _converted(_section(file) or {}, file)
        return msgspec.structs.replace(found, root=str(start), file=str(file.resolve()))
    for place in (start, *start.parents):
        near = place / FILE
        if near.is_file() and (section := _section(near)) is not None:
            return msgspec.structs.replace(_converted(section, near), root=str(place), file=str(near))
    return Configuration(root=str(start))


def _section(file: Path) -> dict[str, object] | None:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("diffprof")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is no TOML: {error}.", "Correct it first.") from error


def _converted(section: dict[str, object], file: Path) -> Configuration:
    for own in ("root", "file"):
        if own in section:
            raise UsageError(f"{file}: [tool.diffprof] has no key {own!r}.", "Take it out.")
    try:
        found = msgspec.convert(section, Configuration)
    except msgspec.ValidationError as error:
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(Configuration))
        raise UsageError(
            f"{file}: [tool.diffprof] can't be read: {error}.",
            f"It takes {known.removesuffix(', root, file')}.",
        ) from error
    for each in (*found.allow, *(a for target in found.targets.values() for a in target.allow)):
        if not each.reason.strip():
            raise UsageError(f"{file}: an entry of allow for {each.rule} has no reason.", "Say why.")
    return found


def _allowances(entries: Iterable[Allowed]) -> Iterator[Allowance]:
    for each in entries:
        yield Allowance(
            rules=tuple(part.strip() for part in each.rule.split(",")),
            reason=each.reason.strip(),
            by="configuration",
            site=Site(file=FILE, line=0, function="", user_code=True),
            file=each.file,
            function=each.function,
        )


def named_options(target: TargetSettings) -> dict[str, Any]:
    """The options of a target as `diffprof.scan` takes them."""
    given = {name: getattr(target, name) for name in NAMED}
    return {**{name: value for name, value in given.items() if value is not None}, "set": target.call}


def analyzers_of(value: Sequence[str] | str | None) -> str:
    """As the command takes them."""
    return ",".join(value) if isinstance(value, tuple | list) else str(value or "")
