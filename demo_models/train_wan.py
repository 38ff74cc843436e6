"""Train the demo WAN checkpoint from scratch on two CPU cores: `python demo_models/train_wan.py all`.

Stages, each resumable (checkpoints in demo_models/_work/wan/, every two minutes):

    vae          the autoencoder, on windows of drawn clips
    latents      latents of drawn clips of every length
    transformer  the transformer and the text encoder together
    export       fp16 safetensors in the diffusers layout at demo_models/wan-shapes/

Seeds are fixed; data and noise of a step depend on its number alone. Expected losses stand with each stage,
times in wan-shapes/README.md. After a change of the drawn world begin with an empty demo_models/_work/wan/.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

if __package__ in (None, ""):
    # Run as a script: the checkout's root is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_models.train_wan_transformer import PARTS, train_transformer
from demo_models.train_wan_vae import encode_latents, load_vae, train_vae
from demo_models.wan_models import SHIFT, Denoiser, build_tokenizer

HERE = Path(__file__).parent
WORK = HERE / "_work" / "wan"
CHECKPOINT = HERE / "wan-shapes"


def export(folder: Path, unfinished: bool = False, target: Path = CHECKPOINT) -> None:
    """Write the pipeline. `unfinished` takes the running average of the part that is being trained."""
    denoiser = Denoiser()
    if unfinished:
        part = next(part for part in reversed(PARTS) if (folder / f"{part.name}.pt").exists())
        state = torch.load(folder / f"{part.name}.pt", weights_only=True)
        denoiser.load_state_dict(state["average"], strict=False)
    else:
        denoiser.load_state_dict(torch.load(folder / "transformer-final.pt", weights_only=True))
    pipeline = WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=denoiser.text_encoder,
        transformer=denoiser.transformer,
        vae=load_vae(folder),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
    )
    pipeline.to(torch.float16).save_pretrained(target, safe_serialization=True)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"export: {size / 1e6:.2f} MB at {target}")


STAGES: dict[str, Callable[[Path], None]] = {
    "vae": train_vae,
    "latents": encode_latents,
    "transformer": train_transformer,
    "export": export,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["all", *STAGES, "export-unfinished"])
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "export-unfinished":
        export(WORK, unfinished=True)
        return
    for name, stage in STAGES.items():
        if arguments.stage in ("all", name):
            stage(WORK)


if __name__ == "__main__":
    main()
