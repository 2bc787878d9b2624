"""What the targets and storages of weights make of one checkpoint."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import StableDiffusionPipeline

from exporting import export_unmeasured
from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import COMPONENTS, Bundle
from pocket_diffusion.errors import ParityError
from pocket_diffusion.machine.cpu import products_are_right
from pocket_diffusion.machine.session import GraphSession
from pocket_export import targets
from pocket_export.export import export
from pocket_export.rewrite import winograd
from pocket_export.rewrite.initializers import MIN_ELEMENTS
from pocket_export.rewrite.store_int8 import LARGEST_ERROR
from pocket_export.targets import RECIPES

BUNDLES = {
    "tiny_bundle_fp32": ("cpu", "fp32"),
    "tiny_bundle_fp16": ("cpu", "fp16"),
    "tiny_bundle_int8": ("cpu", "int8"),
    "tiny_bundle_cuda": ("cuda", "fp16"),
}


on_the_cpu = pytest.mark.filterwarnings("ignore::pocket_diffusion.pipeline.OtherTargetWarning")


@pytest.fixture(params=BUNDLES)
def made(request: pytest.FixtureRequest) -> tuple[Bundle, targets.Recipe]:
    """Each kind of bundle, and the recipe that it was made with."""
    bundle = Bundle.open(request.getfixturevalue(request.param))
    assert (bundle.manifest.target, bundle.manifest.weights) == BUNDLES[request.param]
    return bundle, RECIPES[BUNDLES[request.param]]


def graph(root: Path, name: str) -> onnx.ModelProto:
    return onnx.load(root / f"{name}.onnx", load_external_data=False)


def weight_bytes(root: Path) -> int:
    return sum((root / f"{name}.weights").stat().st_size for name in COMPONENTS)


def test_the_manifest_carries_figures_within_their_tolerance(made: tuple[Bundle, targets.Recipe]) -> None:
    bundle, recipe = made
    for name in COMPONENTS:
        figures = bundle.manifest.component(name).parity
        assert len({tuple(figure.inputs.items()) for figure in figures}) == 2
        for figure in figures:
            assert 0 < figure.relative_error <= figure.tolerance == recipe.tolerance


def test_graphs_are_valid_and_declared_as_they_are(made: tuple[Bundle, targets.Recipe]) -> None:
    bundle, _ = made
    assert not bundle.damaged_files()
    for name in COMPONENTS:
        onnx.checker.check_model(bundle.root / f"{name}.onnx")
        component, proto = bundle.manifest.component(name), graph(bundle.root, name).graph
        optional = {tensor.name for tensor in proto.initializer}
        required = [value for value in proto.input if value.name not in optional]
        outputs = (*component.outputs, *component.outputs_on_request)
        for specs, values in ((component.inputs, required), (outputs, proto.output)):
            assert [spec.name for spec in specs] == [value.name for value in values]
            for spec, value in zip(specs, values, strict=True):
                kind = value.type.tensor_type
                assert onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) == spec.dtype
                fixed = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
                assert fixed == [size if isinstance(size, int) else None for size in spec.shape]


@on_the_cpu
def test_the_text_encoder_gives_every_layer(
    made: tuple[Bundle, targets.Recipe], tiny_pipeline: StableDiffusionPipeline
) -> None:
    """As transformers' hidden states after the final layer norm, within the recipe's tolerance."""
    bundle, recipe = made
    component = bundle.manifest.text_encoder
    ids = torch.randint(49408, (3, 77), generator=torch.Generator().manual_seed(4))
    outputs = GraphSession(bundle.root, "text_encoder", component, "cpu").run(ids=ids.numpy())
    encoder = tiny_pipeline.text_encoder
    final_norm = getattr(encoder, "text_model", encoder).final_layer_norm  # under another name before transformers 5
    with torch.no_grad():
        hidden = encoder(ids, output_hidden_states=True).hidden_states[1:]
        theirs = np.stack([final_norm(layer).numpy() for layer in hidden])
    assert [spec.name for spec in component.outputs] == ["context", "layers"]
    assert component.outputs[1].shape == (2, "batch", 77, 64)
    assert outputs["layers"].shape == theirs.shape
    np.testing.assert_array_equal(outputs["layers"][-1], outputs["context"])
    assert np.linalg.norm(outputs["layers"] - theirs) / np.linalg.norm(theirs) < recipe.tolerance


@on_the_cpu
def test_sizes_are_dynamic(made: tuple[Bundle, targets.Recipe]) -> None:
    """At sizes that were neither traced nor measured, the smallest among them."""
    pipeline = Pipeline.load(made[0].root, provider="cpu")
    for batch, height, width, tokens in ((1, 1, 1, 77), (3, 9, 26, 231)):
        latents = np.zeros((batch, 4, height, width), np.float32)
        context = np.zeros((batch, tokens, 64), np.float32)
        noise = pipeline.predict_noise(latents, np.full(batch, 500), context)
        assert noise.shape == latents.shape
        assert pipeline.decode_latents(latents).shape == (batch, 3, 8 * height, 8 * width)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_no_trace_of_the_exporting_machine_is_left(request: pytest.FixtureRequest, bundle: str) -> None:
    root: Path = request.getfixturevalue(bundle)
    for name in COMPONENTS:
        assert str(Path(__file__).parents[2]).encode() not in (root / f"{name}.onnx").read_bytes()


def test_smaller_storage_is_smaller(tiny_bundle_fp32: Path, tiny_bundle_fp16: Path, tiny_bundle_int8: Path) -> None:
    full, half, quarter = map(weight_bytes, (tiny_bundle_fp32, tiny_bundle_fp16, tiny_bundle_int8))
    assert half < 0.55 * full
    # The token embedding, most of this text encoder, stays in float16.
    assert quarter < half
    assert (tiny_bundle_int8 / "unet.weights").stat().st_size < 0.35 * (
        tiny_bundle_fp32 / "unet.weights"
    ).stat().st_size


def test_a_cpu_graph_computes_in_float32(tiny_bundle_fp16: Path) -> None:
    for name in COMPONENTS:
        proto = graph(tiny_bundle_fp16, name).graph
        casts = [node for node in proto.node if node.op_type == "Cast"]
        halves = {t.name for t in proto.initializer if t.data_type == onnx.TensorProto.FLOAT16}
        assert halves
        assert halves <= {node.input[0] for node in casts if node.attribute[0].i == onnx.TensorProto.FLOAT}
        first = [node.op_type for node in proto.node[: len(halves)]]
        assert first == ["Cast"] * len(halves)


def test_a_cuda_graph_computes_in_float16(tiny_bundle_cuda: Path) -> None:
    for name in COMPONENTS:
        # The rewrites do not say what their nodes make.
        proto = onnx.shape_inference.infer_shapes(graph(tiny_bundle_cuda, name)).graph
        large = [t for t in proto.initializer if np.prod(t.dims) >= MIN_ELEMENTS]
        assert {t.data_type for t in large} <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
        kinds = {v.name: v.type.tensor_type.elem_type for v in (*proto.value_info, *proto.output)}
        # What the heavy operators make; the angles of the timestep are float32, its cosines need it.
        heavy = [node for node in proto.node if node.op_type in ("NhwcConv", "MatMul", "Gemm", "MultiHeadAttention")]
        assert heavy
        assert {kinds[node.output[0]] for node in heavy} == {onnx.TensorProto.FLOAT16}
        float32 = {node.op_type for node in proto.node if kinds[node.output[0]] == onnx.TensorProto.FLOAT}
        assert float32 == {"Cast"} | ({"Cos", "Mul", "Sin", "Unsqueeze"} if name == "unet" else set())


def test_a_cuda_bundle_has_its_twins_over_the_same_weights(tiny_bundle_cuda: Path) -> None:
    """The graph has operators that CUDA alone has; the twin has none, computes in float32 and has no other weights."""
    manifest = Bundle.open(tiny_bundle_cuda).manifest
    assert manifest.unet.shallow is not None
    for component in (*map(manifest.component, COMPONENTS), manifest.unet.shallow):
        assert component.portable is not None
        fused, twin = (
            onnx.load(tiny_bundle_cuda / name, load_external_data=False).graph
            for name in (component.graph, component.portable)
        )
        on_cuda_alone = {"BiasSplitGelu", "GroupNorm", "NhwcConv", "SkipGroupNorm"}
        assert (component.graph.startswith("text")) or on_cuda_alone & {node.op_type for node in fused.node}
        assert not on_cuda_alone & {node.op_type for node in twin.node}
        places = [
            {t.name: [(e.key, e.value) for e in t.external_data] for t in one.initializer if t.external_data}
            for one in (fused, twin)
        ]
        assert places[0] == places[1]


@on_the_cpu
@pytest.mark.parametrize(("bundle", "tolerance"), [("tiny_bundle_cuda", 2e-2), ("tiny_bundle_int8", 1e-1)])
def test_predicts_what_diffusers_does(
    tiny_pipeline: StableDiffusionPipeline, request: pytest.FixtureRequest, bundle: str, tolerance: float
) -> None:
    """On the CPU, which computes in float16 too; the tolerance is the recipe's."""
    ours = Pipeline.load(request.getfixturevalue(bundle), provider="cpu")
    generator = torch.Generator().manual_seed(3)
    latents, context = torch.randn(2, 4, 11, 8, generator=generator), torch.randn(2, 77, 64, generator=generator)
    with torch.no_grad():
        theirs = tiny_pipeline.unet(latents, 321, context).sample.numpy()
    difference = ours.predict_noise(latents.numpy(), np.full(2, 321), context.numpy()) - theirs
    assert np.linalg.norm(difference) / np.linalg.norm(theirs) < tolerance


