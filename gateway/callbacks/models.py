"""The request and the answer of job-callback, with the field names of the wire."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from gateway.fields import NUMBER
from shared.job import IDENTIFIER, MAX_IDENTIFIER_CHARACTERS

MAX_ASSETS: Final = 16
MAX_DEPTH: Final = 32
MAX_INTEGER: Final = 2**54
"""Above every seed that a picture can have; both databases keep it, and JSON readers know it exactly."""

_NOT_STORABLE: Final = re.compile("[\0\ud800-\udfff]")


def storable(value: Any, depth: int = 0) -> Any:
    """A JSON value as any database takes it.

    NUL and halves of surrogate pairs, which PostgreSQL refuses, become U+FFFD: what a customer is told must
    not hang on a letter. Raises ValueError for a number that JSON does not have and for deep nesting.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        return _NOT_STORABLE.sub("\ufffd", value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that JSON does not have")
    if isinstance(value, list):
        return [storable(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {storable(name): storable(item, depth + 1) for name, item in value.items()}
    return value


class _Wire(BaseModel):
    """Workers may say more than is read here; what is read has to have its type."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


Count = Annotated[int, Field(ge=0, le=MAX_INTEGER), NUMBER]
Amount = Annotated[float, Field(ge=0), NUMBER]
Real = Annotated[float, NUMBER]


class AssetObject(_Wire):
    """An asset as CALLBACK_FORMAT=objects writes it."""

    url: str
    thumbnail_url: str | None = None


class Adjustment(_Wire):
    """A stated value that was replaced by its nearest meaning."""

    field: str
    requested: Any
    used: Any
    reason: str


class Executed(_Wire):
    """What a worker says of the run; kept in the job's metadata under these names.

    Everything else in a callback's metadata stays out: the producer's own facts (user, prompt, credits,
    routing) stand beside these, and a worker does not change them.
    """

    bucket: str | None = Field(default=None, max_length=100)
    worker_id: str | None = None
    gpu_name: str | None = None
    model_variant: str | None = None
    attempt: Count | None = None
    seed: Count | None = None
    seeds: list[Count] | None = None
    num_images: Count | None = None
    generation_time: Amount | None = Field(default=None, description="seconds of the GPU stage")
    timings: dict[str, Amount | None] | None = None
    width: Count | None = None
    height: Count | None = None
    num_inference_steps: Count | None = None
    guidance_scale: Real | None = None
    scheduler: str | None = None
    sample_shift: Real | None = None
    negative_prompt: str | None = None
    final_prompt: str | None = None
    thumbnails: list[str | None] | None = None
    adjustments: list[Adjustment] | None = None
    reference_mode: str | None = None
    applied: dict[str, Any] | None = None
    frame_num: Count | None = None
    fps: Amount | None = None
    duration: Amount | None = Field(default=None, description="seconds")
    compel_enabled: StrictBool | None = None
    compel_weights: str | None = None
    enhancement_strategy: str | None = None
    expansion_percentage: Real | None = None
    enhancement_note: str | None = None
    error_code: str | None = Field(default=None, max_length=40)
    retryable: StrictBool | None = None

    def as_metadata(self) -> dict[str, Any]:
        """What was said. Bucket and thumbnails are left out: what is kept of them is the job's own."""
        said = self.model_dump(exclude_unset=True, exclude={"bucket", "thumbnails"})
        return {name: value for name, value in said.items() if value is not None}


class Callback(_Wire):
    job_id: str = Field(min_length=1, max_length=MAX_IDENTIFIER_CHARACTERS, pattern=f"^{IDENTIFIER.pattern}$")
    status: Literal["processing", "completed", "failed"]
    assets: list[str | AssetObject] = Field(default=[], max_length=MAX_ASSETS)
    error_message: str | None = None
    enhanced_prompt: str | None = Field(default=None, alias="enhancedPrompt")
    metadata: Executed | None = None

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, document: Any) -> Any:
        return storable(document)

    @property
    def executed(self) -> Executed:
        return self.metadata or Executed()

    def references(self) -> list[tuple[str, str | None]]:
        """Each asset and its thumbnail, as they are named."""
        thumbnails = self.executed.thumbnails or []
        return [
            (asset.url, asset.thumbnail_url)
            if isinstance(asset, AssetObject)
            else (asset, thumbnails[index] if index < len(thumbnails) else None)
            for index, asset in enumerate(self.assets)
        ]


class CallbackDebug(BaseModel):
    job_id: str
    jobStatus: str  # noqa: N815
    jobType: str  # noqa: N815
    format: str
    quality: str
    isSDXL: bool  # noqa: N815
    isEnhanced: bool  # noqa: N815
    assetsProcessed: int  # noqa: N815
    processingTimestamp: str  # noqa: N815


class CallbackAnswer(BaseModel):
    """`jobStatus` is the job's status after the callback, whether it changed something or not."""

    success: Literal[True] = True
    message: str
    debug: CallbackDebug
