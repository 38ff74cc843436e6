from __future__ import annotations

from typing import Any

import pytest
import redis
from support.queues import Fleet

from shared.errors import OwnershipLost, ServiceMisconfigured, ServiceUnavailable
from shared.progress import StepProgress, read_progress
from shared.queue import (
    Lease,
    QueueSettings,
    RedisConnections,
    WorkQueue,
    member_of,
    translated_redis_errors,
)

A, B, C = b'{"id":"a","n":12345678901234567890}', b'{"id":"b"}', b'{"id":"c"}'
BODY = b'{"job_id":"a","status":"completed"}'


@pytest.fixture
def fleet(redis_url: str) -> Fleet:
    return Fleet(redis_url)


def take(queue: WorkQueue) -> Lease:
    lease = queue.take(0)
    assert lease is not None
    return lease


def expire(fleet: Fleet, sweeper: WorkQueue) -> int:
    """Let the leases of all but the sweeper run out, in the two passes of a sweep."""
    fleet.advance(fleet.settings.lease_s + 1)
    first = sweeper.beat().swept
    fleet.advance(fleet.settings.grace_s)
    return first + sweeper.beat().swept


def test_the_oldest_element_is_taken_first_from_either_side(redis_url: str, client: Any) -> None:
    for side, push in (("right", client.lpush), ("left", client.rpush)):
        client.delete("sdxl_queue")
        push("sdxl_queue", A, B)
        queue = Fleet(redis_url, QueueSettings(pop=side)).worker()  # type: ignore[arg-type]
        assert [take(queue).raw, take(queue).raw] == [A, B]
        queue.leave()
        assert client.llen("sdxl_queue") == 2


def test_a_taken_element_stays_in_the_workers_list_byte_for_byte(fleet: Fleet) -> None:
    fleet.push(A)
    queue = fleet.worker()
    lease = take(queue)
    assert fleet.client.lrange(queue.keys.processing(queue.worker), 0, -1) == [A]
    assert lease.raw == A


@pytest.mark.parametrize("side", ["right", "left"])
def test_elements_that_were_looked_at_are_taken_as_they_would_be_one_by_one(
    redis_url: str, client: Any, side: Any
) -> None:
    push = client.lpush if side == "right" else client.rpush
    push("sdxl_queue", A, B, C)
    queue = Fleet(redis_url, QueueSettings(pop=side)).worker()
    assert queue.peek(2) == [A, B]
    assert client.llen("sdxl_queue") == 3
    assert [lease.raw for lease in queue.take_expected([A, B])] == [A, B]
    assert client.lrange(queue.keys.processing(queue.worker), 0, -1) == [B, A]
    assert take(queue).raw == C


def test_only_what_was_looked_at_is_taken(fleet: Fleet) -> None:
    fleet.push(A, C)
    queue = fleet.worker()
    assert [lease.raw for lease in queue.take_expected([A, B])] == [A]
    assert fleet.waiting() == [C]
    assert queue.take_expected([B]) == []


def test_a_marked_element_is_never_taken_beside_another(fleet: Fleet) -> None:
    fleet.push(A, B)
    queue = fleet.worker()
    fleet.client.hset(queue.keys.deliveries, Lease(B, "w").sha, "1:0")
    assert [lease.raw for lease in queue.take_expected([A, B])] == [A]
    assert fleet.waiting() == [B]


def test_a_swept_worker_takes_nothing_that_it_looked_at(fleet: Fleet) -> None:
    fleet.push(A)
    queue, other = fleet.worker(), fleet.worker()
    expire(fleet, other)
    assert queue.take_expected([A]) == []
    assert fleet.waiting() == [A]


