"""A certificate is the one that was written for these very files, or it is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pocket_diffusion.bundle import Bundle, Manifest, read_manifest
from pocket_diffusion.certificate import Certificate, LayerFigure
from pocket_diffusion.errors import BundleDamagedError, BundleFormatError

Certify = Callable[..., None]
LAYER = {"name": "conv_in.weight", "stored": "int8", "computed": "token", "storage_error": 1e-3, "error": 4e-3}


def test_a_certificate_is_read_as_it_was_written(bundle: Path, certify: Certify) -> None:
    certify("unet", layers=[LAYER], psnr_db=None)
    certificate = Bundle.open(bundle).certificate("unet")
    assert certificate.layers == (LayerFigure(**LAYER),)
    assert (certificate.relative_error, certificate.bound, certificate.psnr_db) == (0.01, 0.05, None)


@pytest.mark.parametrize(
    ("error", "allowed"), [(0.0, True), (0.05, True), (0.0501, False), (math.inf, False), (math.nan, False)]
)
def test_an_error_up_to_the_bound_is_allowed(bundle: Path, certify: Certify, error: float, allowed: bool) -> None:
    certify("unet")
    certificate = msgspec.structs.replace(Bundle.open(bundle).certificate("unet"), relative_error=error)
    assert certificate.allows is allowed


def test_a_certificate_that_was_edited_is_refused(bundle: Path, certify: Certify) -> None:
    certify("unet", relative_error=0.91)
    path = bundle / "unet.certificate.json"
    path.write_bytes(path.read_bytes().replace(b"0.91", b"0.01"))
    with pytest.raises(BundleDamagedError, match=r"unet\.certificate\.json is not the file that was written") as caught:
        Bundle.open(bundle).certificate("unet")
    assert "export the bundle again" in str(caught.value)


def test_a_certificate_that_became_longer_is_refused(bundle: Path, certify: Certify) -> None:
    certify("unet")
    opened = Bundle.open(bundle)
    with (bundle / "unet.certificate.json").open("a") as file:
        file.write(" ")
    with pytest.raises(BundleDamagedError, match=r"unet\.certificate\.json has \d+ bytes, not"):
        opened.certificate("unet")


@pytest.mark.parametrize(("field", "file"), [("graph_sha256", "unet.int8.onnx"), ("weights_sha256", "unet.weights")])
def test_a_certificate_of_other_files_is_refused_though_the_manifest_agrees(
    bundle: Path, certify: Certify, field: str, file: str
) -> None:
    certify("unet", **{field: "0" * 64})
    with pytest.raises(BundleDamagedError, match=f"unet.certificate.json was not made for {file}: the sha256 differs"):
        Bundle.open(bundle).certificate("unet")


@pytest.mark.parametrize(
    ("figures", "why"),
    [
        ({"bound": -1}, "bound"),
        ({"relative_error": None}, "relative_error"),
        ({"evaluations": 0}, "evaluations"),
        ({"flavour": "vanilla"}, "unknown field `flavour`"),
        ({"layers": [{**LAYER, "computed": "fp4"}]}, "fp4"),
        ({"layers": [{"name": "conv_in.weight"}]}, "stored"),
    ],
)
def test_a_certificate_that_is_not_understood_is_refused_by_the_field(
    bundle: Path, certify: Certify, figures: dict[str, Any], why: str
) -> None:
    certify("unet", **figures)
    with pytest.raises(BundleDamagedError, match=r"certificate\.json is not understood") as caught:
        Bundle.open(bundle).certificate("unet")
    assert why in str(caught.value)


@pytest.mark.parametrize("file", ["graph", "certificate"])
def test_the_files_of_an_8_bit_graph_must_be_listed(
    bundle: Path, certify: Certify, edit_manifest: Callable[..., None], file: str
) -> None:
    certify("unet")
    edit_manifest(lambda data: data["files"].pop(data["unet"]["int8"][file]))
    with pytest.raises(BundleFormatError, match="does not list it under files"):
        read_manifest(bundle)


def test_verify_sees_a_changed_certificate(bundle: Path, certify: Certify) -> None:
    certify("unet", relative_error=0.91)
    path = bundle / "unet.certificate.json"
    path.write_bytes(path.read_bytes().replace(b"0.91", b"0.01"))
    assert list(Bundle.open(bundle).damaged_files()) == ["unet.certificate.json"]


def test_the_view_in_8_bits_changes_these_components_alone(bundle: Path, certify: Certify) -> None:
    certify("unet")
    certify("vae_decoder")
    manifest = read_manifest(bundle)
    view = manifest.in_int8(["unet"])
    assert (view.unet.graph, view.unet.memory) == ("unet.int8.onnx", None)
    assert msgspec.structs.replace(view, unet=manifest.unet) == manifest
    assert manifest.in_int8([]) == manifest


def test_a_manifest_without_8_bit_graphs_is_written_as_ever(manifest: Manifest) -> None:
    plain = msgspec.structs.replace(manifest, unet=msgspec.structs.replace(manifest.unet, int8=None))
    assert b'"int8":' not in msgspec.json.encode(plain.unet)


def test_what_the_exporter_writes_is_read_again() -> None:
    written = Certificate(
        graph_sha256="a", weights_sha256="b", bound=0.05, relative_error=0.01, largest_error=0.02, evaluations=1,
        psnr_db=40.0, what="a prompt", layers=(LayerFigure(**LAYER),),
    )  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(written), type=Certificate) == written
