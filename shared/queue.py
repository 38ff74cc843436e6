"""The queue in Redis: leases, taking, committing, giving back, sweeping.

A worker moves an element from the queue into a list of its own (BLMOVE), and the element stays there until
one script ends it. Whoever finds the lease of a worker expired moves its list back. ARCHITECTURE.md has the
protocol and the table of keys; the scripts in `lua/` are the steps, each of them atomic.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any, Final, Literal, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.errors import OwnershipLost, ServiceError, ServiceMisconfigured, ServiceUnavailable
from shared.job import IDENTIFIER, MAX_IDENTIFIER_CHARACTERS

log = logging.getLogger(__name__)

LATE_S: Final = 1.0
"""A command may reach the server so many seconds after its sender gave it up."""
SEVEN_DAYS_MS: Final = 7 * 24 * 3600 * 1000
PROGRESS_TTL_MS: Final = 60_000
"""A worker that dies leaves what it published of its progress for so long."""
SERVER_CLOCK: Final = resources.files("shared").joinpath("lua/_clock.lua").read_text()
_BLAME: Final = resources.files("shared").joinpath("lua/_blame.lua").read_text()


class Keys:
    """Names of the keys beside a queue; all of them hash to the queue's own cluster slot."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self._prefix = f"{{{queue}}}:"
        self.leases = self._prefix + "leases"
        self.workers = self._prefix + "workers"
        self.tombstones = self._prefix + "tombstones"
        self.suspects = self._prefix + "suspects"
        self.sweeper = self._prefix + "sweeper"
        self.deliveries = self._prefix + "deliveries"
        self.dead = self._prefix + "dead"
        self.outbox = self._prefix + "outbox"
        self.outbox_bodies = self._prefix + "outbox:bodies"
        self.outbox_state = self._prefix + "outbox:state"
        self.outbox_dead = self._prefix + "outbox:dead"
        self.moderation = self._prefix + "moderation"

    def processing(self, worker: str) -> str:
        return f"{self._prefix}processing:{worker}"

    def done(self, member: str) -> str:
        return f"{self._prefix}done:{member}"

    def cancel(self, member: str) -> str:
        return f"{self._prefix}cancel:{member}"

    def pushed(self, member: str) -> str:
        return f"{self._prefix}pushed:{member}"

    def publishing(self, member: str) -> str:
        return f"{self._prefix}publishing:{member}"

    def progress(self, member: str) -> str:
        return f"{self._prefix}progress:{member}"


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Times in seconds. `grace_s` is how long an expired lease is only suspected."""

    pop: Literal["left", "right"] = "right"
    lease_s: float = 90.0
    grace_s: float = 30.0
    leftovers_every_s: float = 300.0
    dead_count: int = 10_000
    dead_ttl_s: float = 30 * 24 * 3600.0

    @property
    def push(self) -> str:
        """The command that puts an element where the next worker takes it first."""
        return "RPUSH" if self.pop == "right" else "LPUSH"


@dataclass(frozen=True, slots=True)
class Lease:
    """One element that this worker holds. Its exact bytes are its identity in Redis."""

    raw: bytes
    worker: str

    @property
    def sha(self) -> str:
        return hashlib.sha1(self.raw, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known of an element before it runs.

    `attempt` counts from 1. `marked`: a worker died holding it, so it runs alone; `deaths` counts those in
    which it was marked and alone.
    """

    attempt: int
    marked: bool
    deaths: int
    done: bool
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Beat:
    """What a renewal reports. `alive` is False when this worker was swept; `callback_due_s` None if none."""

    alive: bool
    swept: int = 0
    callback_due_s: float | None = None
    callbacks_waiting: int = 0


def member_of(job_id: str) -> str:
    """A job id as part of a key: itself if it is a valid one, else its SHA-256."""
    if len(job_id) <= MAX_IDENTIFIER_CHARACTERS and IDENTIFIER.fullmatch(job_id):
        return job_id
    return "sha256-" + hashlib.sha256(job_id.encode("utf-8", "surrogatepass")).hexdigest()


