"""The OpenAPI description, corrected where this application answers otherwise than FastAPI assumes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi


def openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for path in schema["paths"].values():
            for operation in path.values():
                _correct(operation["responses"])
        for name in ("HTTPValidationError", "ValidationError"):
            schema.get("components", {}).get("schemas", {}).pop(name, None)
        app.openapi_schema = schema
    return app.openapi_schema


def _correct(responses: dict[str, Any]) -> None:
    # A request of the wrong form is answered with 400.
    if "HTTPValidationError" in str(responses.get("422", {})):
        del responses["422"]
    for answer in responses.values():
        for content in list(answer.get("content", {}).values()):
            # An error is JSON, whatever its route answers otherwise.
            if content.get("schema", {}).get("$ref", "").endswith("/ErrorBody"):
                answer["content"] = {"application/json": content}
