from __future__ import annotations

import datetime
import importlib
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from numpy.typing import NDArray

from shared.errors import SettingsError
from shared.plan import Plan
from workers.encode import C2paSigner, EncodedSample, Marking, check_signer, encode_sample
from workers.encode.mark import TRAINED_ALGORITHMIC_MEDIA
from workers.engines.base import Sample

PlanMaker = Callable[..., Plan]
Gradient = Callable[[int, int, int], NDArray[np.uint8]]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("c2pa") is None, reason="the extra `c2pa` is not installed"
)


@dataclass(frozen=True)
class Credentials:
    signer: C2paSigner
    root: str


@pytest.fixture(scope="module")
def credentials() -> Credentials:
    """A self-made root and a signing certificate under it, as C2PA's profile asks, valid for two days."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    root = _certificate("root", root_key, authority=True).sign(root_key, hashes.SHA256())
    email = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    leaf = (
        _certificate("signer", key, authority=False)
        .add_extension(email, critical=False)
        .add_extension(root_id, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credentials(
        C2paSigner(leaf.public_bytes(pem).decode(), private.decode()), root.public_bytes(pem).decode()
    )


def _certificate(name: str, key: ec.EllipticCurvePrivateKey, authority: bool) -> x509.CertificateBuilder:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    subject = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = {
        "digital_signature": not authority,
        "key_cert_sign": authority,
        "crl_sign": authority,
        "content_commitment": False,
        "key_encipherment": False,
        "data_encipherment": False,
        "key_agreement": False,
        "encipher_only": False,
        "decipher_only": False,
    }
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name("root"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(subject, critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A test"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def read(path: Path, content_type: str, root: str) -> tuple[str, dict[str, Any]]:
    """Validation state and active manifest, as c2pa-python sees them when it trusts `root`."""
    c2pa = importlib.import_module("c2pa")
    context = c2pa.Context(
        c2pa.Settings.from_dict({"trust": {"user_anchors": root}, "verify": {"verify_trust": True}})
    )
    with path.open("rb") as file, c2pa.Reader(content_type, file, context=context) as reader:
        store = json.loads(reader.json())
        return str(reader.get_validation_state()), dict(store["manifests"][store["active_manifest"]])


@pytest.fixture(params=["picture", "video"])
def signed(
    request: pytest.FixtureRequest,
    make_plan: PlanMaker,
    moving_gradient: Gradient,
    marking: Marking,
    credentials: Credentials,
    tmp_path: Path,
) -> EncodedSample:
    marking = replace(marking, signer=credentials.signer)
    if request.param == "picture":
        return encode_sample(make_plan(), Sample(0, moving_gradient(1, 64, 64)), tmp_path, marking)
    plan = make_plan("video_fast", 64, 48, 5)
    return encode_sample(plan, Sample(0, moving_gradient(5, 48, 64)), tmp_path, marking)


def test_a_signed_file_is_trusted_by_whoever_trusts_the_signers_root(
    signed: EncodedSample, credentials: Credentials
) -> None:
    state, manifest = read(signed.file.path, signed.file.content_type, credentials.root)
    assert state == "Trusted"
    assert manifest["signature_info"]["common_name"] == "signer"


def test_the_manifest_says_what_made_the_file(signed: EncodedSample, credentials: Credentials) -> None:
    _, manifest = read(signed.file.path, signed.file.content_type, credentials.root)
    assert manifest["claim_generator_info"][0]["name"] == "gpu-generation-workers"
    (actions,) = (item for item in manifest["assertions"] if item["label"].startswith("c2pa.actions"))
    (action,) = actions["data"]["actions"]
    assert (action["action"], action["digitalSourceType"]) == ("c2pa.created", TRAINED_ALGORITHMIC_MEDIA)


def test_a_changed_byte_breaks_the_signature(signed: EncodedSample, credentials: Credentials) -> None:
    content = bytearray(signed.file.path.read_bytes())
    content[content.rindex(b"trainedAlgorithmicMedia" if signed.fps else b"IDAT") + 8] ^= 1
    signed.file.path.write_bytes(content)
    assert read(signed.file.path, signed.file.content_type, credentials.root)[0] == "Invalid"


def test_a_signed_file_is_measured_after_signing_and_leaves_no_other(signed: EncodedSample) -> None:
    assert signed.file.size == signed.file.path.stat().st_size
    assert set(signed.file.path.parent.iterdir()) == {signed.file.path, signed.thumbnail.path}


def test_the_start_up_check_accepts_a_matching_key_and_certificate(credentials: Credentials) -> None:
    check_signer(credentials.signer)


def test_the_start_up_check_names_a_key_that_does_not_fit_without_showing_it(
    credentials: Credentials,
) -> None:
    wrong = replace(credentials.signer, private_key="-----BEGIN PRIVATE KEY-----\nplanted\n")
    with pytest.raises(SettingsError, match="C2PA signing does not work") as caught:
        check_signer(wrong)
    assert "planted" not in str(caught.value)
    assert "planted" not in repr(wrong)


def test_a_key_of_another_certificate_is_refused_at_the_start(credentials: Credentials) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(SettingsError):
        check_signer(replace(credentials.signer, private_key=other.decode()))