class Scripts:
    """The Lua scripts, bound to a connection. Tests of the protocol replace the server's `clock`."""

    def __init__(self, client: redis.Redis, clock: str = SERVER_CLOCK) -> None:
        self._client = client
        self._clock = clock
        self._registered: dict[str, Any] = {}

    def run(self, name: str, keys: list[str], args: list[Any], client: redis.Redis | None = None) -> Any:
        """On `client` instead of the own connection, where one is given."""
        script = self._registered.get(name)
        if script is None:
            body = resources.files("shared").joinpath(f"lua/{name}.lua").read_text()
            script = self._client.register_script(self._clock + _BLAME + body)
            self._registered[name] = script
        with translated_redis_errors():
            return script(keys=keys, args=args, client=client)


@contextmanager
def translated_redis_errors() -> Iterator[None]:
    """The one seam where redis-py's errors become ours."""
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        raise ServiceMisconfigured("Redis refuses the user or password in REDIS_URL") from error
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise ServiceUnavailable(f"Redis cannot be reached ({type(error).__name__})") from error
    except redis.ResponseError as error:
        # The message may quote an element, so that only what it is about is passed on.
        if _passes(error):
            raise ServiceUnavailable(f"Redis cannot take commands now ({type(error).__name__})") from error
        raise ServiceMisconfigured(f"Redis refuses a command ({type(error).__name__})") from error
    except redis.RedisError as error:
        raise ServiceUnavailable(f"Redis failed ({type(error).__name__})") from error


_PASSING_CODES = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "OOM", "MISCONF")


def _passes(error: redis.ResponseError) -> bool:
    """Whether a failover, a full or a loading server is behind an error.

    redis-py makes classes of some codes and takes the code off their text; from inside a script the code
    stands in the middle of it.
    """
    classes = redis.exceptions
    if isinstance(
        error,
        classes.ReadOnlyError
        | classes.OutOfMemoryError
        | classes.MasterDownError
        | classes.ClusterDownError
        | classes.TryAgainError,
    ):
        return True
    return any(re.search(rf"(^|[ -]){code}\b", str(error)) for code in _PASSING_CODES)


def request_cancellation(client: redis.Redis, keys: Keys, job_id: str) -> bool:
    """Ask the workers for a job's end. False where it has ended already.

    The mark lives as long as a done marker: after it a job of the same id is another job. A commit that it
    meets wins. Raises `ServiceUnavailable` or `ServiceMisconfigured`.
    """
    member = member_of(job_id)
    with translated_redis_errors():
        if client.exists(keys.done(member)):
            return False
        client.set(keys.cancel(member), 1, px=SEVEN_DAYS_MS)
        return True


def stored_callback(client: redis.Redis, keys: Keys, job_id: str) -> bytes | None:
    """The terminal callback of a job that has ended, kept as long as its done marker; None otherwise.

    Raises `ServiceUnavailable` or `ServiceMisconfigured`.
    """
    with translated_redis_errors():
        return cast(bytes | None, client.get(keys.done(member_of(job_id))))


class RedisConnections:
    """The two kinds of connection a worker has.

    Commands may be repeated by the client after a lost reply: every script gives the same answer twice. A
    blocking take must not: a repeated BLMOVE would take a second job and leave the first unseen.
    """

    def __init__(self, url: str, block_s: float, command_timeout_s: float = 5) -> None:
        self._name = f"take-{uuid.uuid4().hex}"
        common: dict[str, Any] = {
            "socket_connect_timeout": command_timeout_s,
            "socket_keepalive": True,
            "protocol": 2,
        }
        self.commands = redis.Redis.from_url(
            url,
            socket_timeout=command_timeout_s,
            # redis-py applies it to the command and again to the connection below; every caller repeats.
            retry=Retry(NoBackoff(), 1),
            health_check_interval=30,
            **common,
        )
        self._blocking_options = common | {
            "socket_timeout": block_s + 10,
            "retry": Retry(NoBackoff(), 0),
            "single_connection_client": True,
            "client_name": self._name,
        }
        self._url = url
        self._blocking: redis.Redis | None = None

    @property
    def blocking(self) -> redis.Redis:
        """Connects at the first use, so that a server that is down is told where it is needed."""
        if self._blocking is None:
            self._blocking = redis.Redis.from_url(self._url, **self._blocking_options)
        return self._blocking

    def check(self) -> None:
        """Use both connections once. A server that gives connections no names is used without."""
        self.commands.ping()
        try:
            self.blocking.ping()
        except redis.ResponseError:
            self._blocking_options.pop("client_name")
            self._blocking = None
            self.blocking.ping()

    def unblock(self) -> None:
        """End the wait of the thread that blocks, so that it gets no element.

        Its connection has a name by which the server knows it; closing the socket under redis-py's feet
        would leave its reader in an undefined state.
        """
        if self._blocking is None:
            return
        for client in self.commands.client_list():
            if client.get("name") == self._name:
                self.commands.client_unblock(int(client["id"]))


