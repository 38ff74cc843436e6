from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.jobs import element, payload

from shared.errors import InvalidJob, MalformedElement, WorkerError
from shared.job import MAX_SEED, Envelope, Job
from shared.presets import PRESETS, SDXL, WAN

PAYLOADS = sorted((Path(__file__).parent / "data" / "payloads").glob("*.json"))


def parse(document: dict[str, Any], **more: Any) -> Job:
    envelope = Envelope.decode(element(document))
    preset = PRESETS.get(document.get("type", ""))
    return Job.parse(envelope, more.pop("family", preset.family if preset else SDXL), **more)


def sdxl(config: dict[str, Any] | None = None, **more: Any) -> Job:
    return parse(payload(config=config, **more))


def video(config: dict[str, Any] | None = None, **more: Any) -> Job:
    return parse(payload(job_type="video_fast", config=config, **more))


# --- elements


@pytest.mark.parametrize("spelling", ["object", "array", "string"])
@pytest.mark.parametrize("file", PAYLOADS, ids=lambda file: file.stem)
def test_captured_payloads_are_read_in_all_three_spellings(file: Path, spelling: str) -> None:
    document = json.loads(file.read_text())
    envelope = Envelope.decode(element(document, spelling))
    job = Job.parse(envelope, PRESETS[document["type"]].family)
    assert (job.id, job.prompt) == (document["id"], document["prompt"])


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\xff", b"null", b"1", b"[]", b"[1]", b'["{}","{}"]', b'"x"', b"{}", b'{"id":null}',
        b'{"id":7}', b'{"id":""}', b"[[]]", b'["[]"]', b"{", b'{"id":"a","n":NaN}', b'{"id":"a","n":1e999}',
        b'{"id":' + b"[" * 100 + b"]" * 100 + b"}", b'"' + b"a" * (1 << 20) + b'"',
    ],
)  # fmt: skip
def test_what_names_no_job_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedElement):
        Envelope.decode(raw)


def test_brackets_inside_a_text_are_no_nesting() -> None:
    assert sdxl(prompt="[[((" * 100).prompt == "[[((" * 100


FIELD_NAMES = st.sampled_from(["id", "type", "prompt", "user_id", "config", "metadata", "seed", "size"])
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=300) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_job_or_malformed_or_invalid(raw: bytes) -> None:
    try:
        Job.parse(Envelope.decode(raw), SDXL)
    except (MalformedElement, InvalidJob) as error:
        sentence = str(error)
    else:
        return
    assert sentence
    assert "\n" not in sentence


# --- fields


def test_four_required_fields_make_a_job() -> None:
    job = parse({"id": "a", "type": "sdxl_image_high", "prompt": "a boat", "user_id": "u"})
    assert job.preset.num_inference_steps == 50
    assert job.bucket == "sdxl_image_high"


@pytest.mark.parametrize("field", ["prompt", "user_id", "type"])
def test_a_missing_required_field_is_named(field: str) -> None:
    with pytest.raises(InvalidJob, match=field):
        parse({**payload(), field: None}, family=SDXL)


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"size": "640*512"}, (640, 512)),
        ({"size": "640x512"}, (640, 512)),
        ({"size": "640X512", "width": 64, "height": 64}, (640, 512)),
        ({"width": 640, "height": 512}, (640, 512)),
        ({"width": 640, "height": 512, "resolution": "64x64"}, (640, 512)),
        ({"resolution": "640x512"}, (640, 512)),
        ({"size": None, "resolution": "640x512"}, (640, 512)),
        ({}, None),
    ],
)
def test_a_size_is_read_in_every_spelling_and_the_first_wins(config: dict[str, Any], size: Any) -> None:
    assert sdxl(config).size == size


@pytest.mark.parametrize(
    ("config", "steps"),
    [
        ({"sample_steps": 10, "num_inference_steps": 20, "steps": 30}, 10),
        ({"num_inference_steps": 20, "steps": 30}, 20),
        ({"steps": 30}, 30),
        ({"sample_steps": None, "steps": 30}, 30),
        ({"steps": 30.0}, 30),
    ],
)
def test_steps_are_read_in_every_spelling_and_the_first_wins(config: dict[str, Any], steps: int) -> None:
    assert sdxl(config).num_inference_steps == steps


