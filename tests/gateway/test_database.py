from __future__ import annotations

from pathlib import Path

from gateway.database import Database
from gateway.settings import database_address


def test_the_log_of_sqlite_begins_anew_after_it_was_flushed(tmp_path: Path) -> None:
    database = Database(database_address(f"sqlite:///{tmp_path / 'new.db'}"))

    def write(number: int) -> int:
        with database.write() as connection:
            connection.exec_driver_sql(f"CREATE TABLE t{number} (text TEXT)")
            connection.exec_driver_sql(f"INSERT INTO t{number} VALUES (hex(zeroblob(100000)))")
        database.flush()
        return (tmp_path / "new.db-wal").stat().st_size

    first = write(1)
    assert all(write(number) <= 1.1 * first for number in range(2, 6))
    database.close()


def test_a_flush_leaves_its_connection_as_it_found_it(tmp_path: Path) -> None:
    database = Database(database_address(f"sqlite:///{tmp_path / 'new.db'}"))
    for number in range(3):
        database.flush()
        with database.write() as connection:
            connection.exec_driver_sql(f"CREATE TABLE t{number} (text TEXT)")
    database.close()