class WorkQueue:
    """A worker's side of one queue. Thread-safe; only `take` blocks.

    Every method raises `ServiceUnavailable` or `ServiceMisconfigured` when Redis does not answer as it
    should; nothing is lost then, and the call may be repeated.
    """

    def __init__(
        self,
        connections: RedisConnections,
        queue: str,
        settings: QueueSettings = QueueSettings(),
        *,
        info: Callable[[], dict[str, Any]] = dict,
        clock: str = SERVER_CLOCK,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self.keys = Keys(queue)
        self.settings = settings
        self.scripts = Scripts(connections.commands, clock)
        self._connections = connections
        self._info = info
        self._new_id = new_id
        self._worker = ""
        self._held: Counter[bytes] = Counter()
        self._unsure = False
        self._unsure_until = 0.0
        self._lock = threading.Lock()
        self._registering = threading.Lock()
        self._left = False
        self.on_lost: Callable[[str], None] = lambda _worker: None
        """Called with the old id after a sweep of this worker, once it has a new one."""

    @property
    def worker(self) -> str:
        """The id that this worker is registered under; it changes after a sweep."""
        return self._worker

    # --- the worker's own life

    def register(self) -> str:
        """Take a fresh id and a lease. Has to come before the first `take`."""
        while True:
            worker = self._new_id()
            keys = [self.keys.leases, self.keys.workers, self.keys.tombstones]
            if self.scripts.run(
                "register", keys, [worker, self._ms(self.settings.lease_s), self._described()]
            ):
                with self._lock:
                    self._worker = worker
                    self._held.clear()
                    self._unsure = False
                return worker

    def beat(self) -> Beat:
        """Renew the lease, and sweep the workers whose leases have been expired for longer than the grace."""
        k, worker = self.keys, self._worker
        alive, expired, swept_before, due_ms, waiting = self.scripts.run(
            "beat",
            [k.leases, k.workers, k.tombstones, k.suspects, k.sweeper, k.outbox],
            [
                worker,
                self._ms(self.settings.lease_s),
                self._described(),
                self._ms(self.settings.grace_s),
                self._ms(self.settings.leftovers_every_s),
                SEVEN_DAYS_MS,
            ],
        )
        if not alive:
            self._lost(worker)
            return Beat(alive=False)
        swept = sum(max(0, self._sweep(_name(each), "dead")) for each in expired)
        swept += self._sweep_leftovers([_name(each) for each in swept_before])
        due = None if due_ms < 0 else due_ms / 1000
        return Beat(alive=True, swept=swept, callback_due_s=due, callbacks_waiting=waiting)

    def leave(self) -> int:
        """Give everything back and release the lease at once. Returns the number of elements given back."""
        self._left = True
        return self._sweep(self._worker, "leave")

    # --- an element's way

    def take(self, block_s: float) -> Lease | None:
        """The oldest element, moved into this worker's list; None when none came within `block_s` seconds.

        0 does not wait.
        After any error the own list is looked at first: the element of a lost reply lies there. That goes on
        for as long as the server may still wait on the broken connection, which nobody told it of.
        """
        if self._unsure:
            adopted = self._adopt()
            if adopted is not None:
                return adopted
        worker = self._worker
        own_list = self.keys.processing(worker)
        side: Any = self.settings.pop.upper()
        try:
            with translated_redis_errors():
                raw: Any
                if block_s > 0:
                    # The server takes fractions of a second; redis-py's annotation knows whole ones only.
                    seconds: Any = block_s
                    raw = self._connections.blocking.blmove(self.keys.queue, own_list, seconds, side, "LEFT")
                else:
                    raw = self._connections.blocking.lmove(self.keys.queue, own_list, side, "LEFT")
        except ServiceError:
            self._unsure, self._unsure_until = True, time.monotonic() + block_s + LATE_S
            raise
        return None if raw is None else self._hold(raw, worker)

    def peek(self, count: int) -> list[bytes]:
        """The next `count` elements, in the order in which they will be taken; they stay in the queue."""
        from_right = self.settings.pop == "right"
        first, last = (-count, -1) if from_right else (0, count - 1)
        with translated_redis_errors():
            listed = cast(list[bytes], self._connections.commands.lrange(self.keys.queue, first, last))
        return listed[::-1] if from_right else listed

    def take_expected(self, elements: Sequence[bytes]) -> list[Lease]:
        """Take the next elements for as long as they are these, and none of them marked. Does not wait.

        After an error `take` looks at the own list first, as after an error of its own.
        """
        worker, k = self._worker, self.keys
        keys = [k.tombstones, k.queue, k.processing(worker), k.deliveries]
        try:
            # Not on the connection for commands, which would repeat it after a lost reply and then answer
            # that nothing was moved.
            moved = self.scripts.run(
                "take_expected",
                keys,
                [worker, self.settings.pop.upper(), *elements],
                client=self._connections.blocking,
            )
        except ServiceError:
            self._unsure, self._unsure_until = True, time.monotonic() + LATE_S
            raise
        return [self._hold(raw, worker) for raw in elements[:moved]]

    def begin(self, lease: Lease, job_id: str) -> Begun:
        """Look an element up before it runs. Raises `OwnershipLost` when this worker was swept."""
        member = member_of(job_id)
        keys = [self.keys.tombstones, self.keys.deliveries, self.keys.done(member), self.keys.cancel(member)]
        swept, returns, deaths, done, cancelled = self.scripts.run("begin", keys, [lease.worker, lease.sha])
        if swept:
            self._lost(lease.worker)
            raise OwnershipLost("this worker was taken for dead")
        return Begun(max(returns, 0) + 1, returns >= 0, deaths, bool(done), bool(cancelled))

    def finish(
        self,
        lease: Lease,
        job_id: str | None,
        body: bytes | None,
        dead_reason: str | None = None,
    ) -> Literal["committed", "duplicate"]:
        """End an element in one step: its terminal callback into the outbox, a dead letter, or both.

        "duplicate" when the job was done before: its stored callback goes out again instead.
        Raises `OwnershipLost` when the element is no longer ours; then nothing was changed.
        """
        k = self.keys
        member = "" if job_id is None else member_of(job_id)
        outcome = self.scripts.run(
            "finish",
            [
                *(k.tombstones, k.processing(lease.worker), k.deliveries, k.done(member), k.cancel(member)),
                *(k.outbox, k.outbox_bodies, k.outbox_state, k.dead, k.publishing(member)),
                k.progress(member),
            ],
            [
                *(lease.worker, lease.raw, lease.sha, member, body or b"", SEVEN_DAYS_MS, dead_reason or ""),
                *(self.settings.dead_count, self._ms(self.settings.dead_ttl_s)),
            ],
        ).decode()
        self._release(lease)
        if outcome == "lost":
            raise OwnershipLost("the element is not this worker's any more")
        return cast(Literal["committed", "duplicate"], outcome)

    def claim_publish(self, lease: Lease, job_id: str, claim: str) -> Literal["go", "wait", "done"]:
        """Ask whether this job's files may be written now; `claim` tells this attempt from all others.

        "wait" while another live worker writes them, "done" once it has. Raises `OwnershipLost`.
        """
        member = member_of(job_id)
        k = self.keys
        keys = [k.tombstones, k.leases, k.done(member), k.publishing(member)]
        answer = self.scripts.run("claim_publish", keys, [lease.worker, claim, SEVEN_DAYS_MS]).decode()
        if answer == "lost":
            self._lost(lease.worker)
            raise OwnershipLost("this worker was taken for dead")
        return cast(Literal["go", "wait", "done"], answer)

    def give_back(self, lease: Lease, *, blamed: bool = False) -> bool:
        """Put an element back so that it is taken next. `blamed`: it may have broken this node."""
        keys = [self.keys.processing(lease.worker), self.keys.queue, self.keys.deliveries]
        given = self.scripts.run("give_back", keys, [lease.raw, self.settings.push, int(blamed)])
        self._release(lease)
        return bool(given)

    def owns(self, lease: Lease, job_id: str) -> bool:
        """Whether the element is still this worker's and its job not done."""
        keys = [self.keys.tombstones, self.keys.processing(lease.worker), self.keys.done(member_of(job_id))]
        return bool(self.scripts.run("owns", keys, [lease.worker, lease.raw]))

    def look(self, job_ids: Iterable[str], progress: Mapping[str, str] = MappingProxyType({})) -> set[str]:
        """Those of the jobs in hand whose cancellation was asked for; one round trip.

        With it goes how far the running ones are: job → `shared.progress.StepProgress.encode`.
        """
        wanted = list(job_ids)
        if not wanted:
            return set()
        keys = [self.keys.cancel(member_of(job_id)) for job_id in wanted]
        for member in map(member_of, progress):
            keys += [self.keys.done(member), self.keys.progress(member)]
        cancelled = self.scripts.run("look", keys, [PROGRESS_TTL_MS, *progress.values()])
        return {wanted[position - 1] for position in cancelled}

    def unblock(self) -> None:
        """Wake a `take` that waits in another thread; it returns None.

        Best effort: an element on its way to a worker that ends lies in its list, and `leave` or a sweep
        gives it back.
        """
        try:
            with translated_redis_errors():
                self._connections.unblock()
        except ServiceError as error:
            log.info("the waiting take was not woken: %s", error)

    # --- inside

    def _lost(self, worker: str) -> None:
        """This worker was swept: go on under a new id. Several threads may notice, one acts."""
        with self._registering:
            if self._worker != worker or self._left:
                return
            log.error("this worker was taken for dead; it drops its work and goes on under a new id")
            self.register()
        self.on_lost(worker)

    def _hold(self, raw: bytes, worker: str) -> Lease:
        with self._lock:
            # An element may arrive for an id that was swept meanwhile; under the new one it is unknown.
            if worker == self._worker:
                self._held[raw] += 1
        return Lease(raw, worker)

    def _release(self, lease: Lease) -> None:
        with self._lock:
            if lease.worker == self._worker:
                self._held -= Counter({lease.raw: 1})

    def _adopt(self) -> Lease | None:
        """An element of the own list that no lease was handed out for."""
        worker = self._worker
        settled = time.monotonic() > self._unsure_until
        with translated_redis_errors():
            listed = self._connections.commands.lrange(self.keys.processing(worker), 0, -1)
        with self._lock:
            unseen = list((Counter(cast(list[bytes], listed)) - self._held).elements())
        if not unseen:
            self._unsure = not settled
            return None
        log.warning("adopted an element whose hand-over was interrupted")
        return self._hold(unseen[-1], worker)

    def _sweep(self, worker: str, mode: Literal["dead", "leave", "leftovers"]) -> int:
        k = self.keys
        keys = [k.tombstones, k.leases, k.workers, k.suspects, k.queue, k.deliveries, k.processing(worker)]
        moved = int(self.scripts.run("sweep", keys, [worker, self.settings.push, mode]))
        if mode != "leave" and moved > 0:
            log.warning(
                "moved the elements of a dead worker back", extra={"swept": worker, "elements": moved}
            )
        return moved

    def _sweep_leftovers(self, workers: list[str]) -> int:
        if not workers:
            return 0
        found = self.scripts.run("leftovers", [self.keys.processing(name) for name in workers], [])
        return sum(self._sweep(workers[position - 1], "leftovers") for position in found)

    def _described(self) -> str:
        return json.dumps(self._info(), separators=(",", ":"))

    @staticmethod
    def _ms(seconds: float) -> int:
        return round(seconds * 1000)


def _name(member: bytes) -> str:
    """A worker's id as Redis holds it; whatever somebody else wrote there must not stop the heartbeat."""
    return member.decode("utf-8", "replace")
