"""The model libraries, imported before they are needed: what takes a fresh process most of its start.

Everything else about a model waits for them, so that whatever can is done beside.
"""

from __future__ import annotations


def import_for_sdxl() -> None:
    import accelerate  # noqa: F401
    import torch  # noqa: F401
    from diffusers import (  # noqa: F401
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection  # noqa: F401


def import_for_wan() -> None:
    import accelerate  # noqa: F401
    import torch  # noqa: F401
    from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel  # noqa: F401
    from transformers import AutoTokenizer, UMT5EncoderModel  # noqa: F401
