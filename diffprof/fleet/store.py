"""Rows in one DuckDB file, which any of its clients reads.

The file is open only while rows are written or read, so that others come in between. A table's columns are
the fields of its rows' struct; a file of an older version gets the columns that it lacks.
"""

from __future__ import annotations

import datetime
import tempfile
import time
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from diffprof.model.errors import DiffprofError, UsageError

if TYPE_CHECKING:
    import duckdb

STORE_FILE = "diffprof.duckdb"
WAIT_S = 30.0
"""How long another process may keep the file to itself before this one gives up."""

T = TypeVar("T", bound=msgspec.Struct)


def loaded() -> ModuleType:
    """The module `duckdb`. Raises UsageError where it is not installed."""
    try:
        import duckdb
    except ImportError as error:
        raise UsageError(
            "DuckDB, which holds the rows, is not installed.", "Install it: pip install 'diffprof[fleet]'"
        ) from error
    return duckdb


class Store:
    """The tables of one file.

    Raises UsageError where DuckDB is missing, the file is none of its, or a query is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._duckdb = loaded()

    def add(self, table: str, rows: Sequence[msgspec.Struct]) -> None:
        """Write rows, all or none; one with a `key` that is there takes its place."""
        if not rows:
            return
        self._folder_made()
        kind = type(rows[0])
        columns = columns_of(kind)
        with tempfile.TemporaryDirectory(prefix="diffprof-") as folder, self._open() as connection:
            lines = Path(folder, "rows.json")
            lines.write_bytes(msgspec.json.Encoder().encode_lines(rows))
            try:
                connection.begin()
                self._written(connection, table, columns, str(lines))
                connection.commit()
            except self._duckdb.Error as error:
                raise UsageError(
                    f"{self.path} does not take rows for its table {table}: {str(error).splitlines()[0]}",
                    "Choose another folder with --traces.",
                ) from error

    def keys(self, table: str, kind: type[msgspec.Struct]) -> set[str]:
        """The keys of the rows that are there; not of those that lack what such a struct has to have, as an
        older version's may."""
        return {key for (key,) in self._whole(table, kind, "key")[1]}

    def rows(self, table: str, kind: type[T]) -> tuple[T, ...]:
        """All rows of a table, in the order of their keys, but for those that `keys` leaves out."""
        names, found = self._whole(table, kind, "*")
        own = {field.encode_name: field.required for field in msgspec.structs.fields(kind)}
        told = (
            {
                name: _told(value)
                for name, value in zip(names, row, strict=True)
                if name in own and (own[name] or value is not None)
            }
            for row in found
        )
        return tuple(msgspec.convert(row, kind, strict=False) for row in told)

    def _whole(
        self, table: str, kind: type[msgspec.Struct], chosen: str
    ) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Columns of the rows that have all that a struct has to have."""
        if not self.path.exists():
            return [], []
        with self._open(read_only=True) as connection:
            there = _columns(connection, table)
            needed = _needed(kind)
            if not there.issuperset(needed):
                return [], []
            known = " AND ".join(f'"{name}" IS NOT NULL' for name in needed)
            return _fetched(connection.execute(f'SELECT {chosen} FROM "{table}" WHERE {known} ORDER BY key'))

    def query(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Column names and rows that a query gives; it can't change the file. Raises UsageError."""
        if not self.path.exists():
            raise UsageError(f"There is no {self.path}.", "Make one with `diffprof sweep TARGETS`.")
        with self._open(read_only=True) as connection:
            try:
                return _fetched(connection.execute(sql))
            except self._duckdb.Error as error:
                tables = ", ".join(_tables(connection)) or "none"
                raise UsageError(f"The query failed: {error}", f"Its tables: {tables}.") from error

    def export(self, folder: Path) -> tuple[Path, ...]:
        """Each table as a Parquet file in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with self._open(read_only=True) as connection:
            written = {name: folder / f"{name}.parquet" for name in _tables(connection)}
            for name, file in written.items():
                connection.execute(f"""COPY "{name}" TO '{str(file).replace("'", "''")}' (FORMAT parquet)""")
        return tuple(written.values())

    def _folder_made(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _written(
        self, connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str], lines: str
    ) -> None:
        """Rows of a file of JSON lines to a table."""
        self._fit(connection, table, columns)
        source = f"read_json(?, format='newline_delimited', maximum_object_size={1 << 28}, columns={columns})"
        connection.execute(f'DELETE FROM "{table}" WHERE key IN (SELECT key FROM {source})', [lines])
        connection.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM {source}', [lines])

    def _fit(self, connection: duckdb.DuckDBPyConnection, table: str, columns: dict[str, str]) -> None:
        declared = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        connection.execute(f'CREATE TABLE IF NOT EXISTS "{table}" ({declared})')
        for name, kind in columns.items():
            connection.execute(f'ALTER TABLE "{table}" ADD COLUMN IF NOT EXISTS "{name}" {kind}')

    @contextmanager
    def _open(self, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        connection = self._connected(read_only, time.monotonic() + WAIT_S)
        try:
            yield connection
        finally:
            connection.close()

    def _connected(self, read_only: bool, until: float) -> duckdb.DuckDBPyConnection:
        while True:
            try:
                return self._duckdb.connect(str(self.path), read_only=read_only)
            except self._duckdb.IOException as error:
                if "lock" not in str(error).lower():
                    raise _unreadable(self.path, error) from error
                if time.monotonic() > until:
                    raise DiffprofError(
                        f"{self.path} is held open by another program.", "End that one, and try again."
                    ) from error
                time.sleep(0.05)
            except self._duckdb.Error as error:
                raise _unreadable(self.path, error) from error


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} can't be opened: {error}", "Choose another folder with --traces.")


def _tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]


def _needed(kind: type[msgspec.Struct]) -> list[str]:
    """Fields that no row is without; the key is one."""
    hints = typing.get_type_hints(kind)
    return [
        field.name
        for field in msgspec.structs.fields(kind)
        if field.required and type(None) not in typing.get_args(hints[field.name])
    ]


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> set[str]:
    told = "SELECT column_name FROM duckdb_columns() WHERE table_name = ?"
    return {name for (name,) in connection.execute(told, [table]).fetchall()}


def _fetched(result: duckdb.DuckDBPyConnection) -> tuple[list[str], list[tuple[Any, ...]]]:
    return [column[0] for column in result.description or ()], result.fetchall()


def _told(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime.datetime) else value


_TYPES = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE", bool: "BOOLEAN"}


def columns_of(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Column -> DuckDB's type, of a struct's fields."""
    hints = typing.get_type_hints(kind)
    return {name: sql_type(hints[name]) for name in kind.__struct_fields__}


def sql_type(hint: object) -> str:
    """DuckDB's type of a field: lists, maps and structs are nested. Raises TypeError where it has none."""
    if hint in _TYPES:
        return _TYPES[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (known,) = (each for each in inner if each is not type(None))
        return sql_type(known)
    if origin in (tuple, list):
        return f"{sql_type(inner[0])}[]"
    if origin is dict:
        return f"MAP({sql_type(inner[0])}, {sql_type(inner[1])})"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        fields = ", ".join(f'"{name}" {column}' for name, column in columns_of(hint).items())
        return f"STRUCT({fields})"
    raise TypeError(f"no column can hold {hint!r}")
