"""`/jobs`: a user's own jobs."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from gateway.errors import not_found, responses
from gateway.jobs.cursor import PATTERN, Cursor
from gateway.jobs.ending import cancel, delete
from gateway.jobs.reading import one_job, page_of_jobs
from gateway.jobs.views import JobView, Status
from gateway.parts import CurrentUser, GivenParts, JobId
from gateway.tables import TERMINAL

router = APIRouter(tags=["jobs"])


class JobsPage(BaseModel):
    """`next` stands for the page of older jobs, as `before`; null where there are none."""

    jobs: list[JobView]
    next: str | None


class OneJob(BaseModel):
    job: JobView


class Cancellation(BaseModel):
    """`status` is the job's at this moment: one that runs ends within seconds, or completes before."""

    success: bool = True
    job_id: str
    status: Status


@router.get("/jobs", responses=responses(400, 401, 403, 503))
def list_jobs(
    parts: GivenParts,
    user: CurrentUser,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    before: Annotated[str | None, Query(pattern=PATTERN)] = None,
) -> JobsPage:
    """The newest jobs first."""
    cursor = None if before is None else Cursor.decode(before)
    found = page_of_jobs(parts, user.id, limit + 1, cursor)
    page = found[:limit]
    more = len(found) > limit
    return JobsPage(jobs=page, next=Cursor(page[-1].created_at, page[-1].id).encode() if more else None)


@router.get("/jobs/{job_id}", responses=responses(400, 401, 403, 404, 503))
def get_job(job_id: JobId, parts: GivenParts, user: CurrentUser) -> OneJob:
    """The job as it stands; links to its files work for FILE_LINK_S seconds at most."""
    job = one_job(parts, user.id, job_id)
    if job is None:
        raise not_found("job")
    return OneJob(job=job)


@router.delete(
    "/jobs/{job_id}",
    responses={202: {"model": Cancellation}, **responses(400, 401, 403, 404, 429, 503)},
)
def cancel_job(job_id: JobId, parts: GivenParts, user: CurrentUser, response: Response) -> Cancellation:
    """Cancel a job. 200 where it has ended, 202 where its worker was asked to stop it.

    May be repeated. A job that completes before its worker sees the wish stays completed.
    """
    parts.pace.take(user.id)
    status = cancel(parts, user.id, job_id)
    response.status_code = 200 if status in TERMINAL else 202
    return Cancellation(job_id=job_id, status=cast(Status, status))


@router.delete(
    "/jobs/{job_id}/files", status_code=204, responses=responses(400, 401, 403, 404, 409, 429, 503)
)
def delete_job(job_id: JobId, parts: GivenParts, user: CurrentUser) -> None:
    """Delete the files and the record of a job that has ended. May be repeated."""
    parts.pace.take(user.id)
    delete(parts, user.id, job_id)
