"""A tiny VAE beside a bundle: read in all its forms, added, drawn with, and refused where it does not belong."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pocket_diffusion import Order, Pipeline
from pocket_diffusion.addon import ADDON_NAME, ROLES, TINY_VAE, read_addon, with_tiny_vae
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.checkpoint.tiny_vae import read_tiny_vae
from pocket_diffusion.errors import (
    BundleDamagedError,
    BundleFormatError,
    CheckpointError,
    CheckpointNotFoundError,
    InvalidRequestError,
    OutputError,
    OutputExistsError,
    TensorMismatchError,
    UnsupportedModelError,
)
from pocket_diffusion.importing.tiny_vae import add_tiny_vae
from pocket_diffusion.machine.session import GraphSession
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_diffusion.scratch import ScratchFolder
from pocket_diffusion.writer import NEW, OLD, BundleWriter
from tiny_vaes import Arrays, own_names, tiny_arrays, write_diffusers_folder, write_own_folder
from weights_files import write_safetensors

SMALL = {"width": 128, "height": 64, "steps": 2, "seed": 1}
NOISE = {"name": "noise", "dtype": "float32", "shape": []}
DRAWING = ("--width", 128, "--height", 64, "--steps", 2, "--seed", 1)


@pytest.fixture(scope="session")
def arrays() -> Arrays:
    return tiny_arrays()


@pytest.fixture(scope="session")
def tiny_bundle(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded bundle with a tiny VAE."""
    folder = tmp_path_factory.mktemp("tiny_vae")
    source = write_diffusers_folder(folder / "taesd", arrays)
    bundle = shutil.copytree(DEFAULT_BUNDLE, folder / "bundle")
    add_tiny_vae(bundle, source)
    return bundle


@pytest.fixture(scope="session")
def tiny(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle, vae="tiny", arithmetic="exact")


@pytest.fixture
def changed(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of that bundle, to be damaged."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


@pytest.mark.parametrize(
    "write",
    [
        write_diffusers_folder,
        write_own_folder,
        lambda path, arrays: write_own_folder(path, arrays) / "taesd_decoder.pth",
        lambda path, arrays: write_safetensors(
            path.with_suffix(".safetensors"),
            own_names(arrays, "encoder", "taesd_encoder.") | own_names(arrays, "decoder", "taesd_decoder."),
        ),
        lambda path, arrays: write_safetensors(
            path.with_suffix(".safetensors"),
            own_names(arrays, "encoder", "encoder.") | own_names(arrays, "decoder", "decoder."),
        ),
        lambda path, arrays: write_diffusers_folder(path, arrays) / "diffusion_pytorch_model.safetensors",
        lambda path, arrays: _pipeline_folder(path, arrays),
    ],
    ids=["diffusers", "two files", "one of two", "one file", "the network whole", "weights alone", "a pipeline's"],
)
def test_every_published_form_has_the_same_tensors(
    arrays: Arrays, tmp_path: Path, write: Callable[[Path, Arrays], Path]
) -> None:
    found = read_tiny_vae(write(tmp_path / "taesd", arrays)).tensors
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name].read(), array), name


def _pipeline_folder(path: Path, arrays: Arrays) -> Path:
    write_diffusers_folder(path / "vae", arrays)
    (path / "model_index.json").write_text("{}")
    return path


@pytest.mark.parametrize("name", ["taesdxl", "madebyollin-TAESDXL", "taesd3", "taef1"])
def test_those_for_other_models_are_refused_by_their_names(arrays: Arrays, tmp_path: Path, name: str) -> None:
    source = write_diffusers_folder(tmp_path / name, arrays)
    with pytest.raises(UnsupportedModelError, match=rf"{name} is a tiny VAE for (Stable Diffusion (XL|3)|FLUX)"):
        read_tiny_vae(source)