def test_elements_whose_reply_was_lost_are_adopted_by_the_next_take(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.push(A, B)
    queue = fleet.worker()
    run = queue.scripts.run

    def lost(*arguments: Any, **options: Any) -> Any:
        run(*arguments, **options)
        raise ServiceUnavailable("the reply was lost")

    with monkeypatch.context() as patch:
        patch.setattr(queue.scripts, "run", lost)
        with pytest.raises(ServiceUnavailable):
            queue.take_expected([A, B])
    assert {take(queue).raw, take(queue).raw} == {A, B}
    assert queue.take(0) is None


def test_a_commit_ends_the_element_and_puts_its_callback_into_the_outbox(fleet: Fleet) -> None:
    fleet.push(A)
    queue = fleet.worker()
    assert queue.finish(take(queue), "a", BODY) == "committed"
    assert fleet.client.hget(queue.keys.outbox_bodies, "a") == BODY
    assert fleet.client.get(queue.keys.done("a")) == BODY
    assert not fleet.client.exists(queue.keys.processing(queue.worker))


def test_a_commit_whose_reply_was_lost_may_be_repeated(fleet: Fleet) -> None:
    fleet.push(A)
    queue = fleet.worker()
    lease = take(queue)
    queue.finish(lease, "a", BODY)
    assert queue.finish(lease, "a", BODY) == "committed"


def test_a_second_element_of_a_done_job_is_acknowledged_and_its_stored_callback_goes_out_again(
    fleet: Fleet,
) -> None:
    fleet.push(A)
    queue = fleet.worker()
    queue.finish(take(queue), "a", BODY)
    fleet.client.delete(queue.keys.outbox, queue.keys.outbox_bodies, queue.keys.outbox_state)
    fleet.push(A)
    lease = take(queue)
    assert queue.begin(lease, "a").done
    assert queue.finish(lease, "a", b"") == "duplicate"
    assert fleet.client.hget(queue.keys.outbox_bodies, "a") == BODY
    assert not fleet.client.exists(queue.keys.processing(queue.worker))


def test_a_repeat_whose_stored_callback_ran_out_is_not_acknowledged(fleet: Fleet) -> None:
    fleet.push(A)
    queue = fleet.worker()
    lease = take(queue)
    with pytest.raises(OwnershipLost):
        queue.finish(lease, "a", b"")
    assert fleet.client.lrange(queue.keys.processing(queue.worker), 0, -1) == [A]


def test_what_a_dead_worker_held_comes_back_marked_and_in_its_order(fleet: Fleet) -> None:
    fleet.push(A, B, C)
    dead, alive = fleet.worker(), fleet.worker()
    take(dead)
    take(dead)
    assert expire(fleet, alive) == 2
    assert fleet.waiting() == [A, B, C]
    begun = alive.begin(take(alive), "a")
    assert (begun.attempt, begun.marked, begun.deaths) == (2, True, 0)
    alive.begin(take(alive), "b")
    assert not alive.begin(take(alive), "c").marked


def test_a_death_counts_against_a_marked_element_only_when_it_was_alone(fleet: Fleet) -> None:
    fleet.push(A, B)
    sweeper = fleet.worker()
    first = fleet.worker()
    take(first), take(first)
    expire(fleet, sweeper)
    second = fleet.worker()
    take(second), take(second)
    expire(fleet, sweeper)
    third = fleet.worker()
    lease = take(third)
    assert third.begin(lease, "a").deaths == 0
    expire(fleet, sweeper)
    assert sweeper.begin(take(sweeper), "a").deaths == 1
    assert sweeper.begin(take(sweeper), "b").deaths == 0


def test_one_expired_look_is_not_enough_to_sweep_a_worker(fleet: Fleet) -> None:
    fleet.push(A)
    stopped, sweeper = fleet.worker(), fleet.worker()
    take(stopped)
    fleet.advance(91)
    assert sweeper.beat().swept == 0
    assert stopped.beat().alive
    fleet.advance(31)
    assert sweeper.beat().swept == 0
    assert fleet.waiting() == []


def test_a_clock_that_jumps_ahead_sweeps_nobody_who_renews_in_time(fleet: Fleet) -> None:
    workers = [fleet.worker() for _ in range(3)]
    fleet.push(A, B, C)
    for queue in workers:
        take(queue)
    fleet.advance(24 * 3600)
    for _ in range(3):
        assert all(queue.beat().alive for queue in workers)
        fleet.advance(20)
    assert fleet.waiting() == []


def test_a_clock_that_jumps_back_delays_a_sweep_but_loses_nothing(fleet: Fleet) -> None:
    fleet.push(A)
    dead, sweeper = fleet.worker(), fleet.worker()
    take(dead)
    fleet.advance(-3600)
    assert sweeper.beat().swept == 0
    fleet.advance(3600)
    assert expire(fleet, sweeper) == 1
    assert fleet.waiting() == [A]


def test_a_swept_worker_can_neither_renew_nor_commit_nor_own(fleet: Fleet) -> None:
    fleet.push(A)
    stopped, sweeper = fleet.worker(), fleet.worker()
    lease = take(stopped)
    expire(fleet, sweeper)
    assert not stopped.beat().alive
    assert not stopped.owns(lease, "a")
    with pytest.raises(OwnershipLost):
        stopped.finish(lease, "a", BODY)
    with pytest.raises(OwnershipLost):
        stopped.begin(lease, "a")
    assert fleet.waiting() == [A]
    assert not fleet.client.exists(stopped.keys.outbox)


def test_what_a_woken_worker_moves_into_its_old_list_comes_back_without_blame(fleet: Fleet) -> None:
    stopped, sweeper = fleet.worker(), fleet.worker()
    expire(fleet, sweeper)
    fleet.push(A)
    take(stopped)
    fleet.advance(2)
    fleet.client.delete(sweeper.keys.sweeper)
    assert sweeper.beat().swept == 1
    assert not sweeper.begin(take(sweeper), "a").marked


def test_the_lists_of_swept_workers_are_looked_at_for_seven_days(fleet: Fleet) -> None:
    stopped, sweeper = fleet.worker(), fleet.worker()
    expire(fleet, sweeper)
    fleet.advance(6 * 24 * 3600)
    fleet.push(A)
    take(stopped)
    fleet.client.delete(sweeper.keys.sweeper)
    sweeper.beat()
    assert fleet.waiting() == [A]


def test_two_sweepers_move_an_element_once(fleet: Fleet) -> None:
    fleet.push(A)
    dead, one, two = fleet.worker(), fleet.worker(), fleet.worker()
    take(dead)
    fleet.advance(91)
    one.beat(), two.beat()
    fleet.advance(30)
    assert one.beat().swept + two.beat().swept == 1
    assert fleet.waiting() == [A]


def test_leaving_gives_everything_back_unmarked_and_releases_the_lease(fleet: Fleet) -> None:
    fleet.push(A, B)
    queue, other = fleet.worker(), fleet.worker()
    take(queue), take(queue)
    assert queue.leave() == 2
    assert fleet.waiting() == [A, B]
    assert fleet.client.zscore(queue.keys.leases, queue.worker) is None
    assert not other.begin(take(other), "a").marked


def test_an_element_given_back_is_taken_next(fleet: Fleet) -> None:
    fleet.push(A, B)
    queue = fleet.worker()
    assert queue.give_back(take(queue))
    assert fleet.waiting() == [A, B]


def test_a_return_with_blame_counts_like_a_death(fleet: Fleet) -> None:
    fleet.push(A)
    queue = fleet.worker()
    for expected in (0, 1, 2):
        queue.give_back(take(queue), blamed=True)
        lease = take(queue)
        begun = queue.begin(lease, "a")
        assert (begun.marked, begun.deaths) == (True, expected)
        queue.give_back(lease)


def test_a_dead_letter_holds_the_exact_bytes_and_the_reason(fleet: Fleet) -> None:
    raw = bytes(range(256))
    fleet.push(raw)
    queue = fleet.worker()
    queue.finish(take(queue), None, None, "no job")
    ((_, entry),) = fleet.client.xrange(queue.keys.dead)
    assert entry[b"raw"] == raw
    assert entry[b"reason"] == b"no job"


def test_dead_letters_are_limited_in_number_and_age(redis_url: str) -> None:
    fleet = Fleet(redis_url, QueueSettings(dead_count=3))
    queue = fleet.worker()
    for number in range(5):
        fleet.push(b"%d" % number)
        queue.finish(take(queue), None, None, "no job")
    assert fleet.client.xlen(queue.keys.dead) == 3


def test_elements_of_the_same_bytes_are_two_elements(fleet: Fleet) -> None:
    fleet.push(A, A)
    queue = fleet.worker()
    first, second = take(queue), take(queue)
    queue.give_back(first)
    assert fleet.client.lrange(queue.keys.processing(queue.worker), 0, -1) == [second.raw]


def test_after_an_error_the_own_list_is_looked_at_before_another_element_is_taken(fleet: Fleet) -> None:
    fleet.push(A, B)
    queue = fleet.worker()
    # The reply that carried A was lost: A lies in the worker's list and nobody knows of it.
    fleet.client.lmove("sdxl_queue", queue.keys.processing(queue.worker), "RIGHT", "LEFT")
    queue._unsure = True
    assert take(queue).raw == A
    assert take(queue).raw == B
    assert queue.take(0) is None


def test_an_unreachable_server_is_a_service_that_is_unavailable(redis_url: str) -> None:
    queue = WorkQueue(RedisConnections("redis://127.0.0.1:1", 1), "sdxl_queue")
    with pytest.raises(ServiceUnavailable):
        queue.take(0)


def test_cancellations_of_all_jobs_in_hand_are_read_in_one_look(fleet: Fleet) -> None:
    queue = fleet.worker()
    fleet.client.set(queue.keys.cancel("b"), 1)
    assert queue.look(["a", "b"]) == {"b"}
    assert queue.look(["a", "b", "c"], {"c": "1/2 1", "a": "3/4 1"}) == {"b"}
    assert queue.look([]) == set()


def test_published_progress_is_read_by_job_and_forgotten_within_a_minute(fleet: Fleet) -> None:
    queue, progress = fleet.worker(), StepProgress(step=3, steps=25, attempt=2)
    queue.look(["a", "b"], {"a": progress.encode()})
    assert read_progress(fleet.client, "sdxl_queue", ["a", "b", "unheard of"]) == {"a": progress}
    assert read_progress(fleet.client, "sdxl_queue", []) == {}
    assert 50_000 < fleet.client.pttl(queue.keys.progress("a")) <= 60_000


def test_progress_that_nobody_could_have_published_is_no_progress(fleet: Fleet) -> None:
    queue = fleet.worker()
    for raw in (b"", b"25", b"1/25", b"1/25 1 1", b"-1/25 1", b"\xff/25 1", b"1" * 5000):
        fleet.client.set(queue.keys.progress("a"), raw)
        assert read_progress(fleet.client, "sdxl_queue", ["a"]) == {}


def test_the_end_of_a_job_is_the_end_of_its_progress(fleet: Fleet) -> None:
    queue = fleet.worker()
    fleet.push(A)
    lease = take(queue)
    queue.look(["a"], {"a": "25/25 1"})
    queue.finish(lease, "a", BODY)
    assert not fleet.client.exists(queue.keys.progress("a"))
    queue.look(["a"], {"a": "25/25 1"})
    assert not fleet.client.exists(queue.keys.progress("a"))


def test_an_id_that_is_no_identifier_never_becomes_part_of_a_key() -> None:
    assert member_of("job-1") == "job-1"
    for strange in ("a b", "../x", "a" * 129, "{other}", "\ud800", ""):
        assert member_of(strange).startswith("sha256-")


def test_all_keys_lie_in_the_slot_of_the_queue(fleet: Fleet) -> None:
    queue = fleet.worker()
    fleet.push(A)
    queue.look(["a", "b"], {"b": "1/2 1"})
    queue.finish(take(queue), "a", BODY)
    queue.beat()
    names = {key.decode() for key in fleet.client.keys("*")} - {"test:now"}
    assert all(name.startswith("{sdxl_queue}:") for name in names)


def test_a_failover_or_a_full_server_is_a_fault_that_passes(redis_url: str) -> None:
    for error in (
        redis.exceptions.ReadOnlyError("You can't write against a read only replica."),
        redis.exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        redis.ResponseError(
            "ERR Error running script: -READONLY You can't write against a read only replica."
        ),
        redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
    ):
        with pytest.raises(ServiceUnavailable), translated_redis_errors():
            raise error
    with pytest.raises(ServiceMisconfigured), translated_redis_errors():
        raise redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")


def test_of_two_elements_of_one_job_only_one_may_write_its_files(fleet: Fleet) -> None:
    fleet.push(A, A)
    one, two = fleet.worker(), fleet.worker()
    first, second = take(one), take(two)
    assert one.claim_publish(first, "a", "run-1") == "go"
    assert one.claim_publish(first, "a", "run-1") == "go"
    assert two.claim_publish(second, "a", "run-2") == "wait"
    one.finish(first, "a", BODY)
    assert two.claim_publish(second, "a", "run-2") == "done"


def test_the_claim_of_a_dead_worker_holds_nobody_up(fleet: Fleet) -> None:
    fleet.push(A, A)
    dead, alive = fleet.worker(), fleet.worker()
    assert dead.claim_publish(take(dead), "a", "run-1") == "go"
    lease = take(alive)
    fleet.advance(fleet.settings.lease_s + 1)
    alive.beat()
    assert alive.claim_publish(lease, "a", "run-2") == "go"


def test_a_worker_that_learns_of_its_sweep_goes_on_under_a_new_id_and_drops_the_old_work(
    fleet: Fleet,
) -> None:
    fleet.push(A)
    stopped, sweeper = fleet.worker(), fleet.worker()
    lease = take(stopped)
    lost: list[str] = []
    stopped.on_lost = lost.append
    expire(fleet, sweeper)
    with pytest.raises(OwnershipLost):
        stopped.begin(lease, "a")
    assert lost == [lease.worker]
    assert stopped.worker != lease.worker
    assert stopped.beat().alive
