"""What has to be true in the end, whatever happened: each breach is one sentence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from chaos.world import BUCKET, QUEUE, World, colour_of

from workers.local_receiver import TERMINAL, Received


def breaches(world: World, poison: Collection[str] = ()) -> list[str]:
    """Of the promises to the producer, to the receiver and to the operator.

    `poison`: jobs that are to be given up; all others are to be completed.
    """
    return [
        *world.problems,
        *_statuses(world.pushed, world.receiver.accepted, world.receiver.received),
        *_ends(world, poison),
        *_assets(world),
        *_rests(world),
    ]


def _statuses(
    pushed: Mapping[str, Any], accepted: Mapping[str, Sequence[Received]], received: Sequence[Received]
) -> Iterator[str]:
    for job_id in pushed:
        statuses = [callback.status for callback in accepted.get(job_id, ())]
        terminal = [status for status in statuses if status in TERMINAL]
        if len(terminal) != 1:
            yield f"{job_id} has {len(terminal)} terminal callbacks: {statuses}"
        elif statuses[-1] not in TERMINAL or set(statuses[:-1]) - {"processing"}:
            yield f"{job_id} has its callbacks in the order {statuses}"
    for stranger in set(accepted) - set(pushed):
        yield f"{stranger} was called back but never pushed"
    bodies: dict[str, set[bytes]] = {}
    for callback in received:
        if callback.status in TERMINAL:
            bodies.setdefault(callback.job_id, set()).add(callback.body)
    for job_id, versions in bodies.items():
        if len(versions) > 1:
            yield f"{job_id} was told to have ended in {len(versions)} different ways"


def _ends(world: World, poison: Collection[str]) -> Iterator[str]:
    for job_id, callbacks in world.receiver.accepted.items():
        for callback in callbacks:
            if callback.status in TERMINAL:
                code = callback.document["metadata"].get("error_code")
                if code != ("abandoned" if job_id in poison else None):
                    yield f"{job_id} ended with {code}: {callback.document['error_message']}"
    letters = sorted(entry[b"job"].decode() for _, entry in world.client.xrange(world.keys.dead))
    if letters != sorted(poison):
        yield f"the dead letters hold {letters}"


def _assets(world: World) -> Iterator[str]:
    stored = dict(world.stored())
    expected: set[str] = set()
    for job_id, callbacks in world.receiver.accepted.items():
        completed = [callback for callback in callbacks if callback.status == "completed"]
        for callback in completed[:1]:
            differences = [list(_as_pushed(job, callback.document)) for job in world.pushed[job_id]]
            if all(differences):
                yield from differences[0]
            expected |= set(_names(callback.document))
            yield from _contents(job_id, callback.document, stored)
    for name in expected - set(stored):
        yield f"{name} is missing"
    for name in set(stored) - expected:
        if not _of_a_buried_job(name, world):
            yield f"{name} belongs to no completed job"


def _names(document: Mapping[str, Any]) -> Iterator[str]:
    metadata = document["metadata"]
    for key in [*document["assets"], *metadata["thumbnails"]]:
        yield f"{metadata['bucket']}/{key}"


def _as_pushed(job: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[str]:
    """What was executed is what was asked for."""
    config, metadata = job["config"], document["metadata"]
    seeds = [config["seed"] + index for index in range(config["num_images"])]
    keys = [f"{job['user_id']}/{job['id']}_{number}.png" for number in range(1, len(seeds) + 1)]
    wanted = {
        "seeds": seeds,
        "final_prompt": job["prompt"],
        "guidance_scale": config["sample_guide_scale"],
        "num_inference_steps": config["sample_steps"],
        "bucket": BUCKET,
    }
    for field, value in wanted.items():
        if metadata[field] != value:
            yield f"{job['id']} was executed with {field} {metadata[field]!r} instead of {value!r}"
    if document["assets"] != keys:
        yield f"{job['id']} has the assets {document['assets']}"


def _contents(job_id: str, document: Mapping[str, Any], stored: Mapping[str, bytes]) -> Iterator[str]:
    """The stand-in engine's pictures have one colour, which depends on what the metadata describes."""
    metadata = document["metadata"]
    for seed, key in zip(metadata["seeds"], document["assets"], strict=True):
        described = "|".join(
            str(part)
            for part in (
                seed,
                metadata["final_prompt"],
                metadata["negative_prompt"],
                float(metadata["guidance_scale"]),
                metadata["num_inference_steps"],
            )
        )
        colour = tuple(hashlib.sha256(described.encode()).digest()[:3])
        picture = stored.get(f"{metadata['bucket']}/{key}")
        if picture is not None and colour_of(picture) != colour:
            yield f"{key} of {job_id} does not show what its metadata describes"


def _of_a_buried_job(name: str, world: World) -> bool:
    """A job that was given up may have uploaded files before its worker died."""
    job_id = name.rpartition("/")[2].partition(".")[0].rpartition("_")[0]
    return any(callback.status == "failed" for callback in world.receiver.accepted.get(job_id, ()))


def _rests(world: World) -> Iterator[str]:
    keys, client = world.keys, world.client
    yield from leftovers(world)
    for name in (keys.outbox_bodies, keys.outbox_state, keys.deliveries):
        if rest := client.hlen(name):
            yield f"{name} still has {rest} entries"
    if given_up := client.xlen(keys.outbox_dead):
        yield f"{given_up} callbacks were given up"
    for job_id, callbacks in world.receiver.accepted.items():
        done = client.get(keys.done(job_id))
        terminal = [callback.document for callback in callbacks if callback.status in TERMINAL]
        if terminal and (done is None or json.loads(done) != terminal[0]):
            yield f"the done marker of {job_id} does not hold the callback that was delivered"


def leftovers(world: World) -> list[str]:
    """Elements that are still held or wait, and callbacks that were not sent."""
    found = []
    if waiting := world.client.llen(QUEUE):
        found.append(f"{waiting} elements are still in the queue")
    for key in world.client.scan_iter(match="*:processing:*", count=1000):
        found.append(f"{world.client.llen(key)} elements are left in {key.decode()}")
    if callbacks := world.client.zcard(world.keys.outbox):
        found.append(f"{callbacks} callbacks are still in the outbox")
    return found