def test_a_graph_that_misses_its_tolerance_is_not_written(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = replace(RECIPES["cpu", "fp16"], tolerance=0.0)
    monkeypatch.setitem(RECIPES, ("cpu", "fp16"), strict)
    with pytest.raises(ParityError, match=r"the graph of text_encoder is off by .*e-\d+ .*; no bundle was written"):
        export(tiny_folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not products_are_right(), reason="8-bit graphs cannot be measured on this CPU")
def test_int8_comes_with_what_it_does_to_each_layer(tiny_bundle_int8: Path) -> None:
    """In the certificates of networks that have one, and in a file of the text encoder's."""
    manifest = Bundle.open(tiny_bundle_int8).manifest
    files = [name for name in manifest.files if name.endswith((".int8.json", ".certificate.json"))]
    assert set(files) == {"text_encoder.int8.json", *(f"{name}.certificate.json" for name in COMPONENTS[1:])}
    layers = json.loads((tiny_bundle_int8 / "text_encoder.int8.json").read_text())
    assert layers
    for weight, layer in layers.items():
        assert ".weight" in weight  # not the tracer's own name, of which no error is known
        assert 0 < layer["error"] < 0.1
        assert layer["stored"] == ("int8" if layer["error"] <= LARGEST_ERROR else "fp16")


def test_where_products_are_wrong_int8_comes_without_8_bit_graphs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["pocket_export.export"], "products_are_right", lambda: False)
    said: list[str] = []
    bundle = export_unmeasured(
        tiny_folder, tmp_path / "out", weights="int8", on_progress=lambda what, _: said.append(what)
    )
    assert said[0].startswith("no 8-bit graphs: this CPU's 8-bit products overflow; export on a CPU with VNNI")
    assert not bundle.manifest.int8_graphs
    assert {f"{name}.int8.json" for name in COMPONENTS} < set(bundle.manifest.files)


