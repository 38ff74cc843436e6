"""What a whole run writes, searched for planted secrets and prompts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import redis
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from support.harness import Installation
from support.jobs import payload
from support.supabase_double import Bucket, Reply, SupabaseDouble

from shared.assets import asset_key, thumbnail_key
from shared.errors import InvalidJob, NodeFault
from shared.job import Envelope, Job
from shared.local_valkey import local_valkey
from shared.log import configure_logging
from shared.plan import Plan, make_plan
from shared.presets import SDXL
from shared.settings import load_settings
from workers.engines.fake import FakeEngine, WordWindow
from workers.local_receiver import LocalReceiver

PASSWORD = "planted-redis-password"
CALLBACK_TOKEN = "planted-callback-token"
CALLBACK_SECRET = "planted-callback-secret"
PROMPT = "zanzibar lighthouse planted prompt"
NEGATIVE = "planted negative words"
REFERENCE = "https://example.supabase.co/storage/v1/object/sign/reference_images/u/r.png?token=plantedtoken"


class BadInput(Exception):
    """An error of a library that quotes what it was given."""


def before_step(plan: Plan, step: int) -> None:
    if plan.job_id == "unforeseen":
        raise BadInput(f"cannot tokenize {plan.prompt} {plan.negative_prompt}")
    if plan.job_id == "node":
        raise NodeFault("the device is gone")


def test_a_whole_run_writes_no_secret_anywhere_and_no_prompt_into_its_logs(
    tmp_path: Path, restored_logging: None
) -> None:
    logs = io.StringIO()
    with local_valkey() as server, SupabaseDouble() as storage:
        # Set here, because the embedded server waits for itself without a password.
        redis.Redis(port=server.port).config_set("requirepass", PASSWORD)
        for name in ("sdxl_image_fast", "sdxl_image_high"):
            storage.buckets[name] = Bucket(name)
        key = storage.service_key
        with LocalReceiver(secret=SecretStr(CALLBACK_SECRET)) as receiver:
            installation = Installation(
                f"redis://:{PASSWORD}@127.0.0.1:{server.port}",
                tmp_path,
                receiver,
                engine=FakeEngine(before_step=before_step),
                overrides={
                    "STORAGE_URL": None,
                    "SUPABASE_URL": storage.url,
                    "SUPABASE_SERVICE_KEY": key,
                    "CALLBACK_TOKEN": CALLBACK_TOKEN,
                    "JOB_CALLBACK_SECRET": CALLBACK_SECRET,
                },
            )
            settings = load_settings(
                "SDXL_MODEL",
                _env_file=None,
                REDIS_URL=installation.redis_url,
                SUPABASE_URL=storage.url,
                SUPABASE_SERVICE_KEY=key,
                CALLBACK_URL=receiver.url,
                CALLBACK_TOKEN=CALLBACK_TOKEN,
                JOB_CALLBACK_SECRET=CALLBACK_SECRET,
                SDXL_MODEL="fake",
            )
            configure_logging("json", secrets=settings.secrets(), stream=logs, level="DEBUG")
            texts = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
            documents = [
                payload("plain", **texts),
                payload("unforeseen", **texts),
                payload("invalid", config={"size": PROMPT}, **texts),
                payload("reference", metadata={"reference_image_url": REFERENCE}, **texts),
                payload("refused", prompt=f"a schoolgirl, {PROMPT}"),
            ]
            installation.push(*documents, b'{"id": "broken", "prompt": "' + PROMPT.encode())
            storage.scripted.extend([Reply.json(500, {"message": "down", "statusCode": "500"})])
            built = installation.build(once=True)
            assert built.worker.run() == 0
            built.close()
            installation.push(payload("node", **texts))
            assert installation.run_once() == 70
            callbacks = b"".join(each.body for each in receiver.received)
        redis_holds = _everything_in(redis.Redis.from_url(installation.redis_url))
        stored = b"".join(
            item.content for bucket in storage.buckets.values() for item in bucket.objects.values()
        )
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    logged = logs.getvalue()
    assert "unexpected error" in logged
    assert "BadInput" in logged
    for secret in (PASSWORD, CALLBACK_TOKEN, CALLBACK_SECRET, key):
        assert secret not in logged
        for place in (redis_holds, callbacks, stored, files):
            assert secret.encode() not in place
    for text in ("zanzibar", "planted negative", "plantedtoken", "schoolgirl"):
        assert text not in logged
    assert b"plantedtoken" not in callbacks
    assert b"schoolgirl" not in callbacks


def _everything_in(client: Any) -> bytes:
    read = {
        b"string": client.get,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"stream": client.xrange,
    }
    return b"".join(key + repr(read[client.type(key)](key)).encode() for key in client.keys("*"))


IDENTIFIERS = st.text(max_size=12) | st.from_regex(r"[A-Za-z0-9._/%-]{1,12}", fullmatch=True)


@given(IDENTIFIERS, IDENTIFIERS, IDENTIFIERS | st.none())
def test_no_ids_and_no_bucket_lead_out_of_the_users_own_folder(
    user: str, job: str, bucket: str | None
) -> None:
    document = {"id": job, "type": "sdxl_image_fast", "prompt": "a boat", "user_id": user, "bucket": bucket}
    try:
        plan = make_plan(Job.parse(Envelope(job, "sdxl_image_fast", document), SDXL), WordWindow())
    except InvalidJob:
        return
    assert plan.bucket == "sdxl_image_fast"
    for key in (asset_key(plan, 0), thumbnail_key(plan, 0)):
        folder, name = key.split("/")
        assert folder == user
        assert name.startswith(f"{job}_1.")
        assert folder not in {".", ".."}
        assert name.isascii()
