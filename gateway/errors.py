"""What a client is told when a request fails: one body for every error, and the only place that writes it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.routing import Match

from shared.errors import ServiceError, ServiceUnavailable

log = logging.getLogger(__name__)

RETRY_AFTER_S: Final = 5

_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_CODES: Final = {400: "invalid_request", 401: "unauthorized", 403: "forbidden", 404: "not_found"}


class ErrorBody(BaseModel):
    """Every answer that is no success. `retry` is false where the same request will never succeed."""

    model_config = ConfigDict(extra="allow")

    success: bool = False
    error: str
    code: str
    retry: bool | None = None


class ApiError(Exception):
    """A request that fails with `status`. `message` is a sentence for the client, `code` for its program.

    `further` stands beside them in the body, e.g. `retry=False`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        **further: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = dict(headers or {})
        self.further = further


def too_many(code: str, message: str, retry_after_s: float) -> ApiError:
    return ApiError(429, code, message, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})


def not_found(what: str) -> ApiError:
    return ApiError(404, "not_found", f"There is no such {what}, or it is not yours.", retry=False)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error answers that a route declares in OpenAPI."""
    return {
        status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
        | ({"headers": _RETRY_AFTER} if status in {429, 503} else {})
        for status in statuses
    }


_RETRY_AFTER: Final = {
    "Retry-After": {"description": "seconds to wait", "schema": {"type": "integer", "minimum": 1}}
}


def install(app: FastAPI) -> None:
    """Answer every error of `app` with an `ErrorBody`."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(Exception, _unforeseen)


def _answer(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None, **further: Any
) -> JSONResponse:
    body = {"success": False, "error": _encodable(message), "code": code, **further}
    return JSONResponse(body, status, dict(headers or {}))


def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _answer(error.status, error.code, error.message, error.headers, **error.further)


def _invalid(_request: Request, error: Exception) -> Response:
    """The first fault of a request, as a sentence that does not quote what was sent."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"] if part != "body") or "the body"
    reason = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    return _answer(400, _CODES[400], f"{where}: {reason}.", retry=False)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    phrase = HTTPStatus(status).phrase
    code = _CODES.get(status, phrase.lower().replace(" ", "_"))
    # A body that is no JSON stays none.
    further = {"retry": False} if status == 400 else {}
    headers = {"Allow": _methods(request)} if status == 405 else error.headers
    return _answer(status, code, f"{phrase}.", headers, **further)


def _methods(request: Request) -> str:
    """All methods of a path. The framework tells those of its first route only."""
    routes = request.app.routes

    def is_taken(method: str) -> bool:
        asked = {**request.scope, "method": method}
        return any(route.matches(asked)[0] == Match.FULL for route in routes)

    return ", ".join(filter(is_taken, _METHODS))


def _service_error(_request: Request, error: Exception) -> Response:
    """A service behind the gateway does not do its part; its name is for the log, not for the client."""
    log.error("a request could not be served: %s", error)
    asked = error.retry_after if isinstance(error, ServiceUnavailable) else None
    headers = {"Retry-After": str(max(1, math.ceil(asked or RETRY_AFTER_S)))}
    return _answer(503, "unavailable", "The service cannot do this now; try again.", headers)


def _unforeseen(_request: Request, _error: Exception) -> Response:
    # The server logs the error; its text may quote the request.
    return _answer(500, "internal_error", "The request failed for a reason on the server's side.")


def _encodable(text: str) -> str:
    """Half of a surrogate pair, which a client may send in a field's name, cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()