def test_a_cpu_bundle_tells_the_memory_it_takes(made: tuple[Bundle, targets.Recipe]) -> None:
    bundle, recipe = made
    for name in COMPONENTS:
        memory = bundle.manifest.component(name).memory
        if recipe.target == "cuda":
            assert memory is None
        else:
            assert memory is not None
            assert memory.expanded_weights == 4 * bundle.manifest.component(name).parameters
            assert 1e6 < max(memory.least, memory.base + 256**2 * memory.per_pixel) < 1e9
            assert (memory.per_pixel > 0) == (name != "text_encoder")


def test_all_convolutions_in_winograds_form_compute_the_same(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table would leave such small ones alone. Exporting compares the graphs with PyTorch, at odd sizes too."""
    how = RECIPES["cpu", "fp32"]
    forced = tuple(partial(winograd, choose_tile=lambda _: 4) if r is winograd else r for r in how.rewrites)
    monkeypatch.setitem(RECIPES, ("cpu", "fp32"), replace(how, rewrites=forced))
    bundle = export_unmeasured(tiny_folder, tmp_path / "out", weights="fp32")
    for name in ("unet", "vae_encoder", "vae_decoder"):
        operators = [node.op_type for node in graph(bundle.root, name).graph.node]
        assert operators.count("ConvTranspose") >= 8
        assert all(f.relative_error < 1e-4 for f in bundle.manifest.component(name).parity)