def test_guidance_solver_and_shift_are_read_in_both_spellings() -> None:
    assert sdxl({"sample_guide_scale": 5, "guidance_scale": 9}).guidance_scale == 5.0
    assert sdxl({"guidance_scale": 0}).guidance_scale == 0.0
    assert sdxl({"sample_solver": "unipc", "scheduler": "euler"}).scheduler == "unipc"
    assert sdxl({"scheduler": "EulerDiscreteScheduler"}).scheduler == "euler"
    assert video({"sample_shift": 3}).shift == 3.0


def test_a_negative_prompt_is_looked_for_at_the_top_then_in_config_then_in_metadata() -> None:
    assert (
        sdxl({"negative_prompt": "b"}, negative_prompt="a", metadata={"negative_prompt": "c"}).negative_prompt
        == "a"
    )
    assert sdxl({"negative_prompt": "b"}, metadata={"negative_prompt": "c"}).negative_prompt == "b"
    assert sdxl(metadata={"negative_prompt": "c"}).negative_prompt == "c"
    assert sdxl({}).negative_prompt is None


def test_a_seed_is_looked_for_in_config_then_in_metadata_and_zero_is_a_seed() -> None:
    assert sdxl({"seed": 0}, metadata={"seed": 5}).seed == 0
    assert sdxl({}, metadata={"seed": 5}).seed == 5
    assert sdxl({"seed": MAX_SEED}).seed == MAX_SEED


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"num_images": 2}, "num_images"),
        ({"num_images": 0}, "num_images"),
        ({"num_images": "3"}, "num_images"),
        ({"num_images": True}, "num_images"),
        ({"sample_steps": 0}, "sample_steps"),
        ({"steps": 101}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"guidance_scale": -0.1}, "guidance_scale"),
        ({"guidance_scale": 20.1}, "guidance_scale"),
        ({"guidance_scale": "7"}, "guidance_scale"),
        ({"size": "63*64"}, "64 to 2048"),
        ({"size": "2049*64"}, "64 to 2048"),
        ({"size": "2000*2000"}, "megapixels"),
        ({"size": "big"}, "size"),
        ({"size": [64, 64]}, "size"),
        ({"width": 640}, "height is missing"),
        ({"height": 640}, "width is missing"),
        ({"seed": -1}, "seed"),
        ({"seed": MAX_SEED + 1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"scheduler": "magic"}, "scheduler"),
        ({"scheduler": 7}, "scheduler"),
        ({"frame_num": 83}, "frame_num"),
        ({"reference_image_url": "https://x/y", "reference_strength": 0.05}, "reference_strength"),
        ({"reference_strength": 1.1}, "reference_strength"),
        ({"reference_type": "mood"}, "reference_type"),
        ({"enhance_prompt": "yes"}, "enhance_prompt"),
        ({"denoise_strength": 2}, "denoise_strength"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_with_its_field_and_what_is_allowed(
    config: dict[str, Any], word: str
) -> None:
    with pytest.raises(InvalidJob, match=word):
        sdxl(config)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"frame_num": 0}, "frame_num"),
        ({"frame_num": 162}, "frame_num"),
        ({"num_images": 3}, "1 for a video"),
        ({"size": "1281*720"}, "1280x720"),
    ],
)
def test_the_limits_of_a_video_are_its_own(config: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidJob, match=word):
        video(config)


def test_a_type_of_the_other_worker_is_refused_with_the_types_of_this_one() -> None:
    with pytest.raises(InvalidJob, match=r"belongs to the wan worker.*sdxl_image_fast"):
        parse(payload(job_type="video_fast"), family=SDXL)
    with pytest.raises(InvalidJob, match="belongs to the sdxl worker"):
        parse(payload(), family=WAN)
    with pytest.raises(InvalidJob, match=r"type is 'nonsense'"):
        parse(payload(job_type="nonsense"), family=WAN)


