"""A tiny VAE's graphs against diffusers, through the template, an export and an import."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderTiny

from exporting import export_unmeasured
from pocket_diffusion import Pipeline
from pocket_diffusion.addon import ADDON_NAME, TINY_VAE, Addon, read_addon, with_tiny_vae
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.checkpoint.tiny_vae import read_tiny_vae
from pocket_diffusion.importing import import_checkpoint, templates
from pocket_diffusion.importing.templates import SPEC_NAME, read_archive, specs_of
from pocket_diffusion.importing.tiny_vae import ARCHIVE
from pocket_export import templates as writing
from pocket_export.checkpoint import read_checkpoint
from pocket_export.templates import pack, template_files
from pocket_export.tiny_vae import export_tiny_vae, parts
from pocket_export.tiny_vae_template import write_template
from pocket_models.tiny_vae import TinyVAE

# The same sums in another order, relative to the result's norm.
RELATIVE = 1e-5
RunCli = Callable[..., SimpleNamespace]


@pytest.fixture(scope="session")
def theirs() -> AutoencoderTiny:
    """With so much contrast that pictures are no plain grey."""
    torch.manual_seed(0)
    vae = AutoencoderTiny().eval()
    with torch.no_grad():
        vae.decoder.layers[18].weight *= 20
        vae.decoder.layers[18].bias += 0.5
    return vae


@pytest.fixture(scope="session")
def taesd(theirs: AutoencoderTiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taesd") / "taesd"
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def with_taesd(tiny_folder: Path, taesd: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A tiny pipeline, exported with a tiny VAE."""
    return export_unmeasured(tiny_folder, tmp_path_factory.mktemp("taesd") / "bundle", weights="fp32", tiny_vae=taesd)


def relative(ours: np.ndarray, theirs: torch.Tensor) -> float:
    return float(np.linalg.norm(ours - theirs.numpy()) / np.linalg.norm(theirs.numpy()))


def test_the_model_equals_diffusers(theirs: AutoencoderTiny) -> None:
    ours = TinyVAE().eval()
    ours.load_state_dict(theirs.state_dict())
    latents, picture = torch.randn(2, 4, 9, 12), torch.rand(1, 3, 72, 64) * 2 - 1
    with torch.inference_mode():
        for mine, other in (
            (ours.decoder(latents), theirs.decode(latents).sample),
            (ours.encoder(picture), theirs.encode(picture).latents),
        ):
            assert relative(mine.numpy(), other) < RELATIVE


def test_an_exported_pipeline_decodes_and_encodes_as_diffusers(theirs: AutoencoderTiny, with_taesd: Bundle) -> None:
    tiny = Pipeline.load(with_taesd.root, vae="tiny", arithmetic="exact")
    latents, picture = torch.randn(1, 4, 10, 7), torch.rand(1, 3, 56, 80) * 2 - 1
    with torch.inference_mode():
        # diffusers' pipelines divide by the VAE's scaling factor, which is 1 here.
        assert relative(tiny.decode_latents(latents.numpy()), theirs.decode(latents).sample) < RELATIVE
        assert relative(tiny.encode_image(picture.numpy()), theirs.encode(picture).latents) < RELATIVE


def test_the_export_compares_it_with_pytorch(with_taesd: Bundle, taesd: Path) -> None:
    addon = read_addon(with_taesd.root)
    assert addon is not None
    figures = [figure for role in (addon.vae_encoder, addon.vae_decoder) for figure in role.parity]
    assert len(figures) == 4
    assert all(0 < figure.relative_error < RELATIVE for figure in figures)
    assert addon.provenance.source == taesd.name
    assert not with_tiny_vae(with_taesd).damaged_files()


def test_a_bundle_with_one_is_the_bundle_without(with_taesd: Bundle, tiny_bundle_fp32: Path) -> None:
    theirs = Bundle.open(tiny_bundle_fp32).manifest
    assert with_taesd.manifest.files == theirs.files
    assert with_taesd.manifest.unet.graph == theirs.unet.graph


def test_an_import_with_one_is_what_an_export_with_one_is(
    with_taesd: Bundle,
    tiny_bundle_fp32: Path,
    tiny_folder: Path,
    taesd: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files: dict[str, bytes] = {}
    manifest = Bundle.open(tiny_bundle_fp32).manifest
    for kind, spec in specs_of(read_checkpoint(str(tiny_folder)).source).items():
        components = {role: manifest.component(role) for role in writing.COMPONENTS_OF[kind]}
        own = template_files(components, tiny_bundle_fp32, manifest.files)
        files |= {f"{kind}/tiny/fp32/{name}": content for name, content in own.items()}
        files[f"{kind}/tiny/{SPEC_NAME}"] = msgspec.json.encode(spec)
    monkeypatch.setattr(templates, "ARCHIVE", tmp_path / "networks.tar.xz")
    templates.ARCHIVE.write_bytes(pack(files))
    imported = import_checkpoint(tiny_folder, tmp_path / "bundle", weights="fp32", tiny_vae=taesd)
    assert imported.manifest.files == with_taesd.manifest.files
    ours, theirs = (read_addon(bundle.root) for bundle in (imported, with_taesd))
    assert ours is not None
    assert theirs is not None
    assert ours.files == theirs.files


def test_the_graphs_that_come_along_are_what_a_fresh_trace_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocket_export.tiny_vae_template.measure_memory", lambda *_: None)
    fresh, packed = write_template(tmp_path), read_archive(ARCHIVE)
    assert fresh.keys() == packed.keys()
    ours, theirs = (msgspec.json.decode(files[ADDON_NAME], type=Addon) for files in (fresh, packed))
    for role in ("vae_encoder", "vae_decoder"):
        one, other = ours.component(role), theirs.component(role)
        assert other.memory is not None
        assert other.int8 is not None
        assert other.int8.memory is not None
        assert (one.inputs, one.outputs, one.files, one.parameters) == (
            other.inputs, other.outputs, other.files, other.parameters,
        )  # fmt: skip
        assert fresh[f"{role}.layers.json"] == packed[f"{role}.layers.json"]
    for name in (name for name in fresh if name.endswith(".onnx")):
        one, other = (onnx.load_from_string(files[name]) for files in (fresh, packed))
        assert one.graph == other.graph, name


def test_pytorch_has_the_last_word(taesd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pocket_diffusion.errors import ParityError

    def others(_: TinyVAE) -> object:
        torch.manual_seed(1)
        return parts(TinyVAE())

    monkeypatch.setattr("pocket_export.tiny_vae.parts", others)
    with pytest.raises(ParityError, match="vae_encoder is off by"):
        export_tiny_vae(read_tiny_vae(taesd), tmp_path / TINY_VAE)