@pytest.mark.parametrize(
    "place", ["madebyollin/taesdxl/file", "models--madebyollin--taesdxl/snapshots/0a1b2c", "taesd3/vae"]
)
def test_the_nearest_folder_whose_name_tells_counts(arrays: Arrays, tmp_path: Path, place: str) -> None:
    folder = write_diffusers_folder(tmp_path / place, arrays)
    for source in (folder, folder / "diffusion_pytorch_model.safetensors"):
        with pytest.raises(UnsupportedModelError, match="is a tiny VAE for Stable Diffusion"):
            read_tiny_vae(source)
    (folder / "config.json").rename(folder / "vae_config.json")
    named = (folder / "diffusion_pytorch_model.safetensors").rename(folder / "taesd.safetensors")
    assert read_tiny_vae(named).tensors.keys() == arrays.keys()


def test_a_link_to_one_for_other_models_is_refused(arrays: Arrays, tmp_path: Path) -> None:
    (tmp_path / "tiny").symlink_to(write_diffusers_folder(tmp_path / "taesdxl", arrays))
    (tmp_path / "other-taesdxl").symlink_to(write_diffusers_folder(tmp_path / "blobs", arrays))
    for name in ("tiny", "other-taesdxl"):
        with pytest.raises(UnsupportedModelError, match="taesdxl is a tiny VAE for Stable Diffusion XL"):
            read_tiny_vae(tmp_path / name)


def test_a_folder_that_is_named_after_something_else_says_nothing(arrays: Arrays, tmp_path: Path) -> None:
    source = write_diffusers_folder(tmp_path / "taewoo" / "tiny", arrays)
    assert read_tiny_vae(source).name == "tiny"


def test_one_that_a_config_names_is_refused(arrays: Arrays, tmp_path: Path) -> None:
    source = write_diffusers_folder(tmp_path / "tiny", arrays, _name_or_path="madebyollin/taesdxl")
    with pytest.raises(UnsupportedModelError, match="for Stable Diffusion XL"):
        read_tiny_vae(source)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"latent_channels": 16}, "latent_channels 16, not 4"),
        ({"act_fn": "mish"}, "act_fn mish, not relu"),
        ({"_class_name": "AutoencoderKL"}, "holds a 'AutoencoderKL'; wanted is an AutoencoderTiny"),
    ],
)
def test_another_architecture_is_refused(arrays: Arrays, tmp_path: Path, config: dict[str, object], fault: str) -> None:
    source = write_diffusers_folder(tmp_path / "tiny", arrays, **config)
    with pytest.raises(UnsupportedModelError, match=re.escape(fault)):
        read_tiny_vae(source)


def test_another_number_of_latent_channels_is_refused_by_the_weights_too(arrays: Arrays, tmp_path: Path) -> None:
    wide = arrays | {"decoder.layers.0.weight": np.zeros((64, 16, 3, 3), np.float32)}
    with pytest.raises(UnsupportedModelError, match="16 channels, as Stable Diffusion 3 and FLUX have"):
        read_tiny_vae(write_safetensors(tmp_path / "tiny.safetensors", wide))


def test_half_a_tiny_vae_is_refused(arrays: Arrays, tmp_path: Path) -> None:
    folder = write_own_folder(tmp_path / "taesd", arrays)
    (folder / "taesd_encoder.pth").unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"is the decoder alone; put taesd_encoder\.pth beside it"):
        read_tiny_vae(folder / "taesd_decoder.pth")
    with pytest.raises(CheckpointNotFoundError, match="has no tiny VAE for Stable Diffusion"):
        read_tiny_vae(folder)