@pytest.mark.parametrize("field", ["id", "user_id"])
@pytest.mark.parametrize(
    "value", ["../x", "a/b", ".a", "-a", "a b", "a\n", "ä", "a" * 129, "\ud800", "a%2e", "{a}", "a:b"]
)
def test_an_id_that_could_be_anything_but_an_id_is_refused(field: str, value: str) -> None:
    with pytest.raises(InvalidJob, match=f"^{field} is"):
        parse(payload(**{field: value}), family=SDXL)


def test_a_bucket_is_the_types_own_or_one_the_operator_allows() -> None:
    assert sdxl(bucket="sdxl_image_fast").bucket == "sdxl_image_fast"
    with pytest.raises(InvalidJob, match="bucket"):
        sdxl(bucket="sdxl_image_high")
    assert parse(payload(bucket="extra"), output_buckets=("extra",)).bucket == "extra"


@pytest.mark.parametrize("prompt", ["", "  \n", 7, None, "a" * 10_001, "a\x00b", "a\ud800b"])
def test_a_prompt_is_a_text_of_at_most_ten_thousand_characters(prompt: Any) -> None:
    with pytest.raises(InvalidJob, match="prompt"):
        sdxl(prompt=prompt)


def test_null_means_absent_everywhere() -> None:
    nothing = dict.fromkeys(["size", "seed", "steps", "scheduler", "num_images", "reference_image_url"])
    job = parse({**payload(config=nothing), "negative_prompt": None, "metadata": None, "bucket": None})
    assert (job.size, job.seed, job.num_images, job.references) == (None, None, None, ())


@pytest.mark.parametrize("group", ["config", "metadata"])
def test_a_group_that_is_no_object_is_refused(group: str) -> None:
    with pytest.raises(InvalidJob, match=group):
        parse({**payload(), group: [1]})


@pytest.mark.parametrize(
    "wish",
    [
        {"metadata": {"reference_image_url": "https://x/r.png"}},
        {"config": {"reference_image_url": "https://x/r.png"}},
        {"metadata": {"references": [{"url": "https://x/r.png", "type": "style", "strength": 0.5}]}},
        {"metadata": {"composition_reference_url": "https://x/r.png"}},
        {"metadata": {"first_frame": "https://x/r.png"}},
        {"metadata": {"end_reference_url": "https://x/r.png"}},
    ],
)
def test_a_reference_is_seen_wherever_it_stands(wish: dict[str, Any]) -> None:
    assert len(parse(payload(**wish)).references) == 1


def test_an_address_is_never_part_of_a_refusal() -> None:
    with pytest.raises(InvalidJob) as refusal:
        sdxl({"reference_image_url": "https://x/?token=secret" * 400})
    assert "secret" not in str(refusal.value)


def test_prompt_weights_are_wanted_when_enabled_or_given_without_a_switch() -> None:
    assert sdxl(compel_enabled=True).wants_compel
    assert sdxl(compel_weights="(a:1.2)").wants_compel
    assert not sdxl(compel_weights="(a:1.2)", compel_enabled=False).wants_compel
    assert not sdxl(compel_weights="").wants_compel


@given(st.dictionaries(st.text(max_size=6), st.text(max_size=6) | st.integers(), max_size=6))
def test_unknown_fields_are_ignored(extra: dict[str, Any]) -> None:
    known = payload()
    assert parse({**{f"x-{k}": v for k, v in extra.items()}, **known}) == parse(known)


@given(st.integers(0, MAX_SEED))
def test_every_digit_of_a_seed_is_kept(seed: int) -> None:
    assert sdxl({"seed": seed}).seed == seed


def test_every_error_of_this_project_has_one_root() -> None:
    assert issubclass(InvalidJob, WorkerError)


@pytest.mark.parametrize("raw", [b'"' + b'\\"' * 500_000, b'{"a":"' + b'\\"' * 500_000 + b"\\", b'"' * 10**6])
def test_an_element_that_was_cut_off_is_read_in_linear_time(raw: bytes) -> None:
    # A pattern that tries every quote again would take hours here, not milliseconds.
    with pytest.raises(MalformedElement):
        Envelope.decode(raw)
