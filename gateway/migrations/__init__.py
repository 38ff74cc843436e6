"""Brings a database to the schema of `gateway.tables`."""

from __future__ import annotations

from alembic import command
from alembic.config import Config

from gateway.database import Database


def migrate(database: Database) -> None:
    """Run every migration that the database has not seen. Several gateways may start at once.

    Raises `ServiceUnavailable` where the database does not answer.
    """
    with database.write() as connection:
        config = Config()
        config.set_main_option("script_location", "gateway:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
