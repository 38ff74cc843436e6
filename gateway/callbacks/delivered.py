"""Which files a finished job delivered: its own, at the paths that depend on it alone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from gateway.callbacks.models import Callback
from gateway.callbacks.types import JobRecord
from shared.assets import asset_key, thumbnail_key


class WrongAssets(ValueError):
    """A completed callback whose files are not the job's own; the message tells an operator why."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """One file of a finished job: paths within the job's bucket."""

    key: str
    thumbnail_key: str | None


def delivered(job: JobRecord, callback: Callback) -> list[Delivered]:
    """The job's own files, where the callback names exactly these in their order.

    A reference is the path within the job's bucket, or an address that ends in bucket and path: only the
    job's own path is ever kept, so that the host behind an address does not matter. A thumbnail that is not
    the job's own is left out, as one that is missing. Raises `WrongAssets`.
    """
    references = callback.references()
    stated = callback.executed.bucket
    if stated is not None and stated != job.bucket:
        raise WrongAssets(f"the files are in bucket {stated} and not in {job.bucket}")
    if not references or len(references) != job.promised:
        raise WrongAssets(f"{len(references)} files were delivered and {job.promised} promised")
    found = []
    for index, (reference, thumbnail) in enumerate(references):
        key, own_thumbnail = asset_key(job, index), thumbnail_key(job, index)
        if not _names(reference, job.bucket, key):
            raise WrongAssets(f"file {index + 1} is not {key} in bucket {job.bucket}")
        has_thumbnail = thumbnail is not None and _names(thumbnail, job.bucket, own_thumbnail)
        found.append(Delivered(key, own_thumbnail if has_thumbnail else None))
    return found


def _names(reference: str, bucket: str, key: str) -> bool:
    if "://" not in reference:
        return reference == key
    try:
        path = unquote(urlsplit(reference).path)
    except ValueError:
        return False
    return path.endswith(f"/{bucket}/{key}")
