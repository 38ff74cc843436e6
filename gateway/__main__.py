"""`python -m gateway` migrates the database and serves; `python -m gateway migrate` only migrates."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gateway.settings import GatewaySettings, load_gateway_settings
from shared.configuration import help_text
from shared.errors import ServiceUnavailable, SettingsError
from shared.log import configure_logging

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

EXIT_SETTINGS = 78
EXIT_UNAVAILABLE = 69

log = logging.getLogger("gateway")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gateway",
        description="Takes jobs over HTTP, queues them for the workers and receives their callbacks.",
        add_help=False,
    )
    parser.add_argument("command", nargs="?", choices=["serve", "migrate"], default="serve")
    parser.add_argument("-h", "--help", action="store_true", help="show this and every setting")
    arguments = parser.parse_args(argv)
    if arguments.help:
        print(help_text(parser.format_help(), GatewaySettings))  # noqa: T201
        return 0
    try:
        settings = load_gateway_settings()
        _configure_logging(settings)
        return migrate(settings) if arguments.command == "migrate" else serve(settings)
    except SettingsError as error:
        sys.stderr.write(f"The gateway cannot start. To mend:\n{error}\n")
        return EXIT_SETTINGS
    except ServiceUnavailable as error:
        log.critical("the gateway cannot start: %s", error)
        return EXIT_UNAVAILABLE


def _configure_logging(settings: GatewaySettings) -> None:
    configure_logging(
        settings.log_format,
        secrets=settings.secrets(),
        context={"service": "gateway"},
        level=settings.log_level,
    )
    # One line for each of its own plugins at every start.
    logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)


def migrate(settings: GatewaySettings) -> int:
    from gateway.database import Database
    from gateway.migrations import migrate

    database = Database(settings.resolved_database_url)
    try:
        migrate(database)
    finally:
        database.close()
    log.info("the database has the schema of this version")
    return 0


def serve(settings: GatewaySettings) -> int:
    from gateway.app import create_app

    migrate(settings)
    gateway = server(create_app(settings), settings.gateway_host, settings.gateway_port)
    gateway.run()
    return 0 if gateway.started else EXIT_UNAVAILABLE


def server(app: FastAPI, host: str, port: int) -> uvicorn.Server:
    """The HTTP server of the gateway, not yet started."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # It waits for open connections, and a stream of events would stay open for long.
            app.state.parts.live.close()
            await super().shutdown(sockets)

    return Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            # Its lines would carry one-time tickets and signed links.
            access_log=False,
            log_config=None,
            # A header that anybody can send must not decide whose address counts as this machine's.
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=10,
        )
    )


if __name__ == "__main__":
    raise SystemExit(main())
