"""Rows come back as they were written, and the file is open to others in between."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from diffprof.fleet.store import Store, columns_of
from diffprof.model.errors import UsageError

pytest.importorskip("duckdb")


class Line(msgspec.Struct, frozen=True):
    where: str
    us: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    number: int | None = None
    share: float | None = None
    fits: bool | None = None
    origin: dict[str, float] = msgspec.field(default_factory=dict)
    range: tuple[float, float] | None = None
    lines: tuple[Line, ...] = ()


class Wider(Row, frozen=True, kw_only=True):
    reason: str = ""


FULL = Row(
    key="a'b\n",
    number=3,
    share=0.5,
    fits=False,
    origin={"measured": 0.25, "modelled": 0.75},
    range=(1.0, 2.0),
    lines=(Line("x.py:3", 2.5), Line("y.py:4", 0.0)),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "diffprof.duckdb")


def test_rows_come_back(store: Store) -> None:
    assert store.rows("runs", Row) == ()
    assert store.keys("runs", Row) == set()
    store.add("runs", [FULL, Row(key="b")])
    assert store.rows("runs", Row) == (FULL, Row(key="b"))
    assert store.keys("runs", Row) == {"a'b\n", "b"}
    assert store.query("SELECT sum(l.us) AS us FROM runs, UNNEST(lines) AS t(l)") == (["us"], [(2.5,)])


def test_a_row_of_the_same_key_takes_its_place_and_new_columns_come(store: Store) -> None:
    store.add("runs", [FULL, Row(key="b", number=1)])
    store.add("runs", [Wider(key="b", number=2, reason="again")])
    assert store.query("SELECT number, reason FROM runs ORDER BY number") == (
        ["number", "reason"],
        [(2, "again"), (3, None)],
    )
    assert store.rows("runs", Row)[1] == Row(key="b", number=2)


class Older(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    other: str = ""


class Stricter(Row, frozen=True, kw_only=True):
    run: str
    steps: int | None
    unit: str = "us"


def test_rows_of_an_older_version_are_passed_over_and_stay(store: Store) -> None:
    store.add("runs", [Older(key="old", other="kept")])
    assert store.keys("runs", Stricter) == set()
    assert store.rows("runs", Stricter) == ()
    new = Stricter(key="new", run="r", steps=None)
    store.add("runs", [new])
    assert store.keys("runs", Stricter) == {"new"}
    assert store.rows("runs", Stricter) == (new,)
    assert store.rows("runs", Row) == (Row(key="new"), Row(key="old"))
    assert store.query("SELECT other FROM runs WHERE key = 'old'") == (["other"], [("kept",)])


class Numbered(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    reason: int = 0


def test_a_table_of_other_types_is_named_and_stays_as_it_is(store: Store) -> None:
    store.add("runs", [Numbered(key="a", reason=3)])
    with pytest.raises(UsageError, match=r"does not take rows for its table runs: Conversion Error"):
        store.add("runs", [Wider(key="c", reason="a text")])
    assert store.rows("runs", Numbered) == (Numbered(key="a", reason=3),)


def test_columns_are_the_fields() -> None:
    assert columns_of(Row) == {
        "key": "VARCHAR",
        "number": "BIGINT",
        "share": "DOUBLE",
        "fits": "BOOLEAN",
        "origin": "MAP(VARCHAR, DOUBLE)",
        "range": "DOUBLE[]",
        "lines": 'STRUCT("where" VARCHAR, "us" DOUBLE)[]',
    }


def test_another_process_reads_between_two_writes(store: Store) -> None:
    store.add("runs", [FULL])
    code = f"import duckdb; print(duckdb.connect({str(store.path)!r}).sql('FROM runs').fetchall()[0][1])"
    read = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert read.stdout == "3\n"


def test_parquet(store: Store, tmp_path: Path) -> None:
    store.add("runs", [FULL])
    (file,) = store.export(tmp_path / "it's out")
    assert file.read_bytes()[:4] == b"PAR1"


def test_a_wrong_query_names_the_tables_and_none_can_write(store: Store) -> None:
    with pytest.raises(UsageError, match=r"There is no .*diffprof\.duckdb"):
        store.query("SELECT 1")
    store.add("runs", [FULL])
    for sql in ("SELECT * FROM nowhere", "DROP TABLE runs"):
        with pytest.raises(UsageError, match="query failed") as refused:
            store.query(sql)
        assert refused.value.hint == "Its tables: runs."
    store.path.write_text("no database at all, but a text")
    with pytest.raises(UsageError, match="can't be opened"):
        store.query("SELECT 1")


def test_without_duckdb_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(UsageError) as refused:
        Store(tmp_path)
    assert "pip install 'diffprof[fleet]'" in refused.value.hint
