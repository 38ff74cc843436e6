from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from gateway.database import Database
from gateway.migrations import migrate
from gateway.settings import database_address
from gateway.tables import metadata


def test_the_migrations_make_the_tables_that_the_gateway_knows(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing(database: Database) -> None:
    migrate(database)


def test_gateways_that_start_at_the_same_time_migrate_once(tmp_path: Path) -> None:
    databases = [Database(database_address(f"sqlite:///{tmp_path / 'new.db'}")) for _ in range(4)]
    threads = [threading.Thread(target=migrate, args=[database]) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with databases[0].read() as connection:
        assert set(metadata.tables) < set(sa.inspect(connection).get_table_names())
    for database in databases:
        database.close()


def test_nobody_but_the_owner_reads_the_tables_of_postgresql(postgres_url: str) -> None:
    database = Database(database_address(postgres_url))
    secured = sa.text("SELECT relname FROM pg_class WHERE relrowsecurity AND relkind = 'r'")
    with database.read() as connection:
        assert set(connection.scalars(secured)) == {*metadata.tables, "alembic_version"}
    database.close()
