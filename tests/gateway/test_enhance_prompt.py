"""enhance-prompt over HTTP: its shapes, whom it serves, what it refuses."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from support.gateway import OTHER_USER_ID, USER_ID, authorization, gateway_settings

from gateway.app import create_app
from gateway.enhance.language_model import Task
from gateway.enhance_prompt import EnhancePromptRequest
from shared.presets import PRESETS

PATH = "/functions/v1/enhance-prompt"


@pytest.fixture
def app(redis_url: str, sqlite_url: str, tmp_path: Any) -> FastAPI:
    """Nothing is stored here, so that one kind of database is enough."""
    return create_app(gateway_settings(redis_url, sqlite_url, tmp_path))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, headers=authorization(USER_ID), raise_server_exceptions=False) as client:
        yield client


class FakeModel:
    def __init__(self, answer: str) -> None:
        self.answer, self.tasks = answer, list[Task]()

    def write(self, task: Task) -> str:
        self.tasks.append(task)
        if not self.answer:
            raise RuntimeError
        return self.answer


def ask_models(app: FastAPI, **models: FakeModel) -> None:
    parts = app.state.parts
    enhancer = dataclasses.replace(parts.enhancer, language_models=models)
    app.state.parts = dataclasses.replace(parts, enhancer=enhancer)


def body(**changes: Any) -> dict[str, Any]:
    return {"prompt": "a red boat on a lake", "jobType": "sdxl_image_fast"} | changes


def enhanced(client: TestClient, **changes: Any) -> dict[str, Any]:
    response = client.post(PATH, json=body(**changes))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("job_type", PRESETS)
def test_every_job_type_is_answered_in_the_agreed_shape(client: TestClient, job_type: str) -> None:
    answer = enhanced(client, jobType=job_type, userId=USER_ID, sessionId="s-1", quality="high", model="auto")
    assert answer["success"] is True
    assert answer["originalPrompt"] == "a red boat on a lake"
    assert answer["enhancedPrompt"].startswith("a red boat on a lake")
    assert answer["enhancedPrompt"] != answer["originalPrompt"]
    assert answer["compressionRatio"] == 1.0
    assert set(answer) == {
        "success",
        "enhancedPrompt",
        "originalPrompt",
        "compressionRatio",
        "qualityScore",
        "tokenCount",
        "analytics",
    }
    tokens, analytics = answer["tokenCount"], answer["analytics"]
    assert set(tokens) == {"original", "enhanced", "compressed"}
    limit = 75 if job_type.startswith("sdxl") else 250
    assert tokens["original"] < tokens["enhanced"] == tokens["compressed"] <= limit
    assert set(analytics) == {"enhancementMethod", "processingTime", "fallbackUsed", "qualityMetrics"}
    assert analytics["enhancementMethod"] == "system_prompt"
    assert analytics["fallbackUsed"] is False
    assert analytics["processingTime"] >= 0
    assert analytics["qualityMetrics"] == {"coherence": 1.0, "visualAppeal": 1.0, "technicalQuality": 1.0}
    assert answer["qualityScore"] == 1.0


def test_the_quality_asked_for_counts(client: TestClient) -> None:
    fast, high = (enhanced(client, quality=quality)["tokenCount"]["enhanced"] for quality in ("fast", "high"))
    assert fast < high
    assert enhanced(client)["tokenCount"]["enhanced"] == fast


def test_the_model_asked_for_counts(client: TestClient) -> None:
    assert ". " in enhanced(client, model="wan")["enhancedPrompt"]
    assert ". " not in enhanced(client, jobType="image_high", model="sdxl")["enhancedPrompt"]
    assert ". " not in enhanced(client, model="auto")["enhancedPrompt"]


def test_a_model_that_cannot_do_the_job_is_refused(client: TestClient) -> None:
    response = client.post(PATH, json=body(jobType="video_fast", model="sdxl"))
    assert response.status_code == 400
    assert response.json() == {
        "success": False,
        "error": "model: sdxl draws no video, which video_fast asks for.",
        "code": "invalid_request",
        "retry": False,
    }


def test_a_long_prompt_is_made_to_fit(client: TestClient) -> None:
    answer = enhanced(
        client, prompt="a red boat, " + "mist over the water, an old pier, " * 20 + "sharp focus"
    )
    assert answer["tokenCount"]["compressed"] <= 75 < answer["tokenCount"]["enhanced"]
    assert answer["enhancedPrompt"] == "a red boat, mist over the water, an old pier, sharp focus"
    assert answer["compressionRatio"] < 0.2


def test_a_language_models_text_is_told_as_its_own(app: FastAPI, client: TestClient) -> None:
    model = FakeModel("a red boat on a lake, golden hour")
    ask_models(app, chat_worker=model)
    answer = enhanced(client, sessionId="s-1")
    assert answer["enhancedPrompt"] == "a red boat on a lake, golden hour"
    assert answer["analytics"]["enhancementMethod"] == "chat_worker"
    assert answer["analytics"]["fallbackUsed"] is False
    client.post(PATH, json=body(sessionId="s-1"), headers=authorization(OTHER_USER_ID))
    client.post(PATH, json=body())
    conversations = [task.conversation for task in model.tasks]
    assert conversations == [f"{USER_ID}/s-1", f"{OTHER_USER_ID}/s-1", None]


def test_a_failing_language_model_is_told_as_a_fallback(app: FastAPI, client: TestClient) -> None:
    ask_models(app, chat_worker=FakeModel(""))
    answer = enhanced(client)
    assert answer["analytics"]["enhancementMethod"] == "system_prompt"
    assert answer["analytics"]["fallbackUsed"] is True
    assert answer["enhancedPrompt"] != answer["originalPrompt"]


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": None},
        {"prompt": ""},
        {"prompt": " \n"},
        {"prompt": "a" * 10_001},
        {"prompt": "a\x00b"},
        {"prompt": "a\ud800"},
        {"prompt": 7},
        {"jobType": "sdxl_video_fast"},
        {"jobType": None},
        {"userId": "me"},
        {"sessionId": ""},
        {"sessionId": "a b"},
        {"sessionId": "a" * 129},
        {"quality": "best"},
        {"model": "flux"},
    ],
)
def test_a_request_of_the_wrong_form_is_refused_with_the_fields_name(
    client: TestClient, changes: dict[str, Any]
) -> None:
    response = client.post(
        PATH, content=json.dumps(body(**changes)), headers={"Content-Type": "application/json"}
    )
    assert response.status_code == 400
    answer = response.json()
    (name,) = changes
    assert answer["code"] == "invalid_request"
    assert name in answer["error"]


def test_another_users_id_is_refused(client: TestClient) -> None:
    response = client.post(PATH, json=body(userId=OTHER_USER_ID))
    assert response.status_code == 403
    assert response.json()["code"] == "forbidden"
    assert enhanced(client, userId=USER_ID.upper())


def test_without_a_token_nothing_is_enhanced(client: TestClient) -> None:
    assert client.post(PATH, json=body(), headers={"Authorization": ""}).status_code == 401


def test_a_refused_prompt_is_not_enhanced_and_the_refusal_is_noted(
    client: TestClient, valkey: redis.Redis
) -> None:
    response = client.post(PATH, json=body(prompt="a schoolgirl, topless"))
    assert response.status_code == 422
    answer = response.json()
    assert answer["code"] == "content_refused"
    assert "schoolgirl" not in answer["error"]
    assert valkey.xlen("{sdxl_queue}:moderation") == 1


def test_a_user_who_asks_too_often_has_to_wait(redis_url: str, sqlite_url: str, tmp_path: Any) -> None:
    app = create_app(gateway_settings(redis_url, sqlite_url, tmp_path, RATE_LIMIT="2/minute"))
    with TestClient(app, headers=authorization(USER_ID)) as client:
        statuses = [client.post(PATH, json=body()).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]


def test_fields_beside_the_known_ones_are_ignored_and_null_is_absent() -> None:
    absent = dict.fromkeys(["userId", "sessionId", "quality", "model"])
    asked = EnhancePromptRequest.model_validate(body(promptTemplate="x", **absent))
    assert asked == EnhancePromptRequest.model_validate(body())
