"""The SDXL worker on its real parts: Valkey, diffusers, files, HTTP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import SecretStr
from support.checkpoints import Loaded, sdxl_checkpoint
from support.harness import SECRET, Installation
from support.jobs import element, payload

from shared.errors import MalformedElement
from shared.job import Envelope
from workers.engines.fake import FakeEngine
from workers.engines.sdxl import SdxlEngine
from workers.local_receiver import LocalReceiver, Received

PAYLOADS = Path(__file__).parent / "data" / "payloads"


@pytest.fixture(scope="module")
def engine() -> Loaded:
    return Loaded(SdxlEngine(str(sdxl_checkpoint()), device="cpu", dtype="float32"))


@pytest.fixture
def sdxl(installation: Installation, engine: Loaded) -> Installation:
    installation.engine = engine
    return installation


def captured(name: str, **config: Any) -> dict[str, Any]:
    """A captured payload, with its size and steps reduced."""
    document: dict[str, Any] = json.loads((PAYLOADS / f"{name}.json").read_text())
    document["config"] |= {"width": 64, "height": 64, "num_inference_steps": 2, **config}
    return document


def picture(installation: Installation, callback: Received, index: int = 0) -> NDArray[np.uint8]:
    with Image.open(installation.asset(callback, index)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("spelling", ["object", "array", "string"])
def test_the_captured_payloads_go_through_in_every_spelling(sdxl: Installation, spelling: str) -> None:
    documents = [
        captured(name) for name in ("sdxl_image_fast", "sdxl_image_high", "sdxl_image_high_reference_compel")
    ]
    fast, high, reference = sdxl.run_jobs(*documents, spelling=spelling)
    for callback, document in ((fast, documents[0]), (high, documents[1])):
        metadata = callback.document["metadata"]
        assert callback.status == "completed"
        assert len(callback.document["assets"]) == document["config"]["num_images"]
        assert metadata["seed"] == document["config"]["seed"]
        adjusted = {item["field"]: (item["requested"], item["used"]) for item in metadata["adjustments"]}
        assert adjusted.pop("scheduler") == ("unipc", "euler")
        # A demo checkpoint has a small vocabulary and more tokens a word: what does not fit is cut, and said.
        whole = document["negative_prompt"]
        assert adjusted.pop("negative_prompt", (whole, whole)) == (whole, metadata["negative_prompt"])
        assert metadata["negative_prompt"].endswith("child, minor")
        assert adjusted == {}
        assert picture(sdxl, callback).shape == (64, 64, 3)
    assert reference.document["metadata"]["error_code"] == "unsupported"


def test_picture_i_of_a_batch_of_six_is_the_single_picture_of_its_seed(sdxl: Installation) -> None:
    config = {"size": "64*64", "steps": 3, "seed": 41}
    batch, *singles = sdxl.run_jobs(
        payload("batch", config={**config, "num_images": 6}),
        *(payload(f"single-{i}", config={**config, "seed": 41 + i}) for i in range(6)),
    )
    for index, single in enumerate(singles):
        difference = picture(sdxl, batch, index).astype(int) - picture(sdxl, single)
        assert np.abs(difference).max() <= 1


def test_the_same_job_twice_gives_identical_bytes(sdxl: Installation) -> None:
    (first,) = sdxl.run_jobs(payload())
    before = sdxl.asset(first).read_bytes()
    sdxl.client.flushall()
    (second,) = sdxl.run_jobs(payload())
    assert sdxl.asset(second).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "field", "reported"),
    [
        ({"negative_prompt": "blue, child, minor"}, "negative_prompt", "blue, child, minor"),
        ({"config": {"guidance_scale": 12}}, "guidance_scale", 12.0),
        ({"config": {"steps": 5}}, "num_inference_steps", 5),
        ({"config": {"size": "96*64"}}, "width", 96),
        ({"config": {"seed": 0}}, "seed", 0),
        ({"prompt": "a blue square on a lake"}, "final_prompt", "a blue square on a lake"),
    ],
)  # fmt: skip
def test_a_change_in_the_payload_changes_what_is_executed_and_what_is_reported(
    sdxl: Installation, change: dict[str, Any], field: str, reported: Any
) -> None:
    base = {"size": "64*64", "steps": 3, "seed": 7}
    changed_config = {**base, **change.get("config", {})}
    if "size" in change.get("config", {}):
        changed_config["size"] = change["config"]["size"]
    plain, changed = sdxl.run_jobs(
        payload("plain", config=base), payload("changed", **{**change, "config": changed_config})
    )
    assert changed.document["metadata"][field] == reported
    assert plain.document["metadata"][field] != reported
    assert not np.array_equal(picture(sdxl, plain), picture(sdxl, changed))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10_000) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
DOCUMENTS = st.fixed_dictionaries(
    {"id": st.sampled_from(["a", "b", "c-1", "../x"]) | JSON_VALUES, "type": st.just("sdxl_image_fast")},
    optional={
        "prompt": st.just("a boat") | JSON_VALUES,
        "user_id": st.just("u") | JSON_VALUES,
        "config": st.dictionaries(
            st.sampled_from(["size", "seed", "steps", "num_images"]),
            st.sampled_from(["64*64", 1, 2, 3]) | JSON_VALUES,
            max_size=3,
        )
        | JSON_VALUES,
    },
)
ELEMENTS = st.binary(max_size=40) | DOCUMENTS.flatmap(
    lambda document: st.sampled_from(["object", "array", "string"]).map(
        lambda spelling: element(document, spelling)
    )
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ELEMENTS, min_size=1, max_size=8))
def test_any_bytes_end_in_exactly_one_of_completed_failed_and_dead_and_the_worker_goes_on(
    installation: Installation, elements: list[bytes]
) -> None:
    installation.client.flushall()
    dead, job_ids = [], {"the-last-one"}
    for raw in elements:
        try:
            job_ids.add(Envelope.decode(raw).job_id)
        except MalformedElement:
            dead.append(raw)
    with LocalReceiver(secret=SecretStr(SECRET)) as receiver:
        fresh = replace(installation, receiver=receiver, engine=FakeEngine())
        fresh.push(*elements, payload("the-last-one"))
        assert fresh.run_once() == 0
        assert fresh.terminal("the-last-one").status == "completed"
        statuses = {
            job_id: [c.status for c in callbacks if c.status != "processing"]
            for job_id, callbacks in receiver.accepted.items()
        }
    assert set(statuses) == job_ids
    assert all(len(ends) == 1 for ends in statuses.values())
    letters = [entry[b"raw"] for _, entry in fresh.client.xrange("{sdxl_queue}:dead")]
    assert sorted(letters) == sorted(dead)
    assert fresh.leftovers() == []
