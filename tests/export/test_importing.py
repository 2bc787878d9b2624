"""Checkpoints become bundles without PyTorch, and these are what the exporter makes."""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from exporting import export_unmeasured
from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import Bundle, WeightStorage, sha256_of
from pocket_diffusion.calibration import Calibration
from pocket_diffusion.checkpoint.stored_tensor import StoredTensor
from pocket_diffusion.errors import (
    BundleFormatError,
    CheckpointError,
    OutputError,
    OutputExistsError,
    TensorMismatchError,
    UnsupportedModelError,
)
from pocket_diffusion.importing import checking, import_checkpoint, placing, templates
from pocket_diffusion.importing.templates import NETWORK_NAME, SPEC_NAME, specs_of
from pocket_export import templates as writing
from pocket_export.checkpoint import read_checkpoint
from pocket_export.sensitivity import RoundingErrors
from pocket_export.templates import pack, template_files

STORAGES = ("fp32", "fp16", "int8")
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="session")
def exported(tiny_bundle_fp32: Path, tiny_bundle_fp16: Path, tiny_bundle_int8: Path) -> dict[str, Path]:
    """The tiny pipeline's bundles, by storage."""
    return dict(zip(STORAGES, (tiny_bundle_fp32, tiny_bundle_fp16, tiny_bundle_int8), strict=True))


@pytest.fixture(scope="session")
def template_parts(exported: dict[str, Path], tiny_folder: Path) -> dict[str, bytes]:
    return templates_of(tiny_folder, exported)


def templates_of(source: Path, exported: dict[str, Path]) -> dict[str, bytes]:
    """The templates of all networks of a source, made of its bundles by storage."""
    files: dict[str, bytes] = {}
    for kind, spec in specs_of(read_checkpoint(str(source)).source).items():
        files[f"{kind}/tiny/{SPEC_NAME}"] = msgspec.json.encode(spec)
        for storage, root in exported.items():
            manifest = Bundle.open(root).manifest
            components = {role: manifest.component(role) for role in writing.COMPONENTS_OF[kind]}
            own = template_files(components, root, manifest.files)
            files |= {f"{kind}/tiny/{storage}/{name}": content for name, content in own.items()}
    return files


@pytest.fixture
def template(
    template_parts: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, bytes]], None]:
    """The tiny pipeline's template is all that comes along; may be changed."""
    monkeypatch.setattr(templates, "ARCHIVE", tmp_path / "networks.tar.xz")

    def write(changed: dict[str, bytes]) -> None:
        templates.ARCHIVE.write_bytes(pack(template_parts | changed))

    write({})
    return write


@pytest.mark.usefixtures("template")
@pytest.mark.parametrize("storage", STORAGES)
def test_an_import_is_what_an_export_is(
    storage: WeightStorage, exported: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    """Bit for bit, but for provenance and what is measured on 8-bit graphs."""
    bundle = import_checkpoint(tiny_folder, tmp_path / "bundle", weights=storage)
    theirs = Bundle.open(exported[storage])
    assert not bundle.damaged_files()
    measured = {graph.certificate for graph in theirs.manifest.int8_graphs.values()} | {"text_encoder.int8.json"}
    for name in theirs.manifest.files.keys() - measured:
        assert bundle.path(name).read_bytes() == theirs.path(name).read_bytes(), name
    assert bundle.manifest.files.keys() == theirs.manifest.files.keys() - {"text_encoder.int8.json"}
    for field in set(bundle.manifest.__struct_fields__) - {"provenance", "files"}:
        assert getattr(bundle.manifest, field) == getattr(theirs.manifest, field), field
    assert bundle.manifest.provenance.source_sha256 == theirs.manifest.provenance.source_sha256
    assert any("parity" in note for note in bundle.manifest.provenance.notes)


@pytest.mark.usefixtures("template")
def test_it_draws_what_the_exported_bundle_draws(exported: dict[str, Path], tiny_folder: Path, tmp_path: Path) -> None:
    drawn = [
        Pipeline.load(root, memory="balanced").generate("a lake", steps=2, seed=1, width=64, height=64).latents
        for root in (exported["fp16"], import_checkpoint(tiny_folder, tmp_path / "bundle").root)
    ]
    assert np.array_equal(*drawn)


@pytest.mark.usefixtures("template")
def test_8_bit_graphs_are_measured_on_the_checkpoint_itself(
    exported: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    bundle = import_checkpoint(tiny_folder, tmp_path / "bundle", weights="int8")
    for role, int8 in bundle.manifest.int8_graphs.items():
        certificate, theirs = bundle.certificate(role), Bundle.open(exported["int8"]).certificate(role)
        assert certificate.graph_sha256 == sha256_of(bundle.path(int8.graph))
        assert 0 < certificate.relative_error < 10 * theirs.relative_error
        assert [layer.computed for layer in certificate.layers] == [layer.computed for layer in theirs.layers]
        assert all(layer.error is None for layer in certificate.layers)
        # Of normally distributed weights, whose largest is four times their deviation.
        assert all(
            1e-3 < (layer.storage_error or 0) < 0.05 for layer in certificate.layers if layer.computed != "float32"
        )


@pytest.mark.usefixtures("template")
def test_where_bytes_are_multiplied_wrong_the_templates_figures_stay(
    exported: dict[str, Path], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "products_are_right", lambda: False)
    bundle = import_checkpoint(tiny_folder, tmp_path / "bundle", weights="int8")
    for role in bundle.manifest.int8_graphs:
        ours, theirs = bundle.certificate(role), Bundle.open(exported["int8"]).certificate(role)
        assert ours.relative_error == theirs.relative_error
        assert "of random weights: the CPU that imported it multiplies bytes wrong" in ours.what


@pytest.mark.usefixtures("template")
def test_a_picture_of_no_numbers_is_no_certificate(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Calibration, "errors", lambda *_: [0.01, np.nan])
    with pytest.raises(CheckpointError, match="gives NaN or infinity"):
        import_checkpoint(tiny_folder, tmp_path / "bundle", weights="int8")


@pytest.mark.usefixtures("template")
def test_another_checkpoint_of_the_architecture_is_what_its_own_export_is(folder: Path, tmp_path: Path) -> None:
    """The template is not its."""

    def other(tensors: dict[str, torch.Tensor]) -> None:
        for i, tensor in enumerate(tensors.values()):
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i)) / 20)

    change(folder, other)
    theirs = export_unmeasured(folder, tmp_path / "exported")
    ours = import_checkpoint(folder, tmp_path / "imported")
    for name in theirs.manifest.files:
        assert ours.path(name).read_bytes() == theirs.path(name).read_bytes(), name


