"""The error tree. A class decides what happens to the job and to the process; nothing else does.

WorkerError
├── SettingsError           the start ends with exit code 78 and a list of what to set
├── MalformedElement        the element goes to the dead letters byte for byte
├── JobError                the job ends with a `failed` callback
│   ├── InvalidJob              invalid_job
│   ├── Unsupported             unsupported
│   ├── ContentRefused          content_refused
│   ├── ReferenceUnavailable    reference_unavailable
│   ├── ReferenceRefused        reference_refused
│   ├── OutOfMemory             out_of_memory       (first the batch is split)
│   ├── GenerationFailed        generation_failed
│   ├── Expired                 expired
│   ├── Cancelled               cancelled
│   └── Abandoned               abandoned           (given up after its workers died)
├── JobReturned             the job goes back into the queue, nobody is to blame
├── NodeFault               the job goes back into the queue and the process ends
├── OwnershipLost           the job belongs to somebody else now: drop it silently
└── ServiceError            a service that the worker needs
    ├── ServiceUnavailable      try again after a pause, the result is kept
    ├── ServiceMisconfigured    a person has to mend it: say so loudly, keep the result, try again
    └── ServiceRefused          this very request will never be accepted
"""

from __future__ import annotations

from typing import ClassVar


class WorkerError(Exception):
    """Base of every error that this project raises on purpose."""


class SettingsError(WorkerError):
    """One or more settings are missing or wrong.

    `problems` holds one sentence for each setting at fault, naming it and what to set.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(f"  - {problem}" for problem in problems))
        self.problems = problems


class MalformedElement(WorkerError):
    """A queue element that is no job at all, so that there is nobody to call back."""


class JobError(WorkerError):
    """The job cannot be done. `str(error)` is a sentence that a customer may read.

    `code` is the value of `metadata.error_code`; `retryable` tells the producer whether the same job may
    succeed when it is submitted again; `node_fault` whether the node, and not the job, may be to blame.
    """

    code: ClassVar[str] = "generation_failed"
    retryable: ClassVar[bool] = False
    node_fault: ClassVar[bool] = False


class InvalidJob(JobError):
    code = "invalid_job"


class Unsupported(JobError):
    code = "unsupported"


class ContentRefused(JobError):
    code = "content_refused"


class ReferenceUnavailable(JobError):
    code = "reference_unavailable"
    retryable = True


class ReferenceRefused(JobError):
    code = "reference_refused"


class OutOfMemory(JobError):
    code = "out_of_memory"
    retryable = True
    node_fault = True


class GenerationFailed(JobError):
    code = "generation_failed"
    retryable = True
    node_fault = True


class Expired(JobError):
    code = "expired"
    retryable = True


class Cancelled(JobError):
    code = "cancelled"


class Abandoned(JobError):
    code = "abandoned"
    retryable = True


class JobReturned(WorkerError):
    """The running job is stopped and goes back into the queue: the worker is draining."""


class NodeFault(WorkerError):
    """The device or its driver is in a state that only a new process can mend."""


class OwnershipLost(WorkerError):
    """Another worker owns the job now, or it is done already."""


class ServiceError(WorkerError):
    """A service beside the worker (storage, callback receiver, Redis) did not do what was asked."""


class ServiceUnavailable(ServiceError):
    """A fault that passes: a transport error, a timeout, 429 or a true 5xx.

    `retry_after` is the pause in seconds that the service asked for, if it did.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServiceMisconfigured(ServiceError):
    """A wrong key, a missing bucket: no retry helps before a person has mended it."""


class ServiceRefused(ServiceError):
    """The service understood and said no for good; the same request will be refused again."""
