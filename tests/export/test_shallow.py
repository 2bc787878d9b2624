"""Shallow graphs against PyTorch's U-Net with the same features kept, and against the whole graphs."""

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from loras import random_lora, write_safetensors
from pocket_diffusion import InvalidRequestError, Pipeline
from pocket_diffusion.addon import with_tiny_vae
from pocket_diffusion.bundle import (
    COMPONENTS,
    DEEP,
    MANIFEST_NAME,
    SHALLOW_UNET,
    TOKEN_DOWNSAMPLING,
    Bundle,
    ComponentMemory,
    FileRecord,
    sha256_of,
)
from pocket_diffusion.drawing.noise import NoiseGenerator
from pocket_diffusion.errors import ParityError
from pocket_diffusion.importing.tiny_vae import add_tiny_vae
from pocket_diffusion.layers import LayerTable
from pocket_diffusion.model.memory import MODES, Demand, needed_memory
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_export import shallow as module
from pocket_export.checkpoint import read_checkpoint
from pocket_export.int8_graph import int8_graph
from pocket_export.parts import unet
from pocket_export.rewrite import channels_last, fuse_silu, split_geglu
from pocket_export.rewrite.initializers import with_layouts
from pocket_export.rewrite.int8_products import Form
from pocket_export.shallow import give_deep, shallow_graph, with_shallow_graphs
from pocket_export.trace import trace
from pocket_models import UNet
from tiny_vaes import tiny_arrays, write_diffusers_folder

PROMPT = "a lake"
DRAWN = {"steps": 10, "seed": 5, "sampler": "euler", "guidance_scale": 3.0}
IN_FULL = (0, 1, 2, 5, 8)
LAST_LAYER = {
    "conv_in",
    "time_embedding",
    "up_blocks.1.resnets.1",
    "up_blocks.1.attentions.1",
    "conv_norm_out",
    "conv_out",
}


@contextmanager
def keeping(model: UNet, kept: Tensor | None, found: list[Tensor]) -> Iterator[None]:
    """Have the last layer of the way up take features that are kept, if they are given; those that it has are found."""
    last = model.up_blocks[-1]
    layer, own = last.layer, model.conv_in.out_channels

    def kept_layer(i: int, x: Tensor, *more: Tensor) -> Tensor:
        if i == len(last.resnets) - 1:
            found.append(x[:, :-own])
            x = x if kept is None else torch.cat([kept, x[:, -own:]], dim=1)
        return layer(i, x, *more)

    last.layer = kept_layer
    try:
        yield
    finally:
        del last.layer


def test_a_drawing_is_that_of_pytorch_with_the_same_features_kept(tiny_bundle_fp32: Path, tiny_folder: Path) -> None:
    pipeline = Pipeline.load(tiny_bundle_fp32, provider="cpu")
    drawn = pipeline.generate(PROMPT, cache="deep:3", **DRAWN)
    drawing = drawn.drawings[0]
    levels = drawing.levels
    contexts = torch.from_numpy(np.concatenate([pipeline.encode_prompt(text) for text in ("", PROMPT)]))
    model = unet(read_checkpoint(str(tiny_folder), None)).module

    x = torch.from_numpy(np.float32(levels.start) * NoiseGenerator(5).normal(drawing.latent_shape))
    kept: Tensor | None = None
    for i, (sigma, following) in enumerate(zip(levels.sigmas, levels.sigmas[1:], strict=False)):
        found: list[Tensor] = []
        scaled = (x / (1 + sigma**2) ** 0.5).expand(2, -1, -1, -1)
        with torch.inference_mode(), keeping(model, None if i in IN_FULL else kept, found):
            without, prompted = model(scaled, torch.full([2], levels.timesteps[i]), contexts).split(1)
        kept = found[0] if i in IN_FULL else kept
        x = x + (following - sigma) * (without + 3 * (prompted - without))  # Euler's step
    error = np.abs(drawn.latents - x.numpy()).max() / np.abs(x.numpy()).max()
    exact = np.abs(drawn.latents - pipeline.generate(PROMPT, **DRAWN).latents).max() / np.abs(x.numpy()).max()
    assert error < 1e-4
    assert exact > 100 * error  # so that it is the cache which is compared


@pytest.mark.parametrize("arithmetic", ["exact", "int8"])
def test_with_one_nothing_changes_and_each_mode_draws_alike(tiny_bundle_int8: Path, arithmetic: str) -> None:
    latents = {}
    for memory in MODES:
        with Pipeline.load(tiny_bundle_int8, provider="cpu", arithmetic=arithmetic, memory=memory) as pipeline:
            latents[memory] = pipeline.generate(PROMPT, cache="deep", guidance_interval=(0.0, 0.5), **DRAWN).latents
            if memory == "fast":
                every = pipeline.generate(PROMPT, cache="deep:1", **DRAWN)
                np.testing.assert_array_equal(every.latents, pipeline.generate(PROMPT, **DRAWN).latents)
    for memory in ("balanced", "low"):
        error = np.linalg.norm(latents[memory] - latents["fast"]) / np.linalg.norm(latents["fast"])
        assert error < (1e-4 if arithmetic == "exact" else 5e-2)  # roundings of bytes fall otherwise


