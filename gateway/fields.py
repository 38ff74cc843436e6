"""Kinds of fields that requests have in common."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, StringConstraints

JobType = Literal[
    "sdxl_image_fast",
    "sdxl_image_high",
    "image_fast",
    "image_high",
    "video_fast",
    "video_high",
    "image7b_fast_enhanced",
    "image7b_high_enhanced",
    "video7b_fast_enhanced",
    "video7b_high_enhanced",
]
"""The keys of `shared.presets.PRESETS`, which a type checker can only know when they are spelled out."""

UUID_PATTERN = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"

UuidText = Annotated[str, StringConstraints(pattern=UUID_PATTERN), AfterValidator(str.lower)]
"""A UUID as text, in the lower case that it is stored in."""

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=10_000)]
"""A text that both databases can store. A lone surrogate is no text to pydantic either."""

Prompt = Annotated[str, StringConstraints(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$", max_length=10_000)]


def _number(value: Any) -> Any:
    """JSON has numbers; that `true` and "3" pass for them is Python's and pydantic's doing."""
    if isinstance(value, bool | str):
        raise ValueError("has to be a number")
    return value


NUMBER = BeforeValidator(_number)
"""Behind the limits, so that the description knows them: `Annotated[int, Field(ge=0), NUMBER]`."""