def test_what_is_no_tiny_vae_is_refused(tmp_path: Path) -> None:
    file = write_safetensors(tmp_path / "vae.safetensors", {"decoder.conv_in.weight": np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match=r"is no tiny VAE: it holds 'decoder\.conv_in\.weight'"):
        read_tiny_vae(file)


def test_two_names_for_one_tensor_are_refused(arrays: Arrays, tmp_path: Path) -> None:
    twice = arrays | {"taesd_encoder.0.weight": arrays["encoder.layers.0.weight"] + 1}
    with pytest.raises(CheckpointError, match=r"holds encoder\.layers\.0\.weight twice, under two names"):
        read_tiny_vae(write_safetensors(tmp_path / "tiny.safetensors", twice))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"encoder.layers.0.weight": np.zeros((64, 3, 5, 5), np.float32)}, r"is \[64, 3, 5, 5\], not \[64, 3, 3, 3\]"),
        ({"encoder.layers.0.bias": np.full(64, np.nan, np.float32)}, "holds NaN or infinity"),
        ({"encoder.layers.99.weight": np.zeros(1, np.float32)}, "belongs nowhere"),
    ],
)
def test_tensors_that_do_not_fit_leave_nothing_behind(
    arrays: Arrays, bundle: Path, tmp_path: Path, change: Arrays, fault: str
) -> None:
    before = sorted(path.name for path in (*bundle.iterdir(), *bundle.parent.iterdir()))
    source = write_diffusers_folder(tmp_path / "elsewhere" / "taesd", arrays | change)
    with pytest.raises(TensorMismatchError, match=fault):
        add_tiny_vae(bundle, source)
    after = sorted(path.name for path in (*bundle.iterdir(), *bundle.parent.iterdir()) if path.name != "elsewhere")
    assert after == before


@pytest.mark.filterwarnings("error")
def test_weights_that_overflow_are_refused(arrays: Arrays, bundle: Path, tmp_path: Path) -> None:
    huge = {name: (array * 1e8).astype(np.float32) for name, array in arrays.items()}
    with pytest.raises(CheckpointError, match="huge makes NaN or infinity of plain pictures and noise; fetch it again"):
        add_tiny_vae(bundle, write_diffusers_folder(tmp_path / "huge", huge))
    assert not list(bundle.glob(f"*{TINY_VAE}*"))


@pytest.mark.filterwarnings("error")
def test_half_a_tiny_vae_that_makes_zeros_has_no_8_bit_graph(arrays: Arrays, bundle: Path, tmp_path: Path) -> None:
    zeros = {name: np.zeros_like(array) for name, array in arrays.items()}
    addon = add_tiny_vae(bundle, write_diffusers_folder(tmp_path / "zeros", zeros))
    assert addon.vae_encoder.int8 is None
    assert "vae_encoder.int8.onnx" not in addon.files
    whole = with_tiny_vae(Bundle.open(bundle))
    figures = whole.certificate("vae_decoder")  # its pictures are black
    assert figures.relative_error == 0
    assert figures.psnr_db is not None
    assert not whole.damaged_files()


def test_the_bundle_itself_stays_as_it_is(tiny_bundle: Path) -> None:
    for path in DEFAULT_BUNDLE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (tiny_bundle / path.relative_to(DEFAULT_BUNDLE)).read_bytes() == path.read_bytes(), path


def test_one_that_is_there_is_replaced_only_if_asked(changed: Path, arrays: Arrays, tmp_path: Path) -> None:
    source = write_diffusers_folder(tmp_path / "other", arrays | {"decoder.layers.0.bias": np.ones(64, np.float32)})
    before = (changed / TINY_VAE / ADDON_NAME).read_bytes()
    with pytest.raises(OutputExistsError, match="use --force to replace it"):
        add_tiny_vae(changed, source)
    assert (changed / TINY_VAE / ADDON_NAME).read_bytes() == before
    assert add_tiny_vae(changed, source, force=True).provenance.source == "other"
    assert Pipeline.load(changed, vae="tiny").bundle.manifest.has_tiny_vae


