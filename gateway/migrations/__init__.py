"""Brings a database to the schema of `gateway.tables`."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection

from gateway.database import Database
from gateway.tables import metadata
from shared.errors import SettingsError


def migrate(database: Database) -> None:
    """Run every migration that the database has not seen. Several gateways may start at once.

    Raises `ServiceUnavailable` where the database does not answer, and `SettingsError` where it holds tables
    of these names that are somebody else's.
    """
    with database.write() as connection:
        _refuse_foreign_tables(connection)
        config = Config()
        config.set_main_option("script_location", "gateway:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _refuse_foreign_tables(connection: Connection) -> None:
    present = set(sa.inspect(connection).get_table_names())
    foreign = sorted(present & set(metadata.tables))
    if foreign and "alembic_version" not in present:
        raise SettingsError(
            [
                f"DATABASE_URL: the database has tables that the gateway did not make ({', '.join(foreign)})."
                " Give it a database of its own, or a schema: create one named gateway and add"
                " ?options=-csearch_path%3Dgateway to the address."
            ]
        )
