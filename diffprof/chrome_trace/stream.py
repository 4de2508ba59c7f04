"""A trace file as chunks of typed events, without ever holding the whole.

The array `traceEvents` is cut at `}, {`; a cut is right exactly if everything before it decodes, so one
typed decode per chunk both finds the cut and reads the events. What can't be decoded that way (bare `inf`
and `nan`, control characters, broken UTF-8, a damaged event) is read again object by object.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import IO, cast

import msgspec

from diffprof.model.errors import UNREADABLE, UsageError

GZIP_MAGIC = b"\x1f\x8b"

CHUNK_BYTES = 2 << 20
"""Read at a time; the events of one chunk are all that is alive at once (about six times this size)."""

HEADER_LIMIT_BYTES = 64 << 20
"""A trace's metadata before its events; Kineto writes a few kilobytes."""

EVENT_LIMIT_BYTES = 32 << 20
"""Without a single event in so many bytes, the rest of the file is taken for damaged."""


class Args(msgspec.Struct, gc=False):
    """The arguments of an event that diffprof reads. -1 and "" stand for absent."""

    external: int | float | str | None = msgspec.field(name="External id", default=-1)
    correlation: int | float | str | None = -1
    stream: int | float | str | None = -1
    device: int | float | str | None = -1
    bytes: int | float | str | None = -1
    stack: str | None = msgspec.field(name="Call stack", default="")
    shapes: msgspec.Raw = msgspec.field(name="Input Dims", default=msgspec.Raw())
    dtypes: msgspec.Raw = msgspec.field(name="Input type", default=msgspec.Raw())
    allocated: int | float | str | None = msgspec.field(name="Total Allocated", default=-1)
    device_type: int | float | str | None = msgspec.field(name="Device Type", default=-1)
    device_id: int | float | str | None = msgspec.field(name="Device Id", default=-1)
    name: str | int | None = ""
    labels: str | int | None = ""


class Event(msgspec.Struct, gc=False):
    """One trace event."""

    ph: str = ""
    cat: str | None = ""
    name: str | None = ""
    pid: int | float | str | None = None
    tid: int | float | str | None = None
    ts: int | float | None = None
    dur: int | float | None = None
    id: int | str | None = -1
    args: Args | None = None


class _ExactEvent(msgspec.Struct, gc=False):
    """An event whose time has more digits than a double holds (microseconds since 1970 with decimals)."""

    ph: str = ""
    cat: str | None = ""
    name: str | None = ""
    pid: int | float | str | None = None
    tid: int | float | str | None = None
    ts: Decimal | None = None
    dur: int | float | None = None
    id: int | str | None = -1
    args: Args | None = None


_WHAT_IT_READS = (
    "diffprof reads Kineto traces, as `prof.export_chrome_trace` writes them (.json or .json.gz)."
)

