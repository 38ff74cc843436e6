"""A worker that ends as soon as nothing is in hand has sent the callback of what it held last."""

from __future__ import annotations

from typing import Any

import pytest
from support.harness import Installation
from support.jobs import payload


@pytest.mark.parametrize(
    ("changes", "status"), [({}, "completed"), ({"config": {"num_images": 2}}, "failed")], ids=str
)
def test_the_senders_know_of_a_callback_before_its_job_is_out_of_hand(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], status: str
) -> None:
    built = installation.build(once=True)
    steps: list[str] = []
    announcer, hands = built.pipeline._announcer, built.pipeline._hands
    for owner, method in ((announcer, "committed"), (hands, "remove")):
        real = getattr(owner, method)

        def noted(*args: Any, method: str = method, real: Any = real) -> Any:
            steps.append(method)
            return real(*args)

        monkeypatch.setattr(owner, method, noted)
    installation.push(payload(**changes))
    assert built.worker.run() == 0
    built.close()
    assert steps == ["committed", "remove"]
    assert installation.terminal("job-1").status == status


def test_a_repeated_job_is_told_of_before_it_is_out_of_hand(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.run_jobs(payload())
    test_the_senders_know_of_a_callback_before_its_job_is_out_of_hand(
        installation, monkeypatch, {}, "completed"
    )
