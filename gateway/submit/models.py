"""The request and the response of queue-job, with the names that its clients know."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from pydantic.alias_generators import to_camel

from gateway.fields import NUMBER, JobType, Prompt, Text, UuidText
from shared.job import MAX_SEED
from shared.presets import Medium, Quality

MAX_FURTHER_CHARACTERS: Final = 16_384
MAX_FURTHER_DEPTH: Final = 8
MAX_ADDRESS_CHARACTERS: Final = 4096

Address = Annotated[Text, Field(max_length=MAX_ADDRESS_CHARACTERS)]
Strength = Annotated[float, Field(ge=0.1, le=1.0), NUMBER]
NumImages = Annotated[Literal[1, 3, 6], NUMBER]
Side = Annotated[int, Field(ge=64, le=2048), NUMBER]


def _check_storable(value: dict[str, Any]) -> None:
    """Refuses what no database can keep as JSON, and more than anybody has to say about a job."""
    left = MAX_FURTHER_CHARACTERS
    for item in _leaves(value, MAX_FURTHER_DEPTH):
        if isinstance(item, str):
            if "\x00" in item or (not item.isascii() and any("\ud800" <= c <= "\udfff" for c in item)):
                raise ValueError("holds characters that are no text (NUL or half of a surrogate pair)")
            left -= len(item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("holds a number that is none")
        elif isinstance(item, int) and abs(item) > MAX_SEED:
            raise ValueError(f"holds a whole number beyond {MAX_SEED}")
        left -= 1
    if left < 0:
        raise ValueError(f"has more than {MAX_FURTHER_CHARACTERS} characters beside the fields known here")


def _leaves(value: Any, depth: int) -> Iterator[Any]:
    """Names and values in any nesting."""
    if depth < 0:
        raise ValueError(f"is nested deeper than {MAX_FURTHER_DEPTH} levels")
    if isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _leaves(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, depth - 1)
    else:
        yield value


class JobMetadata(BaseModel):
    """What the job is about. Fields not listed here are kept with the job and passed to the worker."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Any]

    prompt: Prompt
    negative_prompt: Text | None = None
    num_images: NumImages | None = Field(None, description="pictures of one prompt; a video job makes 1")
    seed: Annotated[int, Field(ge=0, le=MAX_SEED), NUMBER] | None = Field(
        None, description="picture i uses seed + i; derived from the job's id where none is given"
    )
    size: Annotated[str, Field(pattern=r"^\d{2,4}[*xX]\d{2,4}$")] | None = Field(
        None, description="width*height in pixels"
    )
    width: Side | None = None
    height: Side | None = None
    frame_num: Annotated[int, Field(ge=1, le=83), NUMBER] | None = Field(
        None, description="frames of a video"
    )
    enhance_prompt: StrictBool | None = Field(None, description="whether the WAN worker enhances the prompt")
    batch_count: Annotated[int, Field(ge=1, le=1000), NUMBER] | None = None
    reference_image_url: Address | None = None
    reference_type: Literal["style", "composition", "character"] | None = None
    reference_strength: Strength | None = Field(None, description="higher follows the reference more")
    credits: Annotated[float, Field(ge=0), NUMBER] | None = Field(
        None, description="the price as the client knows it"
    )

    @model_validator(mode="after")
    def _further_fields_can_be_stored(self) -> JobMetadata:
        _check_storable(self.further)
        return self

    @property
    def further(self) -> dict[str, Any]:
        return self.__pydantic_extra__ or {}

    def further_texts(self) -> Iterator[str]:
        """Every text among the fields not listed, their names included."""
        return (item for item in _leaves(self.further, MAX_FURTHER_DEPTH) if isinstance(item, str))


class QueueJobRequest(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True)

    job_type: JobType
    metadata: JobMetadata
    project_id: UuidText | None = None
    video_id: UuidText | None = Field(None, description="id of the row in `videos`; made where none is given")
    image_id: UuidText | None = Field(
        None, description="id of the first picture's row in `images`; made where none is given"
    )
    character_id: UuidText | None = None


class QueuedJob(BaseModel):
    id: str
    user_id: str
    job_type: JobType
    format: Medium
    quality: Quality
    model_type: str
    status: str = Field(description="`pending` where the queue did not answer: the job enters it later")
    metadata: dict[str, Any]


class Debug(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    user_id: str
    has_prompt: bool
    prompt_length: int
    prompt_word_count: int
    has_negative_prompt: bool
    negative_prompt_length: int
    negative_prompt_word_count: int
    negative_prompt_error: str | None = None
    redis_configured: bool = True
    metadata_fields: int
    timestamp: str


class QueueJobResponse(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, protected_namespaces=())

    success: Literal[True] = True
    job: QueuedJob
    queue_length: int | None = Field(description="jobs that wait in the queue; null where it did not answer")
    model_variant: str
    job_type: JobType
    queue: str
    is_sdxl: bool = Field(serialization_alias="isSDXL")
    negative_prompt_supported: bool
    fixes_applied: list[str] = Field(
        serialization_alias="fixes_applied", description="fields that the request left to the gateway"
    )
    debug: Debug