def test_what_is_no_tiny_vae_is_not_replaced(bundle: Path, arrays: Arrays, tmp_path: Path) -> None:
    source = write_diffusers_folder(tmp_path / "taesd", arrays)
    (bundle / TINY_VAE).mkdir()
    (bundle / TINY_VAE / "mine.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputExistsError, match="tiny_vae exists and is no tiny VAE; move it away first"):
            add_tiny_vae(bundle, source, force=force)
    assert (bundle / TINY_VAE / "mine.txt").read_text() == "mine"


def test_one_at_a_time_is_added(changed: Path, arrays: Arrays, tmp_path: Path) -> None:
    source = write_diffusers_folder(tmp_path / "other", arrays)
    refused = pytest.raises(OutputExistsError, match=r"is being added to .* by another process; wait for it")
    with ScratchFolder(changed, TINY_VAE), refused:
        add_tiny_vae(changed, source, force=True)
    assert not with_tiny_vae(Bundle.open(changed)).damaged_files()


def test_what_a_killed_process_left_is_put_right(changed: Path, arrays: Arrays, tmp_path: Path) -> None:
    left = changed / ".tiny_vae.unfinished-pocket-diffusion-killed"
    left.mkdir()
    (changed / TINY_VAE).rename(left / OLD)
    with pytest.raises(OutputExistsError, match="use --force"):
        add_tiny_vae(changed, write_diffusers_folder(tmp_path / "other", arrays))
    assert not with_tiny_vae(Bundle.open(changed)).damaged_files()
    assert not list(changed.glob(".*"))


def test_the_old_one_stays_if_the_new_one_cannot_take_its_place(
    changed: Path, arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_on_the_new_one(self: Path, target: Path) -> Path:
        if self.name == NEW:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_the_new_one)
    with pytest.raises(OutputError, match="tiny_vae cannot be written: Input/output error"):
        add_tiny_vae(changed, write_diffusers_folder(tmp_path / "other", arrays), force=True)
    assert with_tiny_vae(Bundle.open(changed)).manifest.has_tiny_vae
    assert not list(changed.glob(".*"))


def test_pictures_are_decoded_by_it_and_say_so(tiny: Pipeline, tiny_bundle: Path) -> None:
    result = tiny.generate("a lake", **SMALL)
    addon = read_addon(tiny_bundle)
    assert addon is not None
    decoder = GraphSession(tiny_bundle / TINY_VAE, "vae_decoder", addon.vae_decoder, "cpu")
    expected = decoder.run(latents=result.latents)["picture"]  # of scaled latents as they are
    pixels = np.asarray(result.images[0], float).transpose(2, 0, 1)
    assert np.abs(pixels - (expected[0] * 127.5 + 127.5).clip(0, 255)).max() <= 1
    plain = Pipeline.load(tiny_bundle, arithmetic="exact").generate("a lake", **SMALL)
    assert np.array_equal(plain.latents, result.latents)
    assert np.abs(np.asarray(plain.images[0], float) - np.asarray(result.images[0], float)).mean() > 5


def test_metadata_tells_of_it(tiny: Pipeline, tmp_path: Path) -> None:
    from PIL import Image

    tiny.generate("a lake", **SMALL).save(tmp_path / "lake.png")
    with Image.open(tmp_path / "lake.png") as picture:
        assert ", VAE: tiny," in picture.info["parameters"]
        assert '"vae":"tiny"' in "".join(str(text) for text in picture.info.values()).replace(" ", "")


def test_pictures_are_encoded_by_it_without_noise(tiny: Pipeline) -> None:
    picture = np.random.default_rng(0).uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)
    latents = tiny.encode_image(picture)
    assert latents.shape == (1, 4, 8, 8)
    noise = np.ones_like(latents)
    assert np.array_equal(tiny.encode_image(picture, noise=noise), latents)


