from __future__ import annotations

from typing import Any

import pytest
import redis

from gateway.errors import ApiError
from gateway.limits import REST_S, Pace


def refusal(pace: Pace, user: str = "user-1") -> ApiError | None:
    try:
        pace.take(user)
    except ApiError as error:
        return error
    return None


def takes(pace: Pace, user: str = "user-1") -> bool:
    return refusal(pace, user) is None


def test_all_gateways_count_together(redis_url: str) -> None:
    first, second = (Pace("3/hour", redis.Redis.from_url(redis_url)) for _ in range(2))
    assert [takes(first), takes(second), takes(first)] == [True, True, True]
    refused = refusal(second)
    assert refused is not None
    assert (refused.status, refused.code) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) >= 1
    assert takes(second, "user-2")


def test_without_redis_each_gateway_counts_for_itself_and_asks_again_later(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment, asked = 0.0, 0
    client = redis.Redis.from_url(redis_url)
    pace = Pace("2/hour", client, lambda: moment)
    original = redis.connection.Connection.send_packed_command

    def fails(self: Any, command: Any, check_health: bool = True) -> None:
        nonlocal asked
        asked += 1
        raise redis.ConnectionError("gone")

    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", fails)
    assert [takes(pace) for _ in range(3)] == [True, True, False]
    tried = asked
    assert takes(pace, "user-2")
    assert asked == tried
    monkeypatch.setattr(redis.connection.Connection, "send_packed_command", original)
    moment = REST_S
    assert takes(pace)