_decode = msgspec.json.Decoder(list[Event]).decode
_decode_exact = msgspec.json.Decoder(list[_ExactEvent]).decode
_decode_any = msgspec.json.Decoder().decode

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""msgspec tells broken UTF-8 in a key by the second."""
_UNFIT = (msgspec.ValidationError, OverflowError, UnicodeEncodeError)
"""The last of half a surrogate where a number belongs."""
_EVENTS_KEY = re.compile(rb'"traceEvents"\s*:\s*(\[|null)')
_CUT = re.compile(rb"\}\s*,\s*\{")
_END = re.compile(rb"\}\s*\]")
_SEPARATORS = re.compile(rb"[\s,]*")
_RESYNC = re.compile(r'\}\s*,\s*(?=\{\s*"(?:ph|name|cat|pid|tid|ts|id|args|s|bp)"\s*:)')
_BETWEEN = re.compile(r"[\s,]*")
_BARE_NUMBER = re.compile(r"([:\[,]\s*)[-+]?(?:inf(?:inity)?|nan(?:\([a-z]*\))?)(?=\s*[,}\]])", re.IGNORECASE)
_LARGE = float(1 << 50)
"""Microseconds above which a double's step exceeds a nanosecond's hundredfold (2**50 us is the year 2005)."""


@dataclass
class TraceStream:
    """A trace being read; its fields are complete when `events` is exhausted."""

    path: Path
    header: dict[str, object] = field(default_factory=dict)
    """Everything beside `traceEvents`, before and after it."""
    truncated: str | None = None
    """Why the file ends before its events do."""
    damaged: int = 0
    """Events that could not be decoded."""
    size: int = 0
    """Bytes of JSON read (after gunzip)."""

    def events(self) -> Iterator[list[Event]]:
        """Chunks of events, in file order.

        Raises UsageError when the file can't be opened or is no trace.
        """
        try:
            file = self.path.open("rb")
            magic = file.peek(2)[:2]
        except OSError as error:
            raise UsageError(
                f"{self.path} can't be read: {error.strerror or error}.",
                "Name a trace file (.json or .json.gz).",
            ) from error
        # Opened once: what comes through a pipe can't be read twice.
        with file, gzip.GzipFile(fileobj=file) if magic == GZIP_MAGIC else file as stream:
            yield from self._events(cast("IO[bytes]", stream))

    def _read(self, stream: IO[bytes], at_least: int = 0) -> bytes:
        if self.truncated:
            return b""
        pieces: list[bytes] = []
        missing = max(CHUNK_BYTES, at_least)
        try:
            # read() would lose what comes before a damaged place.
            while missing > 0 and (piece := stream.read1(missing)):  # type: ignore[attr-defined]
                pieces.append(piece)
                missing -= len(piece)
        except EOFError:
            self.truncated = "the gzip stream ends early"
        except (OSError, zlib.error) as error:
            self.truncated = f"it can't be decompressed any further ({error})"
        block = b"".join(pieces)
        self.size += len(block)
        return block

    def _events(self, stream: IO[bytes]) -> Iterator[list[Event]]:
        buffer, bare = self._to_first_event(stream)
        at_end, found = False, True
        while True:
            if not at_end:
                # As much again where an event is longer than all of it: read over in chunks, its time would
                # grow with the square of its length.
                block = self._read(stream, 0 if found else len(buffer))
                at_end = not block
                buffer += block
            if buffer[:64].lstrip()[:1] == b"]":
                self._footer(stream, buffer.lstrip()[1:])
                return
            events, buffer, ended = self._take(buffer, at_end)
            found = bool(events)
            if found:
                yield events  # The reader may empty the list.
            if ended:
                self._footer(stream, buffer)
                return
            if not found and len(buffer) > EVENT_LIMIT_BYTES:
                self.truncated = f"no event can be made out in {len(buffer) >> 20} MB of it"
                return
            if at_end and not found:
                # The array format of Chrome traces may lack its closing bracket.
                if buffer.strip(b" \t\r\n,") or not bare:
                    self.truncated = self.truncated or "it ends in the middle of its events"
                return

    def _take(self, buffer: bytes, at_end: bool) -> tuple[list[Event], bytes, bool]:
        """Events at the start of buffer, what is left, and whether the array ended."""
        if at_end:
            for cut in _backwards(_END, buffer):
                events = _try(buffer, cut.start() + 1)
                if events is not None:
                    return events, buffer[cut.end() :], True
        for cut in _backwards(_CUT, buffer):
            events = _try(buffer, cut.start() + 1)
            if events is not None:
                return events, buffer[cut.start() + 1 :], False
        return self._scan(buffer)

    def _scan(self, buffer: bytes) -> tuple[list[Event], bytes, bool]:
        """Object by object; slow, and forgiving."""
        text = _BARE_NUMBER.sub(r"\1null", buffer.decode("utf-8", "replace"))
        parse = json.JSONDecoder(strict=False).raw_decode
        events: list[Event] = []
        at = 0
        while True:
            between = _BETWEEN.match(text, at)
            at = between.end() if between else at
            if at >= len(text):
                return events, b"", False
            if text[at] == "]":
                return events, text[at + 1 :].encode(), True
            start = at
            try:
                raw, at = parse(text, at)
            except (ValueError, RecursionError):
                again = _RESYNC.search(text, start + 1)
                if again is None:
                    return events, text[start:].encode(), False
                self.damaged += 1
                at = again.end()
                continue
            event = _lenient(raw)
            if event is None:
                self.damaged += 1
            else:
                events.append(event)

    def _to_first_event(self, stream: IO[bytes]) -> tuple[bytes, bool]:
        """The bytes after the `[` that opens the events, and whether the file is a bare array."""
        buffer = self._read(stream).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not buffer:
            what = "is empty" if not self.truncated else f"holds nothing readable: {self.truncated}"
            raise UsageError(f"{self.path} {what}.", "Export it again: `prof.export_chrome_trace(path)`.")
        if buffer[:1] == b"[":
            return buffer[1:], True
        if buffer[:1] != b"{":
            raise UsageError(
                f"{self.path} is no trace: it starts with {buffer[:12]!r}.",
                _WHAT_IT_READS
                if not buffer.startswith(_UTF_16)
                else "That is text in UTF-16, as some shells redirect output; save it as UTF-8.",
            )
        searched = 0
        while True:
            for found in _EVENTS_KEY.finditer(buffer, searched):
                header = _object(buffer[: found.start()])
                if header is None:
                    continue
                if found.group(1) == b"null":
                    raise UsageError(f"{self.path} holds no events.", "Record the profile again.")
                self.header.update(header)
                return buffer[found.end() :], False
            searched = max(0, len(buffer) - 64)
            block = self._read(stream) if len(buffer) < HEADER_LIMIT_BYTES else b""
            if not block:
                raise self._no_trace(buffer)
            buffer += block

    def _no_trace(self, buffer: bytes) -> UsageError:
        hint = _WHAT_IT_READS
        try:
            held = _decode_any(buffer)
            if "traceEvents" in held:
                return UsageError(f"{self.path} is JSON but no trace: its `traceEvents` is no list.", hint)
            keys = ", ".join(list(held)[:6]) or "nothing"
        except UNREADABLE as error:
            cut = self.truncated or str(error)
            return UsageError(f"{self.path} is damaged before its first event: {cut}.", hint)
        return UsageError(f"{self.path} is JSON but no trace: no `traceEvents` beside {keys}.", hint)

    def _footer(self, stream: IO[bytes], buffer: bytes) -> None:
        while len(buffer) < HEADER_LIMIT_BYTES and (block := self._read(stream)):
            buffer += block
        rest = buffer.strip().removeprefix(b",").strip()
        if rest.endswith(b"}"):
            self.header.update(_object(b"{" + rest[:-1]) or {})


def _backwards(pattern: re.Pattern[bytes], buffer: bytes, tries: int = 4) -> Iterator[re.Match[bytes]]:
    """The last matches, from the end; each starts with a closing brace."""
    at = len(buffer)
    looked = 0
    while tries and looked < 4096:
        at = buffer.rfind(b"}", 0, at)
        if at < 0:
            return
        looked += 1
        if found := pattern.match(buffer, at):
            tries -= 1
            yield found


def _try(buffer: bytes, end: int) -> list[Event] | None:
    """The events in buffer up to end, or None if that is no sequence of objects."""
    start = cast("re.Match[bytes]", _SEPARATORS.match(buffer)).end()
    whole = b"".join((b"[", memoryview(buffer)[start:end], b"]"))
    try:
        events = _decode(whole)
    except UNREADABLE:
        return None
    last = next((e.ts for e in reversed(events) if e.ts is not None), 0)
    if type(last) is float and last > _LARGE:
        exact = _decode_exact(whole)
        for event, precise in zip(events, exact, strict=True):
            event.ts = precise.ts  # type: ignore[assignment]
    return events


def _lenient(raw: object) -> Event | None:
    if not isinstance(raw, dict):
        return None
    raw = {key: value for key, value in raw.items() if value is not None}
    args = raw.pop("args", None)
    for key in ("name", "cat"):
        if type(raw.get(key)) in (int, float):
            raw[key] = str(raw[key])
    try:
        event = msgspec.convert(raw, Event, strict=False)
    except _UNFIT:
        return None
    if isinstance(args, dict):
        rest = dict(args)
        raws = [
            msgspec.Raw(json.dumps(rest.pop(key)).encode()) if key in rest else msgspec.Raw()
            for key in ("Input Dims", "Input type")
        ]
        try:
            event.args = msgspec.convert(rest, Args, strict=False)
            event.args.shapes, event.args.dtypes = raws
        except _UNFIT:
            pass
    return event


def _object(prefix: bytes) -> dict[str, object] | None:
    """The JSON object that prefix is the beginning of, up to a finished member; None if it is none."""
    text = prefix.rstrip().rstrip(b",") + b"}"
    try:
        value = _decode_any(text)
    except UNREADABLE:
        try:
            value = json.loads(_BARE_NUMBER.sub(r"\1null", text.decode("utf-8", "replace")), strict=False)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, dict) else None
