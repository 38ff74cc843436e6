"""A PostgreSQL server of the tests' own, in a folder that is removed again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OWNER = "postgres"


def postgres_programs() -> Path | None:
    """The folder of initdb and pg_ctl, or None where PostgreSQL is not installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


@contextmanager
def local_postgres(programs: Path) -> Iterator[str]:
    """Start a server that listens on a socket in its own folder only; yields its address."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-postgres-"))
    as_owner: dict[str, Any] = {}
    if os.geteuid() == 0:
        # The server refuses to run as root.
        shutil.chown(folder, OWNER)
        as_owner = {"user": OWNER, "extra_groups": []}

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            timeout=60,
            **as_owner,
        )

    data = str(folder / "data")
    # What is lost by these is safety against a power cut, which no test is about.
    options = (
        f"-k {folder} -c listen_addresses='' -c fsync=off -c full_page_writes=off -c max_connections=200"
    )
    try:
        run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
