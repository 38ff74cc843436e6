"""`POST /functions/v1/enhance-prompt`: a better prompt for a job type, before anything is submitted."""

from __future__ import annotations

import uuid
from typing import Annotated, Final, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from gateway.enhance.orchestrator import Enhanced, Method
from gateway.enhance.templates import Context
from gateway.errors import ApiError, responses
from gateway.fields import JobType, Prompt, UuidText
from gateway.parts import CurrentUser, GivenParts
from gateway.users import User
from shared.errors import ContentRefused
from shared.presets import PRESETS, SDXL, WAN, Quality
from shared.screen import ScreenInput

router = APIRouter()

SessionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
Share = Annotated[float, Field(ge=0, le=1)]

_FAMILIES: Final = {"sdxl": SDXL, "wan": WAN}


class EnhancePromptRequest(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True)

    prompt: Prompt
    job_type: JobType
    user_id: UuidText | None = Field(None, description="the caller's own id, or absent")
    session_id: SessionId | None = Field(None, description="requests of one conversation share it")
    quality: Quality | None = Field(None, description="instead of the job type's")
    model: Literal["sdxl", "wan", "auto"] | None = Field(
        None, description="instead of the job type's, which auto means too"
    )


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, from_attributes=True)


class Tokens(_Answer):
    """In tokens of the model's text encoder."""

    original: int = Field(ge=0)
    enhanced: int = Field(ge=0, description="before it was made to fit the encoder")
    compressed: int = Field(ge=0, description="of enhancedPrompt")


class Metrics(_Answer):
    coherence: Share = Field(description="share of the prompt's words kept, times share of terms said once")
    visual_appeal: Share = Field(description="share of the visual aspects that are stated: light, depth, …")
    technical_quality: Share = Field(description="share of the technical aspects that are stated")


class Analytics(_Answer):
    enhancement_method: Method = Field(description="the language model asked, or system_prompt: rules")
    processing_time: float = Field(ge=0, description="milliseconds")
    fallback_used: bool = Field(description="whether something better was tried first and failed")
    quality_metrics: Metrics


class EnhancePromptResponse(_Answer):
    success: Literal[True] = True
    enhanced_prompt: str
    original_prompt: str
    compression_ratio: Share = Field(description="tokenCount.compressed / tokenCount.enhanced")
    quality_score: Share = Field(description="the mean of the three quality metrics")
    token_count: Tokens
    analytics: Analytics


@router.post("/functions/v1/enhance-prompt", responses=responses(400, 401, 403, 413, 422, 429, 503))
def enhance_prompt(
    request: EnhancePromptRequest, parts: GivenParts, user: CurrentUser
) -> EnhancePromptResponse:
    """Enhance a prompt and make it fit what the model's text encoder reads. Nothing is stored."""
    parts.pace.take(user.id)
    if request.user_id not in {None, user.id}:
        raise ApiError(403, "forbidden", "userId is not yours: leave it out or send your own.", retry=False)
    context = _context(request)
    settings = parts.settings
    parts.screening.refuse_unless_allowed(
        ScreenInput(request.prompt),
        job_id=str(uuid.uuid4()),
        user_id=user.id,
        queue=settings.sdxl_queue if context.family is SDXL else settings.wan_queue,
    )
    try:
        enhanced = parts.enhancer.enhance(request.prompt, context, _conversation(request, user))
    except ContentRefused as refused:
        raise ApiError(422, refused.code, str(refused), retry=False) from None
    return _response(request.prompt, enhanced)


def _context(request: EnhancePromptRequest) -> Context:
    preset = PRESETS[request.job_type]
    family = _FAMILIES.get(request.model or "auto", preset.family)
    if family is SDXL and preset.medium == "video":
        raise ApiError(
            400,
            "invalid_request",
            f"model: sdxl draws no video, which {request.job_type} asks for.",
            retry=False,
        )
    return Context(family, preset.medium, request.quality or preset.quality)


def _conversation(request: EnhancePromptRequest, user: User) -> str | None:
    """Two users' sessions never meet, whatever they are called."""
    return None if request.session_id is None else f"{user.id}/{request.session_id}"


def _response(prompt: str, enhanced: Enhanced) -> EnhancePromptResponse:
    return EnhancePromptResponse(
        enhanced_prompt=enhanced.prompt,
        original_prompt=prompt,
        compression_ratio=enhanced.tokens.compression_ratio,
        quality_score=enhanced.metrics.score,
        token_count=Tokens.model_validate(enhanced.tokens),
        analytics=Analytics(
            enhancement_method=enhanced.method,
            processing_time=enhanced.processing_ms,
            fallback_used=enhanced.fallback_used,
            quality_metrics=Metrics.model_validate(enhanced.metrics),
        ),
    )
