"""`make tour`: one job of each type through the running system, and what became of each.

    python -m tests.tour [--folder FOLDER]

Starts what `make up` starts, asks over HTTP for a job of every type, and looks at everything that has to
have come of it: the rows, the usage log, and the files, each of them opened in a browser. Prints a table and
ends with 0 if all is as it should be.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import sqlalchemy as sa
from playwright.sync_api import Page, sync_playwright

from gateway.database import Database
from gateway.prices import PRICES
from gateway.settings import database_address
from gateway.tables import images, jobs, usage_logs, videos
from gateway.up import Installation, running
from shared.presets import PRESETS, Preset

CHROMIUM: Final = Path("/usr/bin/chromium")
LIMIT_S: Final = 1800.0
LOOK_S: Final = 1.0
PROMPTS: Final = {
    "image": "a red circle on a white background",
    "video": "a red circle moving right on a black background",
}
SEED: Final = 7

OPENED: Final = """async (url) => {
    if (new URL(url, location).pathname.endsWith(".mp4")) {
        const video = document.createElement("video");
        video.muted = true;
        video.src = url;
        await video.play();
        return `${video.videoWidth}x${video.videoHeight}, ${video.duration.toFixed(1)} s`;
    }
    const image = new Image();
    image.src = url;
    await image.decode();
    return `${image.naturalWidth}x${image.naturalHeight}`;
}"""


@dataclass(frozen=True, slots=True)
class Visit:
    """What became of a job. `faults` are sentences; none if everything is as it should be."""

    job_type: str
    status: str
    total_s: float
    generate_s: float | None
    opened: tuple[str, ...]
    rows: str
    usage: str
    faults: tuple[str, ...]


def asked(preset: Preset) -> dict[str, Any]:
    metadata: dict[str, Any] = {"prompt": PROMPTS[preset.medium], "seed": SEED}
    if preset.medium == "image":
        metadata["num_images"] = 3 if preset.quality == "fast" else 1
    return {"jobType": preset.job_type, "metadata": metadata}


def tour(installation: Installation, say: Callable[[str], None]) -> list[Visit]:
    with httpx.Client(base_url=installation.url, timeout=30) as client, _browser(installation.url) as page:
        started = time.monotonic()
        waiting: dict[str, str] = {}
        for preset in PRESETS.values():
            answer = client.post("/functions/v1/queue-job", json=asked(preset))
            answer.raise_for_status()
            waiting[answer.json()["job"]["id"]] = preset.job_type
        say(f"{len(waiting)} jobs are queued.")
        visits = []
        for job, seconds in _ended(client, list(waiting), started):
            visits.append(_visit(installation, page, job, seconds))
            say(f"  {job['job_type']}: {job['status']} after {seconds:.0f} s")
        order = list(PRESETS)
        return sorted(visits, key=lambda visit: order.index(visit.job_type))


def _ended(client: httpx.Client, ids: list[str], started: float) -> Iterator[tuple[dict[str, Any], float]]:
    """Each job once it has ended, with the seconds since `started`."""
    while ids:
        if time.monotonic() - started > LIMIT_S:
            raise TimeoutError(f"{len(ids)} jobs did not end within {LIMIT_S:.0f} s")
        for job_id in list(ids):
            job = client.get(f"/jobs/{job_id}").raise_for_status().json()["job"]
            if job["status"] in {"completed", "failed", "cancelled"}:
                ids.remove(job_id)
                yield job, time.monotonic() - started
        time.sleep(LOOK_S)


def _visit(installation: Installation, page: Page, job: dict[str, Any], seconds: float) -> Visit:
    preset = PRESETS[job["job_type"]]
    wanted = asked(preset)["metadata"].get("num_images", 1)
    faults = [] if job["status"] == "completed" else [f"it {job['status']}: {job['error_message']}"]
    made = [job["video"]] if preset.medium == "video" else job["images"]
    links = [link for item in made for link in (item["url"], item["thumbnail_url"]) if link]
    if len(links) != 2 * wanted:
        faults.append(f"it has {len(links)} links instead of {2 * wanted}")
    opened = tuple(str(page.evaluate(OPENED, link)) for link in links)
    if preset.medium == "image" and [item["seed"] for item in made] != [SEED + i for i in range(wanted)]:
        faults.append("a picture's seed is not the one asked for")
    rows, usage = _rows(installation, job["id"])
    table = "videos" if preset.medium == "video" else "images"
    if rows != {"images": 0, "videos": 0, "jobs": 1} | {table: wanted}:
        faults.append(f"its rows are {rows}")
    if usage != [("generate", PRICES[preset.job_type] * wanted)]:
        faults.append(f"its usage is {usage}")
    return Visit(
        job_type=job["job_type"],
        status=job["status"],
        total_s=seconds,
        generate_s=job["generation_time"],
        opened=opened,
        rows=f"1 job, {rows[table]} {table}",
        usage=", ".join(f"{action} {credits}" for action, credits in usage),
        faults=tuple(faults),
    )


def _rows(installation: Installation, job_id: str) -> tuple[dict[str, int], list[tuple[str, int]]]:
    """Completed rows by table, and what the usage log says, straight from the database."""
    database = Database(database_address(installation.database_url))
    found = {
        "jobs": (jobs, jobs.c.id),
        "images": (images, images.c.job_id),
        "videos": (videos, videos.c.job_id),
    }
    with database.read() as connection:
        rows = {
            name: connection.execute(
                sa.select(sa.func.count())
                .select_from(table)
                .where(key == job_id, table.c.status == "completed")
            ).scalar_one()
            for name, (table, key) in found.items()
        }
        of_job = sa.select(usage_logs.c.action, usage_logs.c.credits_consumed)
        usage = connection.execute(of_job.where(usage_logs.c.job_id == job_id)).all()
    database.close()
    return rows, [(row.action, row.credits_consumed) for row in usage]


@contextmanager
def _browser(url: str) -> Iterator[Page]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio"]
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=CHROMIUM, args=flags) as browser,
    ):
        page = browser.new_page()
        page.goto(url)
        yield page


def table(visits: list[Visit]) -> str:
    head = ("job type", "status", "ended after", "generated in", "opened in the browser", "rows", "usage")
    lines = [head] + [
        (
            visit.job_type,
            visit.status,
            f"{visit.total_s:.0f} s",
            "" if visit.generate_s is None else f"{visit.generate_s:.1f} s",
            "; ".join(dict.fromkeys(visit.opened)) + f" ({len(visit.opened)} files)",
            visit.rows,
            visit.usage,
        )
        for visit in visits
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where everything is kept [a temporary folder]")
    folder: Path | None = parser.parse_args().folder

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    if not CHROMIUM.exists():
        sys.stderr.write(f"The files are opened in Chromium, which is not at {CHROMIUM}: install it.\n")
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        with running(folder or Path(temporary), os.environ, say) as installation:
            visits = tour(installation, say)
        say("\n" + table(visits))
    faults = [f"{visit.job_type}: {fault}." for visit in visits for fault in visit.faults]
    say("\n" + ("\n".join(faults) or "Every job is as it should be."))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
