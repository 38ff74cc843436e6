"""The whole gateway against its own OpenAPI description, over HTTP and on both databases.

Requests are drawn from the description, right ones and wrong ones, one after the other and in sequences that
follow its links: no answer may be a server's fault, and every answer has to be one that is declared.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from support.gateway import authorization, gateway_settings
from support.gateway_jobs import StoredJob
from support.serving import serving

from gateway.database import Database
from gateway.settings import GatewaySettings
from gateway.tables import STATUSES

SERVICE_KEY = "a-service-key-of-tests"
EXAMPLES = 5
LIMIT_S = 600


CONFIGURATION = """
request-timeout = 60

[dictionaries.jobs]
values = {jobs}

[parameters]
"path.job_id" = {{ dictionary = "jobs", probability = 0.7 }}
"body.job_id" = {{ dictionary = "jobs", probability = 0.7 }}

# A job is cancelled by DELETE and still there afterwards.
[checks.use_after_free]
enabled = false

# What no description can say: limits of an area or of a job type, the price of many jobs, refused contents.
[[operations]]
include-path = "/functions/v1/queue-job"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "402", "409", "422"]

[[operations]]
include-path = "/functions/v1/enhance-prompt"
checks.positive_data_acceptance.expected-statuses = ["2xx", "403", "422"]

[[operations]]
include-path = "/functions/v1/job-callback"
checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "422"]
"""


@pytest.fixture
def settings(redis_url: str, database_url: str, tmp_path: Path) -> GatewaySettings:
    return gateway_settings(redis_url, database_url, tmp_path, SUPABASE_SERVICE_KEY=SERVICE_KEY)


def test_every_answer_is_one_that_the_description_declares(
    app: FastAPI, database: Database, tmp_path: Path
) -> None:
    jobs = [StoredJob(database, status=status).id for status in STATUSES]
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION.format(jobs=json.dumps(jobs)))
    with serving(app) as gateway:
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
                *("run", f"{gateway.url}/openapi.json", "--no-color"),
                *("--max-examples", str(EXAMPLES), "--generation-deterministic"),
                *("--header", f"Authorization: {authorization()['Authorization']}"),
                *("--header", f"apikey: {SERVICE_KEY}"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