def test_tiles_keep_their_own_colours(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    latents = np.random.default_rng(0).standard_normal((1, 4, 40, 56)).astype(np.float32)
    whole = tiny.decode_latents(latents)
    monkeypatch.setattr(type(tiny.components.mode), "vae_tile", lambda *_: 24)
    error = np.linalg.norm(tiny.decode_latents(latents) - whole) / np.linalg.norm(whole)
    assert 0 < error < 0.2  # with colours from a smaller picture, as a VAE with norms needs them, noise is 0.5 off


def test_8_bits_are_as_near_as_the_certificate_says(tiny: Pipeline, tiny_bundle: Path) -> None:
    certificate = with_tiny_vae(Bundle.open(tiny_bundle)).certificate("vae_decoder")
    assert certificate.allows
    in_8_bits = Pipeline.load(tiny_bundle, vae="tiny", arithmetic="int8")
    latents = np.random.default_rng(5).standard_normal((1, 4, 16, 24)).astype(np.float32)
    exact = tiny.decode_latents(latents).clip(-1, 1)
    error = np.linalg.norm(in_8_bits.decode_latents(latents) - exact) / np.linalg.norm(exact)
    assert 0 < error < 1.5 * certificate.largest_error


def test_previews_are_small_pictures_where_there_is_one(tiny_bundle: Path) -> None:
    pipeline = Pipeline.load(tiny_bundle)
    steps = pipeline.steps(Order(prompt="a lake", **SMALL), previews=True)
    assert pipeline.previewer.is_ready
    preview = next(steps).preview()
    assert preview.size == (128, 64)
    steps.close()
    pipeline.close()
    assert not pipeline.previewer.is_ready  # so that it is loaded before the next drawing's memory is weighed


def test_without_a_tiny_vae_that_can_be_used_previews_are_rough(
    changed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    graphs = [changed / TINY_VAE / name for name in ("vae_decoder.onnx", "vae_decoder.int8.onnx")]
    for graph in graphs:  # of the right size
        graph.write_bytes(bytes(graph.stat().st_size))
    (changed / TINY_VAE / ADDON_NAME).rename(changed / "kept.json")
    (changed / TINY_VAE / ADDON_NAME).write_text("{")
    not_understood = Pipeline.load(changed)
    (changed / "kept.json").replace(changed / TINY_VAE / ADDON_NAME)
    not_loaded = Pipeline.load(changed)
    for pipeline in (not_understood, not_loaded):
        steps = pipeline.steps(Order(prompt="a lake", **SMALL), previews=True)
        assert next(steps).preview().size == (16, 8)
        steps.close()
    told = [record.getMessage() for record in caplog.records if "previews come without" in record.getMessage()]
    assert len(told) == 2
    assert "not understood" in told[0]
    assert "is no ONNX graph" in told[1]


def test_previews_of_large_pictures_stay_small(tiny_bundle: Path) -> None:
    latents = np.zeros((1, 4, 96, 64), np.float32)
    width, height = Pipeline.load(tiny_bundle).previewer.picture(latents).size
    assert width * height <= 256 * 256
    assert abs(height / width - 1.5) < 0.05


def test_the_command_line_adds_shows_verifies_and_draws(
    run_cli: Callable[..., SimpleNamespace], bundle: Path, arrays: Arrays, tmp_path: Path
) -> None:
    source = write_own_folder(tmp_path / "taesd", arrays)
    assert run_cli("add", bundle, "--tiny-vae", source).out.startswith(f"{bundle} has a tiny VAE now (10 MB); try: ")
    assert run_cli("add", bundle, "--tiny-vae", source).code == 2
    shown = run_cli("inspect", bundle).out
    assert "tiny VAE, for --vae tiny and for previews: taesd\n" in shown
    assert "tiny vae_decoder in 8 bits" in shown
    assert "tiny_vae" in json.loads(run_cli("inspect", bundle, "--json").out)
    drawn = run_cli("generate", "a lake", "-m", bundle, "--vae", "tiny", *DRAWING, "--preview-every", 1)
    assert (drawn.code, drawn.out[:20]) == (0, "picture.png  (128x64")
    assert run_cli("verify", bundle).code == 0
    (bundle / TINY_VAE / "vae_encoder.onnx").write_bytes(b"another")
    outcome = run_cli("verify", bundle)
    assert (outcome.code, "tiny_vae/vae_encoder.onnx" in outcome.err) == (1, True)


def test_the_command_line_refuses_what_is_not_there(run_cli: Callable[..., SimpleNamespace], bundle: Path) -> None:
    outcome = run_cli("generate", "a lake", "-m", bundle, "--vae", "tiny", *DRAWING)
    assert (outcome.code, "add one with" in outcome.err) == (2, True)
    outcome = run_cli("add", bundle, "--tiny-vae", "nothing")
    assert (outcome.code, "there is no nothing" in outcome.err) == (2, True)


def test_a_bundle_that_is_replaced_leaves_its_tiny_vae(changed: Path) -> None:
    before = (changed / TINY_VAE / ADDON_NAME).read_bytes()
    manifest = Bundle.open(changed).manifest
    with BundleWriter(changed, force=True) as writer:
        for name in manifest.files:
            writer.write(name, (changed / name).read_bytes())
        writer.publish(manifest)
    assert (changed / TINY_VAE / ADDON_NAME).read_bytes() == before
    assert not with_tiny_vae(Bundle.open(changed)).damaged_files()


def test_a_bundle_with_one_is_replaced_whole(changed: Path) -> None:
    with BundleWriter(changed, force=True) as writer:  # which refuses what would be lost
        assert writer.folder.is_dir()
    (changed / TINY_VAE / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"tiny_vae/mine\.txt'?, which is no part of a bundle"):
        BundleWriter(changed, force=True).__enter__()


def test_without_one_that_is_told(bundle: Path) -> None:
    with pytest.raises(InvalidRequestError, match="has no tiny VAE; add one with `pocket-diffusion add"):
        Pipeline.load(bundle, vae="tiny")


def test_another_vae_is_not_for_drawing(bundle: Path) -> None:
    with pytest.raises(
        InvalidRequestError, match=r"'mse\.safetensors' is not known; give 'tiny' or none.*import SOURCE"
    ):
        Pipeline.load(bundle, vae="mse.safetensors")


def test_other_latents_than_the_bundles_are_refused(changed: Path) -> None:
    path = changed / TINY_VAE / ADDON_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"channels": 16}))
    with pytest.raises(InvalidRequestError, match=r"makes latents of 16 channels.*this model's have 4 channels"):
        Pipeline.load(changed, vae="tiny")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"kind": "controlnet"}, "not understood"),
        ({"format_version": 2}, "not understood"),
        ({"files": {"../lake.png": {"size": 1, "sha256": "0" * 64}}}, "names a file outside its folder"),
        ({"files": {}}, "but does not list it under files"),
        ({"onnxruntime": "newest"}, "not understood"),
        ({"channels": 0}, "not understood"),
        ({"vae_encoder": {"outputs": []}}, "not understood"),
        ({"vae_encoder": {"inputs": []}}, "vae_encoder has nothing where 'picture' is wanted"),
        ({"vae_decoder": {"inputs": [NOISE]}}, "vae_decoder has noise where 'latents' is wanted"),
        ({"vae_decoder": {"outputs": [NOISE]}}, "vae_decoder has noise where 'picture' is wanted"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(changed: Path, change: dict[str, object], fault: str) -> None:
    path = changed / TINY_VAE / ADDON_NAME
    content = json.loads(path.read_text())
    for name, value in change.items():
        content[name] = content[name] | value if name in ROLES else value
    path.write_text(json.dumps(content))
    with pytest.raises(BundleFormatError, match=f"{ADDON_NAME}: .*{fault}.*add it again with"):
        Pipeline.load(changed, vae="tiny")


def test_a_shallow_graph_is_refused_however_deep_it_goes(changed: Path) -> None:
    path = changed / TINY_VAE / ADDON_NAME
    content = json.loads(path.read_text())
    plain = json.dumps(content["vae_decoder"])
    nested = (plain[:-1] + ', "shallow": ') * 900 + plain + "}" * 900
    path.write_text(json.dumps(content | {"vae_decoder": "here"}).replace('"here"', nested))
    with pytest.raises(BundleFormatError, match="vae_decoder has a shallow graph, which is for a U-Net"):
        read_addon(changed)


@pytest.mark.parametrize(("asked", "found"), [("1.3", None), ("1.999", "1.999")])
def test_the_newer_onnxruntime_of_both_is_asked_for(changed: Path, asked: str, found: str | None) -> None:
    path = changed / TINY_VAE / ADDON_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"onnxruntime": asked}))
    bundle = Bundle.open(changed)
    assert with_tiny_vae(bundle).manifest.onnxruntime == (found or bundle.manifest.onnxruntime)


def test_a_file_that_is_shorter_is_refused(changed: Path) -> None:
    with (changed / TINY_VAE / "vae_decoder.weights").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(BundleDamagedError, match=r"tiny_vae/vae_decoder\.weights has 1000 bytes"):
        Pipeline.load(changed, vae="tiny")
