"""Payloads for tests."""

from __future__ import annotations

import json
from typing import Any


def payload(job_id: str = "job-1", job_type: str = "sdxl_image_fast", **changes: Any) -> dict[str, Any]:
    """A small payload. `config=…` and `metadata=…` replace those objects; None removes a field."""
    document: dict[str, Any] = {
        "id": job_id,
        "type": job_type,
        "prompt": "a red circle on a white background",
        "user_id": "user-1",
        "config": {"size": "64*64", "sample_steps": 2, "num_images": 1, "seed": 7},
        **changes,
    }
    return {key: value for key, value in document.items() if value is not None}


def element(document: dict[str, Any], spelling: str = "object") -> bytes:
    """A queue element in one of the three spellings that occur in the wild."""
    text = json.dumps(document)
    spellings = {"object": text, "array": json.dumps([text]), "string": json.dumps(text)}
    return spellings[spelling].encode()
