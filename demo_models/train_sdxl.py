"""Train the demo SDXL checkpoint from scratch on two CPU cores: `python demo_models/train_sdxl.py all`.

Stages, each resumable (checkpoints in demo_models/_work/sdxl/, every two minutes):

    vae      the autoencoder, on crops of drawn pictures
    latents  latents of every scene, drawn several times
    unet     the UNet and both text encoders together
    refine   both again, on what the first training leaves wrong
    export   fp16 safetensors in the diffusers layout at demo_models/sdxl-shapes/

Seeds are fixed; data and noise of a step depend on its number alone. Expected losses stand with each
stage, its times in sdxl-shapes/README.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline

if __package__ in (None, ""):
    # Run as a script: the checkout's root is not on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_models.sdxl_autoencoder import encode_latents, load_vae, train_vae
from demo_models.sdxl_denoiser import refine_unet, train_unet
from demo_models.sdxl_models import WORK, Denoiser, build_scheduler, build_tokenizers

CHECKPOINT = Path(__file__).parent / "sdxl-shapes"


def export(folder: Path = CHECKPOINT, averaged_so_far: str | None = None) -> None:
    """Write the pipeline. `averaged_so_far` names a stage and takes its running average, finished or not."""
    denoiser = Denoiser(build_tokenizers(WORK))
    if averaged_so_far is None:
        denoiser.load_state_dict(torch.load(WORK / "refine-final.pt", weights_only=True))
    else:
        state = torch.load(WORK / f"{averaged_so_far}.pt", weights_only=True)
        denoiser.load_state_dict(state["average"])
        print(f"export: the average at step {state['step']} of {averaged_so_far}")
    first, second = build_tokenizers(folder)
    pipeline = StableDiffusionXLPipeline(
        vae=load_vae(),
        text_encoder=denoiser.text_encoder,
        text_encoder_2=denoiser.text_encoder_2,
        tokenizer=first,
        tokenizer_2=second,
        unet=denoiser.unet,
        scheduler=build_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    # The plain vocabulary files are what other CLIP tokenizers read.
    build_tokenizers(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"export: {size / 1e6:.2f} MB at {folder}")


STAGES = {
    "vae": train_vae,
    "latents": encode_latents,
    "unet": train_unet,
    "refine": refine_unet,
    "export": export,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["all", *STAGES, "export-unfinished"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=CHECKPOINT, help="where export writes")
    parser.add_argument("--of", default="refine", help="the stage of export-unfinished")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    WORK.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "export-unfinished":
        export(arguments.folder, averaged_so_far=arguments.of)
        return
    for name, stage in STAGES.items():
        if arguments.stage in ("all", name):
            stage()


if __name__ == "__main__":
    main()