# A checkpoint's own words


@pytest.mark.usefixtures("template")
def test_what_a_checkpoint_says_of_itself_is_kept(folder: Path, tmp_path: Path) -> None:
    """Schedule, scale of the latents and default settings need no other graphs."""
    config = json.loads((folder / "vae/config.json").read_text()) | {"scaling_factor": 0.5}
    (folder / "vae/config.json").write_text(json.dumps(config))
    bundle = import_checkpoint(folder, tmp_path / "bundle", weights="fp32", prediction="v_prediction")
    assert bundle.manifest.latents.scaling_factor == 0.5
    assert bundle.manifest.schedule.prediction_type == "v_prediction"


@pytest.mark.usefixtures("template")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_turned_into_the_bundles(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / UNET).items()}
    (folder / UNET).unlink()
    save_file(tensors, folder / UNET)
    first, second = (tmp_path / name for name in ("first", "second"))
    import_checkpoint(folder, first, weights="fp32")
    (folder / UNET).unlink()
    save_file({name: tensor.float() for name, tensor in tensors.items()}, folder / UNET)
    import_checkpoint(folder, second, weights="fp32")
    assert (first / "unet.weights").read_bytes() == (second / "unet.weights").read_bytes()


# Refusals


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    tensors = load_file(folder / UNET)
    edit(tensors)
    (folder / UNET).unlink()
    save_file(tensors, folder / UNET)
    return folder


def with_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors["conv_in.weight"][0, 0, 0, 0] = torch.nan


def with_large(tensors: dict[str, torch.Tensor]) -> None:
    name = "down_blocks.0.resnets.0.conv1.weight"
    tensors[name][0, 0, 0, 0] = 70000


def misshapen(tensors: dict[str, torch.Tensor]) -> None:
    tensors["conv_in.bias"] = torch.zeros(3)


FAULTS = {
    "NaN": (with_nan, "conv_in.weight holds NaN or infinity; fetch it again"),
    "more than float16 holds": (with_large, "weights reach 70000, which float16 cannot hold.*--weights fp32"),
    "missing": (lambda tensors: tensors.pop("conv_in.bias"), "conv_in.bias is missing"),
    "left over": (lambda tensors: tensors.update(extra=torch.zeros(1)), "'extra' belongs nowhere"),
    "misshapen": (misshapen, r"conv_in.bias is \[3\], not \[32\]"),
    "whole numbers": (
        lambda tensors: tensors.update({"conv_in.bias": tensors["conv_in.bias"].int()}),
        "conv_in.bias holds int32, not floating-point numbers",
    ),
}


@pytest.mark.usefixtures("template")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_tensor_that_does_not_fit_is_named(folder: Path, tmp_path: Path, fault: str) -> None:
    edit, message = FAULTS[fault]
    with pytest.raises(TensorMismatchError, match=message):
        import_checkpoint(change(folder, edit), tmp_path / "bundle")
    assert not list(tmp_path.glob("*bundle*"))


@pytest.mark.usefixtures("template")
def test_another_architecture_is_refused_by_what_differs(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "unet/config.json").read_text()) | {"norm_eps": 1e-3}
    (folder / "unet/config.json").write_text(json.dumps(config))
    with pytest.raises(
        UnsupportedModelError,
        match=r"unet without a template: its norm_eps is 0.001, not 1e-05; export it with PyTorch",
    ):
        import_checkpoint(folder, tmp_path / "bundle")


