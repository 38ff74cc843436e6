"""Run by Alembic. The caller's transaction holds all migrations: either all of them are done or none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from gateway.tables import metadata

_ADVISORY_LOCK = 4_917_260_533


def run() -> None:
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is None:
        raise CommandError("run migrations with `python -m gateway migrate`")
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


run()