def owners(weights: Iterable[str]) -> set[str]:
    """Return the layers of the U-Net that weights belong to."""
    return {".".join(name.split(".")[:4]) if "blocks" in name else name.split(".")[0] for name in weights}


def test_a_shallow_graph_has_the_last_layer_alone_over_the_same_weights(tiny_bundle_int8: Path) -> None:
    manifest = Bundle.open(tiny_bundle_int8).manifest
    assert manifest.unet.int8 is not None
    for component in (manifest.unet.shallow, manifest.unet.int8.shallow):
        assert component is not None and component.layers is not None
        table = msgspec.json.decode((tiny_bundle_int8 / component.layers).read_bytes(), type=LayerTable)
        assert owners(table.layers) == LAST_LAYER
        assert component.weights == manifest.unet.weights


def test_an_8_bit_graph_for_large_pictures_is_cut_as_well(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(channels_last.__globals__, "LARGE_BYTES", 2e3)  # so that a small picture passes in bands
    part = unet(read_checkpoint(str(tiny_folder), None))
    model = split_geglu(fuse_silu(trace(part)))
    convolutions = {name: weight for name, weight in part.module.named_parameters() if weight.ndim == 4}
    forms: dict[str, Form] = {name: "tensor" for name, weight in convolutions.items() if min(weight.shape[:2]) >= 16}
    model.meta["int8_errors"] = dict.fromkeys(forms, 0.0)
    graph = int8_graph(model, forms)
    give_deep(graph)
    rest = shallow_graph(graph)
    assert 0 < count_scans(rest) < count_scans(graph) / 2
    assert owners(layout.name for _, layout in with_layouts(rest)) == LAST_LAYER


def count_scans(model: ir.Model) -> int:
    return sum(node.op_type == "Scan" for node in model.graph)


def test_a_lora_changes_both_graphs(tiny_bundle_fp16: Path, tmp_path: Path) -> None:
    pipeline = Pipeline.load(tiny_bundle_fp16, provider="cpu")
    lora = write_safetensors(tmp_path / "all.safetensors", random_lora(pipeline.bundle, components=["unet"]))
    inputs = {
        "latents": np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32),
        "timestep": np.array([500], np.float32),
        "context": pipeline.encode_prompt(PROMPT),
    }
    found = []
    for loras in ([], [lora]):
        pipeline.set_loras(loras)
        whole = pipeline.components.run("unet", DEEP, **inputs)
        rest = pipeline.components.run(SHALLOW_UNET, **inputs, deep=whole[DEEP])["noise"]
        np.testing.assert_allclose(rest, whole["noise"], atol=1e-6)
        found.append(rest)
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_deep_features_are_returned_on_request_alone(tiny_bundle_fp32: Path) -> None:
    pipeline = Pipeline.load(tiny_bundle_fp32, provider="cpu")
    inputs = {
        "latents": np.zeros((1, 4, 8, 8), np.float32),
        "timestep": np.array([500], np.float32),
        "context": pipeline.encode_prompt(PROMPT),
    }
    assert list(pipeline.components.run("unet", **inputs)) == ["noise"]
    assert list(pipeline.components.run("unet", DEEP, **inputs)) == ["noise", DEEP]


def test_fewer_tokens_are_looked_at_in_both_graphs(tiny_bundle_fp32: Path) -> None:
    pipeline = Pipeline.load(tiny_bundle_fp32, provider="cpu")
    shallow = pipeline.bundle.manifest.unet.shallow
    assert shallow is not None and shallow.takes(TOKEN_DOWNSAMPLING)
    inputs = {
        "latents": np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32),
        "timestep": np.array([500], np.float32),
        "context": pipeline.encode_prompt(PROMPT),
        TOKEN_DOWNSAMPLING: np.array([2]),
    }
    whole = pipeline.components.run("unet", DEEP, **inputs)
    inputs[DEEP] = whole[DEEP]
    np.testing.assert_allclose(pipeline.components.run(SHALLOW_UNET, **inputs)["noise"], whole["noise"], atol=1e-6)
    del inputs[TOKEN_DOWNSAMPLING]
    assert np.abs(pipeline.components.run(SHALLOW_UNET, **inputs)["noise"] - whole["noise"]).max() > 1e-5


