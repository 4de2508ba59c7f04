"""A report as it may be sent to others: without the user's home, and, where asked for, without prompts,
absolute paths and source."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from diffprof.model.finding import Finding
from diffprof.model.fix import PlanStep, SourceEdit, SourceEdits
from diffprof.model.recording import Allowance, Frame, Recording, Site, TargetInfo

SENT = frozenset({"html", "markdown", "github", "sarif"})
"""Forms that are made to be sent. JSON is for programs, and stays what is stored."""

Data = TypeVar("Data")
_LEFT_OUT = "the reason is left out"
"""In place of why something is allowed: a comment of the source."""
_BEFORE = r"(?<![\w.~-])"
"""A path begins here, and does not go on."""
_HOME = re.compile(
    rf"{_BEFORE}(?:file://)?(?:/(?:home|Users)/[^/\s\"'<>:]+|/root(?![\w.-])|[A-Za-z]:\\+Users\\+[^\\\s\"'<>:]+)"
)
"""A home, whoever's: reports come from other machines."""
_PACKAGES = re.compile(
    rf"{_BEFORE}(?:/[^/\s\"'<>:]+)+/(?:site|dist)-packages/|[A-Za-z]:\\[^\s\"'<>:]*\\site-packages\\"
)
_ABSOLUTE = re.compile(
    rf"(?:{_BEFORE}(?:file://)?|~)(?:/[^/\s\"'<>:,;()]+)+/(?=[^/\s\"'<>:,;()])|[A-Za-z]:\\(?:[^\\\s\"'<>:]+\\)*"
)
"""The folders of an absolute path."""


def to_send(data: Data, form: str, *, redact: bool = False) -> Data:
    """A report, or a plan, for one of the forms of `diffprof show`."""
    if redact:
        return redacted(data)
    return without_home(data) if form in SENT else data


def without_home(data: Data) -> Data:
    """The same data; paths into a home begin with `~`, those of installed packages with the package."""
    return _mapped(data, home_free())


def home_free() -> Callable[[str], str]:
    """Replaces the homes in a text: those that look like one, and this user's wherever it is."""
    own = str(Path("~").expanduser())
    special = own not in ("~", "/") and not _HOME.fullmatch(own)

    def replaced(text: str) -> str:
        if "/" not in text and "\\" not in text:
            return text
        if special:
            text = re.sub(rf"{_BEFORE}{re.escape(own)}(?![\w.-])", "~", text)
        return _HOME.sub("~", _PACKAGES.sub("", text))

    return replaced


def redacted(data: Data) -> Data:
    """Prompts, absolute paths and source are left out; lines, names of functions and figures stay."""
    homeless = home_free()
    return _mapped(data, lambda text: _ABSOLUTE.sub("", homeless(text)), _emptied)


def _emptied(data: object) -> Any:
    """A struct without what it holds of prompts and source itself."""
    replace = msgspec.structs.replace
    if isinstance(data, Site):
        return replace(data, excerpt=())
    if isinstance(data, Frame):
        return replace(data, code="")
    if isinstance(data, TargetInfo):
        options = {key: _unsaid(each) if key == "call" else each for key, each in data.options.items()}
        return replace(data, call=_unsaid(data.call), options=options, args=tuple(map(_unsaid, data.args)))
    if isinstance(data, Allowance) and data.reason:
        return replace(data, reason=_LEFT_OUT)
    if isinstance(data, Finding) and data.allowed:
        return replace(data, allowed=_LEFT_OUT)
    if isinstance(data, SourceEdit):
        return replace(data, diff="")
    if isinstance(data, SourceEdits):
        return replace(data, fixes={})
    if isinstance(data, PlanStep):
        return replace(data, patch=None)
    if isinstance(data, Recording) and data.failure is not None:
        return replace(data, failure=data.failure.partition("\n")[0])
    return data


def _unsaid(value: object) -> object:
    """What a call was given, with the length of a text in place of the text."""
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, dict):
        return {key: _unsaid(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_unsaid(item) for item in value]
    return value


def _mapped(data: Any, text: Callable[[str], str], struct: Callable[[Any], Any] = lambda data: data) -> Any:
    """The data with every text, and every struct, replaced; members of enumerations stay."""
    if type(data) is str:
        return text(data)
    if isinstance(data, msgspec.Struct):
        data = struct(data)
        old = {name: getattr(data, name) for name in data.__struct_fields__}
        new = {name: _mapped(value, text, struct) for name, value in old.items()}
        changed = {name: value for name, value in new.items() if value is not old[name]}
        return msgspec.structs.replace(data, **changed) if changed else data
    if isinstance(data, dict):
        return {_mapped(key, text, struct): _mapped(item, text, struct) for key, item in data.items()}
    if isinstance(data, list | tuple) and data and not isinstance(data[0], int | float):
        return type(data)(_mapped(item, text, struct) for item in data)
    return data
