"""What becomes of a finished job when a service or the device fails under it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from support.harness import Installation, until
from support.jobs import payload
from support.supabase_double import Bucket, SupabaseDouble

import workers.ends
from shared.plan import Plan
from workers.engines.fake import FakeEngine
from workers.scratch import LOCK


@pytest.fixture
def supabase(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(workers.ends, "MISCONFIGURED_PAUSE_S", 0.1)
    with SupabaseDouble() as double:
        for name in ("sdxl_image_fast", "sdxl_image_high"):
            double.buckets[name] = Bucket(name)
        installation.overrides |= {
            "STORAGE_URL": None,
            "SUPABASE_URL": double.url,
            "SUPABASE_SERVICE_KEY": double.service_key,
        }
        yield double


def test_a_bucket_that_vanishes_keeps_the_files_pauses_the_intake_and_nothing_is_generated_twice(
    installation: Installation, supabase: SupabaseDouble
) -> None:
    engine = FakeEngine()
    installation.engine = engine
    with installation.serving() as built:
        bucket = supabase.buckets.pop("sdxl_image_fast")
        installation.push(payload("kept"))
        until(lambda: built.pipeline.standing.misconfigured)
        # A take that was under way when the bucket went may still bring one job, and no further one.
        installation.push(*(payload(f"waiting-{n}") for n in range(3)))
        until(lambda: len(built.pipeline._hands.all()) == 2)
        assert _finished(built.scratch.path)
        assert installation.client.llen("sdxl_queue") == 2
        supabase.buckets["sdxl_image_fast"] = bucket
        job_ids = ["kept", "waiting-0", "waiting-1", "waiting-2"]
        assert [installation.terminal(job_id).status for job_id in job_ids] == ["completed"] * 4
        until(lambda: not built.pipeline.standing.misconfigured)
    assert [plan.job_id for plan in engine.plans] == job_ids
    assert {f"user-1/{job_id}_1.png" for job_id in job_ids} <= set(bucket.objects)


def _finished(scratch: Path) -> list[Path]:
    return [file for file in scratch.rglob("*") if file.is_file() and file.name != LOCK]


def test_a_bucket_that_is_missing_at_the_start_is_told_with_all_the_others(
    installation: Installation, supabase: SupabaseDouble
) -> None:
    from shared.errors import SettingsError

    supabase.buckets.clear()
    with pytest.raises(SettingsError) as refusal:
        installation.build()
    assert "sdxl_image_fast" in str(refusal.value)
    assert "sdxl_image_high" in str(refusal.value)


def test_a_device_that_hangs_returns_its_job_with_blame_and_ends_the_process(
    installation: Installation,
) -> None:
    entered, release = threading.Event(), threading.Event()

    def before_step(plan: Plan, step: int) -> None:
        entered.set()
        release.wait(30)

    installation.engine = FakeEngine(before_step=before_step)
    built = installation.build()
    thread = threading.Thread(target=built.worker.run, daemon=True)
    thread.start()
    installation.push(payload())
    assert entered.wait(20)
    built.progress.hung = lambda: True  # type: ignore[method-assign]
    until(lambda: installation.exits != [])
    assert installation.exits[0] == 70
    assert installation.client.llen("sdxl_queue") == 1
    assert installation.client.hvals("{sdxl_queue}:deliveries") == [b"1:0"]
    # A real process is gone now; here its threads are ended by hand, before they take another test's job.
    built.worker.stopping.set()
    release.set()
    built.worker._to_generate.put(None)
    built.queue.unblock()
    until(lambda: not any(each.name == "intake" for each in threading.enumerate()))
    thread.join(10)


def test_a_refusal_is_noted_with_a_keyed_hash_and_sealed_to_the_operators_key_alone(
    installation: Installation, tmp_path: Path
) -> None:
    import base64
    import hashlib
    import hmac
    import json

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = tmp_path / "public.pem"
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    installation.overrides |= {"MODERATION_KEY": "a key", "MODERATION_PUBLIC_KEY": str(public)}
    installation.run_jobs(payload(prompt="a schoolgirl on a bench"))
    ((_, entry),) = installation.client.xrange("{sdxl_queue}:moderation")
    assert (entry[b"job"], entry[b"user"]) == (b"job-1", b"user-1")
    assert entry[b"rule"]
    expected = hmac.new(b"a key", b"a schoolgirl on a bench", hashlib.sha256).hexdigest()
    assert entry[b"hash"].decode() == expected
    assert b"schoolgirl" not in b"".join(entry.values())
    sealed = base64.b64decode(entry[b"sealed"])
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    content_key = key.decrypt(sealed[:256], oaep)
    texts = json.loads(AESGCM(content_key).decrypt(sealed[256:268], sealed[268:], None))
    assert texts["prompt"] == "a schoolgirl on a bench"
