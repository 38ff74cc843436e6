from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.jobs import element, payload

from shared.queue import QueueSettings, RedisConnections, WorkQueue
from shared.settings import Settings
from workers.admin import Console, Refused, main

BODY = b'{"job_id":"done-1","status":"failed","metadata":{"original_prompt":"a boat"}}'
MALFORMED = b"\xff\x00 a boat, no json"


@dataclass
class Operator:
    """Runs the console as from a shell."""

    capsys: pytest.CaptureFixture[str]
    code: int = 0
    errors: str = ""
    out: str = field(default="", init=False)

    def __call__(self, *argv: str) -> str:
        out = io.StringIO()
        self.code = main(argv, out)
        self.errors = self.capsys.readouterr().err
        self.out = out.getvalue()
        return self.out

    def json(self, *argv: str) -> Any:
        return json.loads(self("--json", *argv))


@pytest.fixture
def operator(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> Operator:
    monkeypatch.chdir(tmp_path)
    for each in Settings.model_fields.values():
        for name in each.validation_alias.choices:  # type: ignore[union-attr]
            monkeypatch.delenv(str(name), raising=False)
    monkeypatch.setenv("REDIS_URL", redis_url)
    return Operator(capsys)


MakeWorker = Callable[..., WorkQueue]


@pytest.fixture
def make_worker(redis_url: str) -> MakeWorker:
    def make(queue: str = "sdxl_queue", **settings: Any) -> WorkQueue:
        worker = WorkQueue(
            RedisConnections(redis_url, 1),
            queue,
            QueueSettings(**settings),
            info=lambda: {"name": "pod-1", "version": "0.1.0", "kind": "sdxl"},
        )
        worker.register()
        return worker

    return make


def bury(
    worker: WorkQueue, client: Any, raw: bytes, job: str | None = None, body: bytes | None = None
) -> str:
    """Leave `raw` in the dead letters and return its id there."""
    client.lpush(worker.keys.queue, raw)
    lease = worker.take(0)
    assert lease is not None
    worker.finish(lease, job, body, "no job at all" if job is None else "abandoned")
    return str(client.xrevrange(worker.keys.dead, count=1)[0][0].decode())


# --- queues ------------------------------------------------------------------------------------------


def test_empty_queues_are_shown_without_anything_being_set_up(operator: Operator) -> None:
    views = operator.json("queues")
    assert operator.code == 0
    assert [view["queue"] for view in views] == ["sdxl_queue", "wan_queue"]
    assert all(view["waiting"] == 0 and view["oldest_s"] is None and view["workers"] == [] for view in views)


def test_the_queues_tell_what_waits_runs_and_went_wrong(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    busy, idle = make_worker(), make_worker()
    bury(busy, client, MALFORMED)
    client.lpush("sdxl_queue", element(payload("held-1")))
    busy.take(0)
    client.lpush("sdxl_queue", element(payload("done-1")))
    lease = idle.take(0)
    assert lease is not None
    idle.finish(lease, "done-1", BODY)
    created = datetime.now(UTC).timestamp() - 3600
    oldest = payload("old-1", created_at=datetime.fromtimestamp(created, UTC).isoformat())
    client.lpush("sdxl_queue", element(oldest, "array"), element(payload("new-1")))
    (view,) = operator.json("--queue", "sdxl", "queues")
    assert view["waiting"] == 2
    assert view["oldest_s"] == pytest.approx(3600, abs=60)
    assert (view["in_flight"], view["dead"], view["outbox"], view["outbox_dead"]) == (1, 1, 1, 0)
    assert view["outbox_next_due_s"] == 0.0
    by_id = {worker["id"]: worker for worker in view["workers"]}
    assert by_id[busy.worker]["in_flight"] == ["held-1"]
    assert by_id[idle.worker]["in_flight"] == []
    assert by_id[idle.worker]["version"] == "0.1.0"
    assert by_id[idle.worker]["lease_s"] == pytest.approx(90, abs=30)
    text = operator("queues")
    for expected in ("sdxl_queue", "waiting", "pod-1", "0.1.0", busy.worker, "held-1", "wan_queue"):
        assert expected in text
    assert "boat" not in text + json.dumps(view)


def test_the_oldest_element_is_the_one_at_the_pop_side(
    operator: Operator, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.rpush("sdxl_queue", element(payload(created_at="2020-01-01T00:00:00Z")), MALFORMED)
    assert operator.json("--queue", "sdxl", "queues")[0]["oldest_s"] is None
    monkeypatch.setenv("QUEUE_POP", "left")
    assert operator.json("--queue", "sdxl", "queues")[0]["oldest_s"] > 1e8


def test_a_workers_expired_lease_and_a_swept_workers_leftover_are_shown(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    expired, swept = make_worker(lease_s=-5), make_worker()
    swept.leave()
    client.lpush("sdxl_queue", MALFORMED)
    swept.take(0)
    workers = {one["id"]: one for one in operator.json("--queue", "sdxl", "queues")[0]["workers"]}
    assert workers[expired.worker]["lease_s"] <= -5
    assert workers[swept.worker]["lease_s"] is None
    assert workers[swept.worker]["in_flight"] == ["(malformed)"]


def test_the_general_options_may_stand_before_or_behind_the_command(operator: Operator) -> None:
    before = operator("--json", "--queue", "wan", "queues")
    assert json.loads(before)[0]["queue"] == "wan_queue"
    assert operator("queues", "--queue", "wan", "--json") == before
    assert operator("--queue", "wan", "dead", "list", "--json") == "[]\n"


def test_any_list_can_be_looked_at_by_its_name(operator: Operator, client: Any) -> None:
    client.lpush("another", MALFORMED)
    (view,) = operator.json("--queue", "another", "queues")
    assert (view["queue"], view["waiting"]) == ("another", 1)


# --- dead letters ------------------------------------------------------------------------------------


def test_dead_letters_are_listed_without_their_prompts(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    sdxl, wan = make_worker(), make_worker("wan_queue")
    malformed = bury(sdxl, client, MALFORMED)
    abandoned = bury(wan, client, element(payload("done-1", prompt="a boat")), "done-1", BODY)
    listed = {one["id"]: one for one in operator.json("dead", "list")}
    assert listed[malformed]["reason"] == "no job at all"
    assert (listed[malformed]["job"], listed[malformed]["terminal_callback"]) == (None, False)
    assert (listed[abandoned]["job"], listed[abandoned]["terminal_callback"]) == ("done-1", True)
    assert listed[abandoned]["queue"] == "wan_queue"
    text = operator("dead", "list")
    assert malformed in text
    assert "done-1" in text
    assert "boat" not in text + json.dumps(listed)
    assert len(operator.json("--queue", "wan", "dead", "list")) == 1


def test_the_newest_dead_letters_are_listed_up_to_a_limit(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    worker = make_worker()
    ids = [bury(worker, client, MALFORMED) for _ in range(3)]
    assert [one["id"] for one in operator.json("dead", "list", "--limit", "2")] == [ids[2], ids[1]]


def test_one_dead_letter_is_shown_and_its_element_only_on_request(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    raw = element(payload("done-1", prompt="a boat"))
    entry = bury(make_worker(), client, raw, "done-1", BODY)
    shown = operator.json("dead", "show", entry)
    assert (shown["job"], shown["reason"], shown["size"]) == ("done-1", "abandoned", len(raw))
    assert "boat" not in json.dumps(shown) + operator("dead", "show", entry)
    assert operator.json("dead", "show", entry, "--reveal")["raw"] == raw.decode()
    assert "boat" in operator("dead", "show", entry, "--reveal")


def test_bytes_that_are_no_text_are_revealed_without_loss_and_without_moving_the_cursor(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    worker = make_worker()
    entry = bury(worker, client, MALFORMED)
    assert operator.json("dead", "show", entry, "--reveal")["raw_base64"] == "/wAgYSBib2F0LCBubyBqc29u"
    entry = bury(worker, client, b"\x1b[2J a boat")
    assert "\x1b" not in operator("dead", "show", entry, "--reveal")


def test_a_dead_letter_without_a_terminal_callback_is_requeued_behind_what_waits(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    worker = make_worker()
    entry = bury(worker, client, MALFORMED)
    client.lpush("sdxl_queue", b"waiting")
    assert operator.json("dead", "requeue", entry) == {"requeued": entry, "queue": "sdxl_queue", "job": None}
    assert client.lrange("sdxl_queue", 0, -1) == [MALFORMED, b"waiting"]
    assert client.xlen(worker.keys.dead) == 0
    operator("dead", "requeue", entry)
    assert operator.code == 1
    assert client.llen("sdxl_queue") == 2


def test_requeued_elements_go_behind_what_waits_from_the_left_too(
    operator: Operator, make_worker: MakeWorker, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUE_POP", "left")
    entry = bury(make_worker(pop="left"), client, MALFORMED)
    client.rpush("sdxl_queue", b"waiting")
    operator("dead", "requeue", entry)
    assert client.lrange("sdxl_queue", 0, -1) == [b"waiting", MALFORMED]


def test_a_dead_letter_whose_callback_was_sent_is_requeued_only_under_a_new_id(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    worker = make_worker()
    config = {"seed": 9007199254740991, "guidance_scale": 6.1, "size": "64*64"}
    raw = element(payload("done-1", config=config, prompt="ein Boot auf dem Fluß"), "array")
    entry = bury(worker, client, raw, "done-1", BODY)
    assert operator("dead", "requeue", entry) == ""
    assert operator.code == 1
    assert "--new-id" in operator.errors
    assert client.llen("sdxl_queue") == 0
    operator("dead", "requeue", entry, "--new-id", "again-1")
    assert operator.code == 0
    (queued,) = client.lrange("sdxl_queue", 0, -1)
    assert json.loads(queued) == {**json.loads(json.loads(raw)[0]), "id": "again-1"}
    assert client.xlen(worker.keys.dead) == 0


def test_a_new_id_must_not_be_one_whose_callback_was_sent(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    worker = make_worker()
    entry = bury(worker, client, element(payload("done-1")), "done-1", BODY)
    operator("dead", "requeue", entry, "--new-id", "done-1")
    assert (operator.code, client.llen("sdxl_queue"), client.xlen(worker.keys.dead)) == (1, 0, 1)
    assert "done-1 ended" in operator.errors


@pytest.mark.parametrize("new_id", ["a b", "../x", "", "x" * 129, "-x"])
def test_a_new_id_has_to_be_one_that_a_worker_accepts(
    operator: Operator, make_worker: MakeWorker, client: Any, new_id: str
) -> None:
    worker = make_worker()
    entry = bury(worker, client, element(payload("done-1")), "done-1", BODY)
    operator("dead", "requeue", entry, f"--new-id={new_id}")
    assert (operator.code, client.llen("sdxl_queue"), client.xlen(worker.keys.dead)) == (1, 0, 1)
    assert "--new-id" in operator.errors


def test_what_is_no_job_cannot_get_a_new_id(operator: Operator, make_worker: MakeWorker, client: Any) -> None:
    worker = make_worker()
    entry = bury(worker, client, MALFORMED)
    operator("dead", "requeue", entry, "--new-id", "again-1")
    assert (operator.code, client.llen("sdxl_queue"), client.xlen(worker.keys.dead)) == (1, 0, 1)
    assert "boat" not in operator.errors


def test_of_two_operators_who_requeue_the_same_entry_one_is_refused(
    redis_url: str, make_worker: MakeWorker, client: Any
) -> None:
    entry = bury(make_worker(), client, MALFORMED)
    one, two = (Console(client, "sdxl_queue", "right") for _ in range(2))
    letters = [console.dead_letter(entry) for console in (one, two)]
    assert letters[0] is not None
    assert letters[1] is not None
    one.requeue(letters[0], None)
    with pytest.raises(Refused, match="no dead letter any more"):
        two.requeue(letters[1], None)
    assert client.lrange("sdxl_queue", 0, -1) == [MALFORMED]


def test_a_dead_letter_can_be_dropped(operator: Operator, make_worker: MakeWorker, client: Any) -> None:
    worker = make_worker()
    keep, drop = bury(worker, client, MALFORMED), bury(worker, client, MALFORMED)
    assert operator.json("dead", "drop", drop) == {"dropped": drop, "queue": "sdxl_queue"}
    assert [one["id"] for one in operator.json("dead", "list")] == [keep]


def test_an_id_that_is_no_dead_letter_is_refused_with_a_sentence(operator: Operator) -> None:
    for action in ("show", "requeue", "drop"):
        operator("dead", action, "1700000000000-0")
        assert operator.code == 1
        assert operator.errors == (
            "There is no dead letter 1700000000000-0; `dead list` shows those there are.\n"
        )


@pytest.mark.parametrize("argv", [(), ("dead",), ("dead", "show", "x"), ("dead", "list", "--limit", "0")])
def test_a_wrong_command_line_ends_with_2(operator: Operator, argv: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as raised:
        operator(*argv)
    assert raised.value.code == 2


# --- callbacks and cancellations ---------------------------------------------------------------------


def commit(worker: WorkQueue, client: Any, job_id: str) -> None:
    client.lpush(worker.keys.queue, element(payload(job_id)))
    lease = worker.take(0)
    assert lease is not None
    worker.finish(lease, job_id, BODY.replace(b"done-1", job_id.encode()))


def test_waiting_callbacks_are_listed_without_their_bodies_and_made_due(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    worker = make_worker()
    for job_id in ("one", "two"):
        commit(worker, client, job_id)
    in_an_hour = client.zscore(worker.keys.outbox, "one") + 3_600_000
    client.zadd(worker.keys.outbox, {"one": in_an_hour})
    client.hset(worker.keys.outbox_state, "one", b"7 %d" % (in_an_hour - 7_200_000))
    listed = {one["job"]: one for one in operator.json("--queue", "sdxl", "outbox", "list")}
    assert listed["two"]["due_s"] == 0.0
    assert listed["one"]["due_s"] == pytest.approx(3600, abs=60)
    assert listed["one"]["age_s"] == pytest.approx(3600, abs=60)
    assert (listed["one"]["attempts"], listed["one"]["status"]) == (7, "failed")
    assert "boat" not in json.dumps(listed) + operator("outbox", "list")
    assert operator.json("outbox", "deliver") == {"due": {"sdxl_queue": 2, "wan_queue": 0}}
    assert all(one["due_s"] == 0.0 for one in operator.json("outbox", "list"))
    assert worker.beat().callback_due_s == 0.0


def test_callbacks_that_were_given_up_are_listed_with_the_reason(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    client.xadd(make_worker().keys.outbox_dead, {"job": "one", "body": BODY, "reason": "410: refused"})
    (listed,) = operator.json("outbox", "dead")
    assert (listed["job"], listed["status"], listed["reason"]) == ("one", "failed", "410: refused")
    text = operator("outbox", "dead")
    assert "410: refused" in text
    assert "boat" not in text


def test_empty_lists_say_that_they_are_empty(operator: Operator) -> None:
    assert operator("dead", "list") == "There are no dead letters.\n"
    assert operator("outbox", "list") == "No callback waits.\n"
    assert operator("outbox", "dead") == "No callback was given up.\n"
    assert operator.json("dead", "list") == operator.json("outbox", "list") == []


def test_a_cancellation_is_seen_by_the_workers_and_forgotten_after_seven_days(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    worker = make_worker()
    assert operator.json("cancel", "job-1") == {
        "job": "job-1",
        "asked": {"sdxl_queue": True, "wan_queue": True},
    }
    assert worker.look(["job-1", "job-2"]) == {"job-1"}
    assert client.ttl("{sdxl_queue}:cancel:job-1") == pytest.approx(7 * 24 * 3600, abs=60)


def test_a_job_that_has_ended_cannot_be_cancelled(
    operator: Operator, make_worker: MakeWorker, client: Any
) -> None:
    commit(make_worker(), client, "job-1")
    operator("--queue", "sdxl", "cancel", "job-1")
    assert operator.code == 1
    assert operator.errors == "Job job-1 has ended already.\n"
    assert not client.exists("{sdxl_queue}:cancel:job-1")


# --- starts that fail --------------------------------------------------------------------------------


def test_without_a_redis_address_the_console_says_what_to_set(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL")
    operator("queues")
    assert operator.code == 78
    assert "REDIS_URL is missing" in operator.errors


def test_a_redis_that_does_not_answer_is_told_in_a_sentence(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://default:planted-password@127.0.0.1:1")
    operator("queues")
    assert operator.code == 69
    assert operator.errors == "Redis cannot be reached (ConnectionError).\n"
