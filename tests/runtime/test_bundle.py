"""A bundle is understood and whole, or refused by the name of what is wrong."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocket_diffusion import PocketDiffusionError
from pocket_diffusion.bundle import Bundle, Manifest, is_inside, read_manifest, sha256_of
from pocket_diffusion.errors import BundleDamagedError, BundleFormatError, BundleNotFoundError
from pocket_diffusion.vocabulary import Vocabulary


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_embedded_bundle_is_whole() -> None:
    from pocket_diffusion.pipeline import DEFAULT_BUNDLE

    assert Bundle.open(DEFAULT_BUNDLE).damaged_files() == {}


def test_a_changed_byte_is_found_by_verify_and_names_the_file(
    bundle: Path, manifest: Manifest, run_cli: Callable[..., Any]
) -> None:
    name = manifest.unet.weights
    flip_last_byte(bundle / name)
    assert list(Bundle.open(bundle).damaged_files()) == [name]
    outcome = run_cli("verify", bundle)
    assert outcome.code == 1
    assert name in outcome.error
    assert "sha256" in outcome.error
    assert outcome.out == ""


def remove(path: Path) -> None:
    path.unlink()


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def link_out(path: Path) -> None:
    outside = path.parents[1] / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (remove, "is missing"),
        (replace_by_folder, "is missing"),
        (append, "bytes, not"),
        (link_out, "a link out of the bundle"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    bundle: Path, manifest: Manifest, run_cli: Callable[..., Any], damage: Callable[[Path], None], why: str
) -> None:
    name = manifest.vae_decoder.weights
    damage(bundle / name)
    with pytest.raises(BundleDamagedError, match=why) as caught:
        Bundle.open(bundle)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, PocketDiffusionError)
    assert name in str(caught.value)
    assert "export the bundle again" in str(caught.value)
    outcome = run_cli("generate", "a lake", "-m", bundle)
    assert (outcome.code, outcome.out) == (2, "")
    assert name in outcome.error
    assert run_cli("verify", bundle).code == 1


def test_a_link_inside_the_bundle_is_followed(bundle: Path, manifest: Manifest) -> None:
    weights = bundle / manifest.unet.weights
    weights.rename(bundle / "elsewhere")
    weights.symlink_to("elsewhere")
    assert Bundle.open(bundle).damaged_files() == {}


def test_files_that_cannot_be_looked_at_are_a_fault_not_a_crash(
    bundle: Path, edit_manifest: Callable[..., None], run_cli: Callable[..., Any]
) -> None:
    name = "x" * 300  # longer than a file system's names
    edit_manifest(lambda data: data["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    with pytest.raises(BundleDamagedError, match="cannot be read"):
        Bundle.open(bundle)
    assert run_cli("verify", bundle).code == 1


def set_version(data: dict[str, Any]) -> None:
    data["format_version"] = 4


def set_old_version(data: dict[str, Any]) -> None:
    data["format_version"] = 1


def set_future_version(data: dict[str, Any]) -> None:
    set_version(data)
    data["something_new"] = {}


def set_text_version(data: dict[str, Any]) -> None:
    data["format_version"] = "3"


def drop_version(data: dict[str, Any]) -> None:
    del data["format_version"]


def add_field(data: dict[str, Any]) -> None:
    data["unet"]["flavour"] = "vanilla"


def drop_field(data: dict[str, Any]) -> None:
    del data["latents"]["scaling_factor"]


def set_architecture(data: dict[str, Any]) -> None:
    data["architecture"] = "stable-diffusion-9"


def set_hash(data: dict[str, Any]) -> None:
    next(iter(data["files"].values()))["sha256"] = "abc"


def set_few_betas(data: dict[str, Any]) -> None:
    data["schedule"]["trained_betas"] = [0.1, 0.2]


def set_big_beta(data: dict[str, Any]) -> None:
    data["schedule"]["beta_end"] = 1.5


def set_no_outputs(data: dict[str, Any]) -> None:
    data["unet"]["outputs"] = []


def set_endless_version(data: dict[str, Any]) -> None:
    data["onnxruntime"] = "1." + "2" * 400


def set_version_with_newline(data: dict[str, Any]) -> None:
    data["onnxruntime"] = "1.24\n"


def set_hash_with_newline(data: dict[str, Any]) -> None:
    next(iter(data["files"].values()))["sha256"] += "\n"


def set_wide_default(data: dict[str, Any]) -> None:
    data["defaults"]["width"] = 10**15


def set_endless_default(data: dict[str, Any]) -> None:
    data["defaults"]["height"] = 10**400


def set_small_default(data: dict[str, Any]) -> None:
    data["defaults"]["height"] = 8


def set_endless_memory(data: dict[str, Any]) -> None:
    data["unet"]["memory"]["per_pixel"] = 10**400


def set_no_image_guidance(data: dict[str, Any]) -> None:
    data["defaults"]["image_guidance_scale"] = 0


def set_endless_guidance(data: dict[str, Any]) -> None:
    data["defaults"]["guidance_scale"] = 1e6


def nest_shallow_graphs(data: dict[str, Any]) -> None:
    for _ in range(400):
        data["unet"]["shallow"] = data["unet"]["shallow"] | {"shallow": data["unet"]["shallow"]}


def set_shallow_in_8_bits(data: dict[str, Any]) -> None:
    data["unet"]["shallow"]["int8"] = {name: data["unet"]["int8"][name] for name in ("graph", "certificate", "memory")}


def set_shallow_decoder(data: dict[str, Any]) -> None:
    data["vae_decoder"]["shallow"] = data["unet"]["shallow"]


def set_other_shallow_weights(data: dict[str, Any]) -> None:
    data["unet"]["shallow"]["weights"] = data["vae_decoder"]["weights"]


def drop_deep(data: dict[str, Any]) -> None:
    data["unet"]["int8"]["shallow"]["inputs"].pop()


def repeat_deep(data: dict[str, Any]) -> None:
    data["unet"]["shallow"]["inputs"].append(data["unet"]["shallow"]["inputs"][-1])


def drop_context(data: dict[str, Any]) -> None:
    del data["unet"]["shallow"]["inputs"][2]


def rename_shallow_output(data: dict[str, Any]) -> None:
    data["unet"]["shallow"]["outputs"][0]["name"] = "picture"


def set_dynamic_channels(data: dict[str, Any]) -> None:
    data["unet"]["shallow"]["inputs"][-1]["shape"] = ["contexts", "channels", "height", "width"]


def set_no_channels(data: dict[str, Any]) -> None:
    data["unet"]["shallow"]["inputs"][-1]["shape"][1] = 0


def set_endless_channels(data: dict[str, Any]) -> None:
    data["latents"]["channels"] = 10**7


def set_other_channels(data: dict[str, Any]) -> None:
    data["latents"]["channels"] = 5


def set_endless_parameters(data: dict[str, Any]) -> None:
    data["unet"]["parameters"] = 10**400


def set_endless_size(data: dict[str, Any]) -> None:
    data["files"]["unet.weights"]["size"] = 10**400


def set_endless_steps(data: dict[str, Any]) -> None:
    data["defaults"]["steps"] = 10**400


def set_large_vocabulary(data: dict[str, Any]) -> None:
    data["files"]["tokenizer/vocab.json"]["size"] = 2**25 + 1


def rename_graph(data: dict[str, Any]) -> None:
    data["unet"]["graph"] = "unet.ort"  # which ONNX Runtime would read as its own format


def rename_latents(data: dict[str, Any]) -> None:
    data["unet"]["inputs"][0]["name"] = "latent"


def rename_noise(data: dict[str, Any]) -> None:
    data["unet"]["outputs"][0]["name"] = "noises"


def drop_axis(data: dict[str, Any]) -> None:
    data["vae_decoder"]["outputs"][0]["shape"].pop()


def add_unknown_input(data: dict[str, Any]) -> None:
    data["text_encoder"]["inputs"].append({"name": "mood", "dtype": "float32", "shape": ["batch"]})


def unlist_weights(data: dict[str, Any]) -> None:
    del data["files"][data["unet"]["weights"]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (set_version, r"format version 4 is not known; .* reads versions 2 and 3; update"),
        (set_old_version, r"format version 1 is not known; .* or export again"),
        (set_future_version, r"format version 4 is not known"),
        (set_text_version, r"format version \"3\" is not known"),
        (drop_version, r"format_version"),
        (add_field, r"unknown field `flavour`.*unet"),
        (drop_field, r"`scaling_factor`"),
        (set_architecture, r"stable-diffusion-9.*architecture"),
        (set_hash, r"sha256"),
        (set_few_betas, r"2 trained_betas for"),
        (set_big_beta, r"beta_end"),
        (set_no_outputs, r"outputs"),
        (set_endless_version, r"onnxruntime"),
        (set_version_with_newline, r"onnxruntime"),
        (set_hash_with_newline, r"sha256"),
        (set_wide_default, r"<= 4096.*defaults\.width"),
        (set_endless_default, r"<= 4096.*defaults\.height"),
        (set_small_default, r">= 64.*defaults\.height"),
        (set_endless_memory, r"unet\.memory\.per_pixel"),
        (set_no_image_guidance, r">= 1.*defaults\.image_guidance_scale"),
        (set_endless_guidance, r"<= 100.*defaults\.guidance_scale"),
        (nest_shallow_graphs, r"'unet\.shallow\.onnx' with further graphs of its own; export the bundle again"),
        (set_shallow_in_8_bits, r"'unet\.shallow\.onnx' with further graphs of its own"),
        (set_shallow_decoder, r"'unet\.shallow\.onnx' of vae_decoder; unet alone has one"),
        (set_other_shallow_weights, r"'unet\.shallow\.onnx' over 'vae_decoder\.weights', not over 'unet\.weights'"),
        (drop_deep, r"'unet\.int8\.shallow\.onnx' with other inputs than those of unet and deep"),
        (repeat_deep, r"'unet\.shallow\.onnx' with other inputs than"),
        (drop_context, r"'unet\.shallow\.onnx' with other inputs than"),
        (rename_shallow_output, r"'unet\.shallow\.onnx' with other outputs than those of unet"),
        (set_dynamic_channels, r"'unet\.shallow\.onnx' with deep of no one number of channels"),
        (set_no_channels, r">= 1.*unet\.shallow\.inputs\[3\]\.shape"),
        (set_endless_channels, r"<= 64.*latents\.channels"),
        (set_other_channels, r"unet takes latents of 4 channels, not of 5"),
        (set_endless_parameters, r"unet\.parameters"),
        (set_endless_size, r"files"),
        (set_endless_steps, r"<= 100000.*defaults\.steps"),
        (set_large_vocabulary, r"of 33,554,433 bytes, which no tokenizer of CLIP's has"),
        (rename_graph, r"unet\.graph"),
        (rename_latents, r"has no input 'latents' of unet"),
        (rename_noise, r"has no output 'noise' of unet"),
        (drop_axis, r"gives vae_decoder an input or output 'picture' of 3 axes, which none has"),
        (add_unknown_input, r"gives text_encoder an input or output 'mood' of 1 axes, which none has"),
        (unlist_weights, r"does not list it under files"),
    ],
)
def test_a_manifest_that_is_not_understood_is_refused_by_the_field(
    bundle: Path,
    edit_manifest: Callable[..., None],
    run_cli: Callable[..., Any],
    change: Callable[[dict[str, Any]], None],
    why: str,
) -> None:
    edit_manifest(change)
    with pytest.raises(BundleFormatError, match=why) as caught:
        Bundle.open(bundle)
    assert isinstance(caught.value, ValueError)
    for command in ("inspect", "verify"):
        outcome = run_cli(command, bundle)
        assert (outcome.code, outcome.out) == (2, "")
        assert "bundle.json" in outcome.error


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 * 2**30)  # takes no room on the disk


def link_to_another(path: Path) -> None:
    path.symlink_to(__file__)


@pytest.mark.parametrize("name", ["bundle.json", "tiny_vae/addon.json"])
@pytest.mark.parametrize(
    ("replace", "why"),
    [
        (make_pipe, "Not a regular file"),
        (link_to_zeros, "Link out of the folder"),
        (make_large, "Over 4,194,304 bytes"),
        (link_to_another, "Link out of the folder"),
    ],
)
def test_a_manifest_that_is_no_file_of_the_bundle_is_refused(
    bundle: Path, run_cli: Callable[..., Any], replace: Callable[[Path], None], why: str, name: str
) -> None:
    path = bundle / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    replace(path)
    outcome = run_cli("verify", bundle)
    assert outcome.code == 2
    assert f"{path.name}: {why}" in outcome.error or f"cannot be read ({why})" in outcome.error


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b'{"a":' * 100_000, b"null", b"{}"])
def test_a_manifest_that_is_no_json_object_is_refused(bundle: Path, text: bytes) -> None:
    (bundle / "bundle.json").write_bytes(text)
    with pytest.raises(BundleFormatError, match=r"bundle\.json"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "", ".", "C:\\x", "a\\..\\b", "a\0b", "a\nb", "a\x1b[2Jb"]
)
def test_a_manifest_that_names_a_file_outside_is_refused(
    bundle: Path, edit_manifest: Callable[..., None], run_cli: Callable[..., Any], name: str
) -> None:
    edit_manifest(lambda data: data["files"].update({name: {"size": 1, "sha256": "0" * 64}}))
    with pytest.raises(BundleFormatError, match="names a file outside the bundle"):
        read_manifest(bundle)
    outcome = run_cli("verify", bundle)
    assert outcome.code == 2
    assert "\x1b" not in outcome.error


@given(st.text(alphabet=st.sampled_from("./\\ab:~ \0\n"), max_size=12) | st.text())
def test_no_path_that_is_let_in_leads_out(name: str) -> None:
    if is_inside(name):
        root = "/bundles/one"
        inside = os.path.normpath(f"{root}/{name}")
        assert inside.startswith(root + "/")


@pytest.mark.parametrize("place", ["nothing here", "a file", "a folder", "a\0b"])
def test_no_bundle_there(tmp_path: Path, place: str) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "a folder").mkdir()
    with pytest.raises(BundleNotFoundError, match="no bundle at") as caught:
        Bundle.open(tmp_path / place)
    assert isinstance(caught.value, FileNotFoundError)
    assert "pocket-diffusion export" in str(caught.value)
    assert ("a bundle is a folder" in str(caught.value)) == (place == "a file")


def test_a_bundle_without_a_vocabulary_has_none(bundle: Path, edit_manifest: Callable[..., None]) -> None:
    edit_manifest(lambda data: data.pop("vocabulary"))
    assert Bundle.open(bundle).vocabulary() is None


@pytest.mark.parametrize(
    "content", [b"{}", b'{"words": ["Lake"], "examples": []}', b'{"words": [], "examples": [""]}', b"\xff", b"[" * 9999]
)
def test_a_vocabulary_that_is_not_understood_is_refused(
    bundle: Path, edit_manifest: Callable[..., None], content: bytes
) -> None:
    (bundle / "vocabulary.json").unlink()
    (bundle / "vocabulary.json").write_bytes(content)
    edit_manifest(lambda data: None)
    with pytest.raises(BundleDamagedError, match=r"vocabulary\.json is not understood"):
        Bundle.open(bundle).vocabulary()


def test_a_vocabulary_that_is_not_listed_is_refused(bundle: Path, edit_manifest: Callable[..., None]) -> None:
    edit_manifest(lambda data: data["files"].pop("vocabulary.json"))
    with pytest.raises(BundleFormatError, match=r"uses 'vocabulary\.json' but does not list it"):
        Bundle.open(bundle)


def test_words_of_embeddings_are_known_and_syntax_is_no_word() -> None:
    known = Vocabulary(words=("a", "lake"), examples=())
    assert known.unknown_words("a (cat-toy:1.2) BREAK <lora:x:1> LAKE [fog|fog]", ["cat-toy"]) == ["fog"]


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_missing_file_of_a_bundle_is_a_missing_file_too(bundle: Path, manifest: Manifest) -> None:
    (bundle / manifest.unet.graph).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        Bundle.open(bundle)
    assert isinstance(caught.value, BundleDamagedError)


def test_a_component_has_each_file_once(bundle: Path) -> None:
    """Its shallow graphs lie over the same weights."""
    unet = read_manifest(bundle).unet
    assert unet.shallow is not None
    assert unet.files.count(unet.weights) == 1
    assert len(set(unet.files)) == len(unet.files)
