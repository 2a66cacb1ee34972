"""A store that never takes the agent down."""

import sqlite3

import pytest

from contract.exit_codes import ExitCode
from device_agent.errors import StoreError
from device_agent.store.database import Database

SCHEMA = "CREATE TABLE IF NOT EXISTS t (a INTEGER, b BLOB);"
INSERT = "INSERT INTO t VALUES (?, ?)"


def test_what_is_written_is_there_after_reopening(tmp_path):
    first = Database(tmp_path / "deep" / "x.db", SCHEMA)
    assert first.write(INSERT, [(1, b"one"), (2, b"two")])
    first.close()
    assert Database(tmp_path / "deep" / "x.db", SCHEMA).read("SELECT a, b FROM t ORDER BY a") == [
        (1, b"one"),
        (2, b"two"),
    ]


@pytest.mark.parametrize(("mode", "level"), [("NORMAL", 1), ("FULL", 2)])
def test_the_log_is_written_ahead_with_the_promised_durability(tmp_path, mode, level):
    database = Database(tmp_path / "x.db", SCHEMA, synchronous=mode)
    assert database.read("PRAGMA journal_mode") == [("wal",)]
    assert database.read("PRAGMA synchronous") == [(level,)]


@pytest.mark.parametrize(
    "content", [b"this is no database, " * 300, b"\x00" * 5000, b"SQLite format 3\x00" + b"x" * 5000]
)
def test_a_damaged_file_moves_aside_and_a_fresh_one_begins(tmp_path, content):
    path = tmp_path / "x.db"
    path.write_bytes(content)
    database = Database(path, SCHEMA)
    assert database.moved_aside
    assert database.failures == {"store-damaged-moved-aside": 1}
    assert (tmp_path / "x.db.damaged-1").read_bytes() == content
    assert database.write(INSERT, [(1, b"")])


def test_a_file_damaged_in_its_middle_moves_aside(tmp_path):
    path = tmp_path / "x.db"
    database = Database(path, SCHEMA)
    database.write(INSERT, [(i, b"x" * 500) for i in range(200)])
    database.close()
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 16384)
    assert Database(path, SCHEMA).moved_aside


def test_a_directory_that_cannot_be_made_is_one_line_with_an_exit_code(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StoreError) as caught:
        Database(tmp_path / "file" / "x.db", SCHEMA)
    assert caught.value.exit_code == ExitCode.STORE
    assert "\n" not in str(caught.value)


def test_a_path_that_is_a_directory_is_an_error_at_start(tmp_path):
    (tmp_path / "x.db").mkdir()
    with pytest.raises(StoreError):
        Database(tmp_path / "x.db", SCHEMA)


def test_a_full_disk_is_counted_and_the_store_recovers(tmp_path):
    database = Database(tmp_path / "x.db", SCHEMA)
    pages = database.read("PRAGMA page_count")[0][0]
    database.read(f"PRAGMA max_page_count={pages}")
    assert not database.write(INSERT, [(i, b"x" * 4000) for i in range(10)])
    assert not database.healthy
    assert database.failures == {"store-disk-full": 1}
    assert database.read("SELECT count(*) FROM t") == [(0,)]
    database.read("PRAGMA max_page_count=100000")
    assert database.write(INSERT, [(1, b"")])
    assert database.healthy


def test_a_read_only_file_is_counted(tmp_path):
    database = Database(tmp_path / "x.db", SCHEMA)
    database.read("PRAGMA query_only=ON")
    assert not database.write(INSERT, [(1, b"")])
    assert database.failures == {"store-read-only": 1}


def test_a_failing_transaction_leaves_nothing_behind(tmp_path):
    database = Database(tmp_path / "x.db", SCHEMA)

    def work(connection: sqlite3.Connection) -> None:
        connection.execute(INSERT, (1, b""))
        connection.execute("INSERT INTO absent VALUES (1)")

    assert not database.transact(work)
    assert database.read("SELECT count(*) FROM t") == [(0,)]