def test_the_memory_of_features_and_of_the_second_graph_counts(tiny_bundle_fp16: Path) -> None:
    manifest = Bundle.open(tiny_bundle_fp16).manifest
    none = ComponentMemory(base=0, per_pixel=0, expanded_weights=0, least=0)
    others = {name: manifest.component(name) for name in COMPONENTS if name != "unet"}
    manifest = msgspec.structs.replace(
        manifest, **{name: msgspec.structs.replace(other, memory=none) for name, other in others.items()}
    )
    shallow, whole = manifest.unet.shallow, manifest.unet.memory
    assert shallow is not None and shallow.memory is not None and whole is not None
    assert shallow.memory.expanded_weights == 4 * shallow.parameters < whole.expanded_weights
    features = 4 * 32 * 64 * 64 * 2 * 3  # float32, the first level's channels, latents, predictions, pictures

    def more(memory: str) -> int:
        demand = Demand(width=512, height=512, guided=True, from_picture=False, count=3)
        without = needed_memory(manifest, MODES[memory], demand)
        cached = needed_memory(manifest, MODES[memory], replace(demand, keeps_deep=True))
        assert without is not None and cached is not None
        return cached - without

    assert more("low") == features
    running = shallow.memory.base + shallow.memory.per_pixel * 2 * 512 * 512
    assert more("balanced") == features + running  # both have arenas
    assert more("fast") == features + shallow.memory.expanded_weights + running // 4  # what a shared one wastes


@pytest.fixture
def without_shallow(tiny_bundle_int8: Path, tmp_path: Path) -> Path:
    """The tiny bundle as it was exported before there were shallow graphs."""
    folder = shutil.copytree(tiny_bundle_int8, tmp_path / "before")
    manifest = Bundle.open(folder).manifest
    unet, files = manifest.unet, dict(manifest.files)
    assert unet.int8 is not None
    for component in (unet, unet.int8):
        assert component.shallow is not None and component.shallow.layers is not None
        for name in (component.shallow.graph, component.shallow.layers):
            (folder / name).unlink()
            del files[name]
        model = onnx.load(folder / component.graph, load_external_data=False)
        assert model.graph.output.pop().name == DEEP
        onnx.save(model, folder / component.graph)
    certificate = folder / unet.int8.certificate
    sha256 = sha256_of(folder / unet.int8.graph)
    certificate.write_text(certificate.read_text().replace(files[unet.int8.graph].sha256, sha256))
    for name in (unet.graph, unet.int8.graph, unet.int8.certificate):
        files[name] = FileRecord(size=(folder / name).stat().st_size, sha256=sha256_of(folder / name))
    unet = msgspec.structs.replace(unet, shallow=None, int8=msgspec.structs.replace(unet.int8, shallow=None))
    changed = msgspec.structs.replace(manifest, unet=unet, files=files)
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(changed))
    return folder


def test_an_older_bundle_gets_shallow_graphs_without_its_checkpoint(
    without_shallow: Path, tiny_bundle_int8: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequestError, match="has no shallow graph of its U-Net"):
        Pipeline.load(without_shallow, provider="cpu").generate(PROMPT, cache="deep", **DRAWN)
    (without_shallow / "others" / "own").mkdir(parents=True)
    (without_shallow / "others" / "own" / "words.txt").write_text("")
    path = without_shallow / MANIFEST_NAME
    manifest = msgspec.json.decode(path.read_bytes())
    manifest["files"]["others/own/words.txt"] = {"size": 0, "sha256": hashlib.sha256().hexdigest()}
    path.write_bytes(msgspec.json.encode(manifest))
    add_tiny_vae(without_shallow, write_diffusers_folder(tmp_path / "taesd", tiny_arrays()))
    bundle = with_shallow_graphs(Bundle.open(without_shallow), tmp_path / "after")
    assert with_tiny_vae(bundle).damaged_files() == {}
    assert "others/own/words.txt" in bundle.manifest.files
    for arithmetic in ("exact", "int8"):
        found, expected = (
            Pipeline.load(folder, provider="cpu", arithmetic=arithmetic).generate(PROMPT, cache="deep", **DRAWN).latents
            for folder in (bundle.root, tiny_bundle_int8)
        )
        np.testing.assert_array_equal(found, expected)
    with pytest.raises(InvalidRequestError, match="has a shallow graph already"):
        with_shallow_graphs(bundle, tmp_path / "again")


@pytest.mark.parametrize(
    ("bundle", "fault"), [(DEFAULT_BUNDLE, "has a shallow graph already"), ("nothing", "no bundle at nothing")]
)
def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, bundle: Path | str, fault: str) -> None:
    outcome = CliRunner().invoke(module.main, [str(bundle), str(tmp_path / "after")])
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith("error: ")
    assert fault in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_a_shallow_graph_that_computes_something_else_is_refused(
    without_shallow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: ir.Model) -> ir.Model:
        graph = shallow_graph(model)
        deep = graph.graph.inputs[-1]
        twice = ir.node("Add", [deep, deep])
        ir.convenience.replace_all_uses_with(deep, twice.outputs[0])
        for i in range(2):
            twice.replace_input_with(i, deep)
        graph.graph.insert_before(graph.graph[0], twice)
        return graph

    monkeypatch.setattr(module, "shallow_graph", wrong)
    with pytest.raises(ParityError, match=r"the shallow graph of unet.onnx is off by .* no bundle was written"):
        with_shallow_graphs(Bundle.open(without_shallow), tmp_path / "after")
    assert not (tmp_path / "after").exists()
