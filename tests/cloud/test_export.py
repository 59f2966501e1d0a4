"""Any table and time range as JSON lines or Parquet, with its types, whole or not at all."""

from __future__ import annotations

import base64
import io
import json
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from cloud.cli import app
from cloud.desk import accounts, audit
from cloud.store import export, schema, tables
from cloud.store.writer import write_batch
from cloud_events import T0, alarm, body, received
from covey.cli import one_line

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 50


@pytest.fixture
def store(store_url: str) -> str:
    engine = schema.open_store(store_url)
    batch = [received(seq, received_s=T0 + seq) for seq in range(1, ROWS + 1)]
    write_batch(engine, "b", {}, [*batch, received(99, alarm(), received_s=T0)])
    accounts.add(engine, "ada", "admin", "correct horse battery", audit.Actor("x"))
    engine.dispose()
    return store_url


def cloud(*words: str) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            with one_line():
                code = app(list(words), standalone_mode=False)
        except SystemExit as end:
            code = end.code
    return (code if isinstance(code, int) else 0), err.getvalue()


def test_parquet_keeps_types_and_holds_every_row(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CHUNK_ROWS", 16)  # several row groups
    path = tmp_path / "events.parquet"
    assert cloud("export", "events", "--format", "parquet", "--out", str(path), "--store", store) == (
        0,
        "51 rows of events\n",
    )
    table = pq.read_table(path)
    assert pq.ParquetFile(path).num_row_groups == 4
    types = {field.name: str(field.type) for field in table.schema}
    assert (types["seq"], types["received_s"], types["body"], types["device"]) == (
        "int64",
        "double",
        "binary",
        "string",
    )
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["seq"], first["received_s"], first["body"]) == (1, T0 + 1, body(1))
    assert table.column("seq").to_pylist() == [*range(1, ROWS + 1), 99]


def test_a_time_range_is_half_open_in_both_formats(store: str, tmp_path: Path) -> None:
    for form in ("jsonl", "parquet"):
        path = tmp_path / f"part.{form}"
        words = ["--from", "2026-02-02T02:40:11", "--to", "2026-02-02T02:40:21", "--format", form, "--out", str(path)]
        code, told = cloud("export", "events", *words, "--store", store)
        assert (code, told) == (0, "10 rows of events\n")
    lines = [json.loads(line) for line in (tmp_path / "part.jsonl").read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(11, 21))
    assert base64.b64decode(lines[0]["body"]) == body(11)
    assert pq.read_table(tmp_path / "part.parquet").column("seq").to_pylist() == list(range(11, 21))


def test_every_table_that_may_be_exported_is_and_no_secret_is(store: str, tmp_path: Path) -> None:
    secret = {"accounts", "sessions", "login_tries", "settings", "outgoing", "offsets", "counters", "schema_version"}
    names = set(tables.metadata.tables) - secret
    assert names == set(export.TIMES)
    for name in sorted(names):
        for form in ("jsonl", "parquet"):
            path = tmp_path / f"{name}.{form}"
            assert cloud("export", name, "--format", form, "--out", str(path), "--store", store)[0] == 0, name
            assert b"$argon2id$" not in path.read_bytes()
    for name in secret:
        code, told = cloud("export", name, "--out", str(tmp_path / "x"), "--store", store)
        assert (code, told.count("\n")) == (2, 1)


def test_a_failed_export_leaves_what_was_there(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.jsonl"
    path.write_text("before")
    engine = schema.open_store(store, create=False)
    with schema.write(engine) as connection:
        connection.execute(sa.text("ALTER TABLE events RENAME TO hidden"))
    engine.dispose()
    code, told = cloud("export", "events", "--out", str(path), "--store", store)
    assert (code, told.count("\n")) == (1, 1)
    assert path.read_text() == "before"
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith(".")) == []


@pytest.mark.parametrize(
    "words",
    [
        ("devices", "--from", "2026-01-01"),
        ("events", "--format", "csv"),
        ("nothing",),
        ("--format", "parquet"),
        ("events", "--to", "soon"),
    ],
)
def test_what_cannot_be_exported_is_one_line(store: str, tmp_path: Path, words: tuple[str, ...]) -> None:
    code, told = cloud("export", *words, "--out", str(tmp_path / "x"), "--store", store)
    assert (code, told.count("\n")) == (2, 1)
    assert not (tmp_path / "x").exists()
