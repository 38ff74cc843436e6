"""What goes in and what comes out of the encoder, and how it fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import JobError, WorkerError


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A finished file. `key` is its path within the bucket, `size` its length in bytes."""

    path: Path
    key: str
    content_type: str
    size: int


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """One picture or video with its thumbnail, described as it was read back from the file.

    `width` and `height` are pixels, `fps` frames a second, `duration` seconds; the last two are None for a
    picture.
    """

    index: int
    file: MediaFile
    thumbnail: MediaFile
    width: int
    height: int
    num_frames: int
    fps: float | None
    duration: float | None


@dataclass(frozen=True, slots=True)
class C2paSigner:
    """Who signs. The certificate chain (the signer's own first) and its private key (PKCS#8) are PEM texts.

    `algorithm` is es256, es384, es512, ps256, ps384, ps512 or ed25519. With a `timestamp_url` every signing
    asks that RFC 3161 authority for a timestamp; without one nothing leaves the machine.
    """

    certificate_chain: str
    private_key: str = field(repr=False)
    algorithm: str = "es256"
    timestamp_url: str | None = None


@dataclass(frozen=True, slots=True)
class Marking:
    """What a file says about its origin.

    The IPTC digital source type, `generator` and `version` stand in every file. `embed_settings` adds seed,
    steps, guidance, size and sampler to pictures as PNG text, `embed_prompt` the executed prompt. With a
    `signer` the picture or video (not the thumbnail) also carries a C2PA manifest; two signings of one file
    differ, everything else is the same bytes for the same job.
    """

    generator: str
    version: str
    embed_settings: bool = False
    embed_prompt: bool = False
    signer: C2paSigner | None = None


class EncodingFailed(JobError):
    """A sample could not be turned into a sound file; the technical reason is the `__cause__`.

    Never the customer's doing: a full disk, an encoder that was killed, a bug of ours.
    """

    code = "generation_failed"
    retryable = True
    node_fault = True


class MediaFault(WorkerError):
    """A file could not be made or is not what the plan says. Leaves this package as `EncodingFailed` only."""
