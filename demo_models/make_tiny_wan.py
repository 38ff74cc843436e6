"""Write the tiny WAN checkpoint: the real architecture with few, random weights, in diffusers layout.

It draws noise, quickly, and answers to everything the real one answers to: prompt, negative prompt, seed,
guidance, shift, size and number of frames. Run: `python -m demo_models.make_tiny_wan [folder]`.
One machine and one version of the libraries always write the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

HERE = Path(__file__).parent
SEED = 2
TEXT_WIDTH = 32

# Every word here is one piece of the vocabulary, every other word is spelled in characters, so that the
# tokens of an ordinary prompt are about as many as the real tokenizer counts.
CORPUS = """
a an and as at by for from in into it its no of off on one over the their them through to up with without
is are was stays stands comes falls moves keeps draws follows drifts glides flows rises fades leaves
holds small large tall wide narrow long short soft warm cool cold clear calm quiet steady smooth slow
slowly gentle gently natural naturally simple balanced continuous consistent stable fine rich deep bright
dark muted even red green blue yellow orange purple pink cyan black white gray brown golden circle square
triangle star shape shapes line lines edge edges background foreground middle layers tones boat lake
river sea ocean water wave waves ripples reflections shore beach mist fog rain snow wind cloud clouds cat
dog bird horse fish tree trees leaves flower flowers grass hill hills mountain mountains forest field sky
sun moon stars night dawn morning evening sunset light lighting shadow shadows colour colours contrast
palette house street city bridge wall stone wood wooden glass metal window room kitchen table bread fruit
train car road camera shot pan tracking frame frames first last scene view motion movement moving rhythm
pace speed direction detail focus depth composition subject surroundings surface surfaces material
materials texture film cinematic photograph professional quality high low worst blurry static still
overexposed watermark text subtitles jpeg artifacts noise flicker flickers jumps distorted deformed ugly
compression style painting
"""


def build_tokenizer(words: Iterable[str] = ()) -> T5Tokenizer:
    """A unigram tokenizer over ASCII in T5's arrangement: <pad> 0, </s> 1, <unk> 2.

    `words` are pieces of their own beside those of the corpus.
    """
    characters = [chr(code) for code in range(33, 127)]
    words = sorted({*CORPUS.split(), *words})
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -8.0)]
    vocabulary += [(character, -8.0) for character in characters]
    vocabulary += [("\u2581" + word, -6.0) for word in words]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def build_text_encoder(vocabulary: int) -> Any:
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=TEXT_WIDTH,
        d_kv=8,
        num_heads=4,
        d_ff=64,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    encoder = UMT5EncoderModel(config)
    _randomize(encoder, gain=1.0)
    torch.nn.init.normal_(encoder.shared.weight)
    return encoder


def build_transformer() -> Any:
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_WIDTH,
        freq_dim=32,
        ffn_dim=96,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    )
    _randomize(transformer, gain=1.4)
    return transformer


def build_vae() -> Any:
    """The class's own 16 latent channels and strides (8 in space, 4 in time) on a narrow base."""
    vae = AutoencoderKLWan(base_dim=4)
    _randomize(vae, gain=1.4)
    # Contrast: the decoder's last layer is scaled so that the frames use the whole range of a picture.
    torch.nn.init.normal_(vae.decoder.conv_out.weight, std=0.08)
    return vae


def _randomize(module: torch.nn.Module, gain: float) -> None:
    """Keep the variance through every layer, so that no input is lost on its way to the picture."""
    for name, weights in sorted(module.named_parameters()):
        if weights.ndim > 1 and "norm" not in name and "scale_shift_table" not in name:
            torch.nn.init.normal_(weights, std=gain / weights[0].numel() ** 0.5)


def main(folder: Path) -> None:
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(len(tokenizer)),
        transformer=build_transformer(),
        vae=build_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "wan-tiny")
