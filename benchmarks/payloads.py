"""Sends the captured payloads through a worker exactly as they were captured.

    python -m benchmarks.payloads sdxl
    python -m benchmarks.payloads wan --model /models/Wan2.1-T2V-1.3B-Diffusers --only video_fast

Real Valkey, real files, real HTTP; the checkpoint is the demo's unless `--model` names another one. On a CPU
this takes minutes a payload: nothing is reduced.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from pydantic import SecretStr

import sdxl_worker
import wan_worker
from shared.local_valkey import local_valkey
from shared.log import configure_logging
from shared.settings import load_settings
from workers.build import build
from workers.local_receiver import LocalReceiver

PAYLOADS = Path(__file__).parents[1] / "tests" / "data" / "payloads"
KINDS = {"sdxl": sdxl_worker.KIND, "wan": wan_worker.KIND}


def spelled(document: dict[str, Any], spelling: str) -> str:
    text = json.dumps(document)
    return {"object": text, "array": json.dumps([text]), "string": json.dumps(text)}[spelling]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--model", help="checkpoint (default: the demo's)")
    parser.add_argument("--only", help="part of a payload's file name")
    parser.add_argument("--spellings", default="object", help="of object,array,string")
    arguments = parser.parse_args()
    kind = KINDS[arguments.kind]
    files = [
        file
        for file in sorted(PAYLOADS.glob("*.json"))
        if ("sdxl" in file.name) == (kind.name == "sdxl") and (arguments.only or "") in file.name
    ]
    with (
        local_valkey() as server,
        tempfile.TemporaryDirectory() as folder,
        LocalReceiver(secret=SecretStr("s" * 32)) as receiver,
    ):
        url = f"redis://127.0.0.1:{server.port}"
        variables: dict[str, Any] = {
            "_env_file": None,
            "REDIS_URL": url,
            "STORAGE_URL": Path(folder).as_uri(),
            "CALLBACK_URL": receiver.url,
            "JOB_CALLBACK_SECRET": "s" * 32,
            kind.model_variable: arguments.model or str(kind.demo_model),
        }
        settings = load_settings(kind.model_variable, **variables)
        configure_logging("console", secrets=settings.secrets(), level="WARNING")
        built = build(kind, settings, once=True)
        print(
            f"{built.info.gpu_name}, {built.info.dtype}; checkpoint {arguments.model or kind.demo_model.name}"
        )
        jobs = []
        for file in files:
            for spelling in arguments.spellings.split(","):
                document = json.loads(file.read_text())
                document["id"] = f"{file.stem}-{spelling}"
                jobs.append(document["id"])
                redis.Redis.from_url(url).lpush(kind.queue(settings), spelled(document, spelling))
        started = time.monotonic()
        code = built.worker.run()
        built.close()
        for job_id in jobs:
            callback = receiver.wait_for(job_id, {"completed", "failed"}, 10)
            metadata = callback.document["metadata"]
            if callback.status == "failed":
                print(f"{job_id:<42} failed {metadata['error_code']}: {callback.document['error_message']}")
                continue
            print(
                f"{job_id:<42} completed {len(callback.document['assets'])} file(s)"
                f" {metadata['width']}x{metadata['height']} {metadata.get('frame_num', 1)} frame(s)"
                f" {metadata['num_inference_steps']} steps in {metadata['generation_time']:.1f} s"
            )
        print(f"all in {time.monotonic() - started:.1f} s, exit code {code}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