def test_a_template_of_another_version_is_refused(
    template: Callable[[dict[str, bytes]], None],
    template_parts: dict[str, bytes],
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    name = f"unet/tiny/fp16/{NETWORK_NAME}"
    for version, message in ((2, "format version 2, not 3"), ("?", "not of this version")):
        manifest = json.loads(template_parts[name]) | {"format_version": version}
        template({name: json.dumps(manifest).encode()})
        with pytest.raises(BundleFormatError, match=message):
            import_checkpoint(tiny_folder, tmp_path / "bundle")


@pytest.mark.usefixtures("template")
def test_a_place_that_is_taken_is_refused_before_the_work(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").write_text("")
    with pytest.raises(OutputExistsError, match="is no bundle"):
        import_checkpoint(tiny_folder, tmp_path / "bundle", force=True)
    with pytest.raises(CheckpointError, match="there is no"):
        import_checkpoint(tmp_path / "nothing", tmp_path / "other")


# Accidents


@pytest.mark.usefixtures("template")
def test_a_source_that_shrinks_while_it_is_read_is_no_crash(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(folder, lambda _: None)  # a file of its own, not a link
    read = StoredTensor.read

    def shrink(tensor: StoredTensor) -> NDArray[np.generic]:
        if tensor.path == folder / UNET:
            os.truncate(tensor.path, tensor.path.stat().st_size // 2)
        return read(tensor)

    monkeypatch.setattr(StoredTensor, "read", shrink)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        import_checkpoint(folder, tmp_path / "bundle")
    assert not list(tmp_path.glob("*bundle*"))


@pytest.mark.usefixtures("template")
def test_a_full_disk_leaves_nothing(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(placing.os, "pwrite", full)
    with pytest.raises(OutputError, match="No space left on device; nothing was left there"):
        import_checkpoint(tiny_folder, tmp_path / "bundle")
    assert not list(tmp_path.glob("*bundle*"))


@pytest.mark.usefixtures("template")
def test_an_interrupt_ends_the_work_and_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    before = threading.active_count()

    def interrupt(what: str, _done: float) -> None:
        if what.startswith("placing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_checkpoint(tiny_folder, tmp_path / "bundle", on_progress=interrupt)
    assert not list(tmp_path.glob("*bundle*"))
    assert threading.active_count() == before


@pytest.mark.usefixtures("template")
def test_what_a_killed_import_left_is_removed_by_the_next(tiny_folder: Path, tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:  # pragma: no cover - it is killed
        import_checkpoint(tiny_folder, tmp_path / "bundle", on_progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list(tmp_path.glob(".bundle.*"))) == 1
    import_checkpoint(tiny_folder, tmp_path / "bundle")
    assert [path.name for path in tmp_path.glob("*bundle*")] == ["bundle"]


@pytest.mark.usefixtures("template")
def test_progress_rises_to_the_end(tiny_folder: Path, tmp_path: Path) -> None:
    shares: list[float] = []
    import_checkpoint(tiny_folder, tmp_path / "bundle", on_progress=lambda _, done: shares.append(done))
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert len(set(shares)) > 20


# Templates


@pytest.mark.usefixtures("template")
def test_a_template_is_written_of_a_spec_alone(
    template_parts: dict[str, bytes], tiny_folder: Path, tmp_path: Path
) -> None:
    """It has the layers of a checkpoint's, and a bundle can be imported into it."""
    spec = read_checkpoint(str(tiny_folder)).source.unet.spec
    made = writing.write_template("unet/tiny", spec, lambda *_: None)
    theirs = {name: file for name, file in template_parts.items() if name.startswith("unet/")}
    assert made.keys() == theirs.keys()
    for name in (name for name in made if name.endswith(".layers.json")):  # forms of convolutions go by another size
        assert json.loads(made[name])["layers"].keys() == json.loads(theirs[name])["layers"].keys()
    certificate = json.loads(made["unet/tiny/int8/unet.certificate.json"])
    assert {layer["computed"] for layer in certificate["layers"]} == {"token", "tensor", "float32"}
    assert 0 < certificate["relative_error"] < 0.1
    templates.ARCHIVE.write_bytes(pack(template_parts | made))
    import_checkpoint(tiny_folder, tmp_path / "bundle", weights="fp32")


def test_of_what_nobody_has_measured_products_have_one_scale_a_token() -> None:
    """Convolutions cannot."""
    forms = [writing.form_for_all(RoundingErrors(0.1, token, 0.001)) for token in (0.1, None)]
    assert forms == ["token", "tensor"]


def test_archives_of_the_same_files_are_the_same() -> None:
    files = {"b": b"1" * 100, "a/c": b""}
    assert pack(files) == pack(dict(reversed(files.items())))
