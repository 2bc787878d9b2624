"""8-bit graphs beside the exact ones, and what their certificates say of them."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from pocket_diffusion import Pipeline, calibration
from pocket_diffusion.bundle import MANIFEST_NAME, Bundle, sha256_of
from pocket_diffusion.calibration import Calibration, Evaluation
from pocket_diffusion.certificate import Certificate
from pocket_diffusion.errors import BundleDamagedError, ExportError
from pocket_diffusion.machine.cpu import products_are_right
from pocket_diffusion.machine.session import GraphSession
from pocket_diffusion.model import arithmetic
from pocket_diffusion.model.budget import AUTO
from pocket_diffusion.model.memory import MODES
from pocket_export import certify, int8_graph, parts
from pocket_export.certify import Certifier, climb, error_of, first_form
from pocket_export.checkpoint import read_checkpoint
from pocket_export.parts import Part
from pocket_export.progress import Progress
from pocket_export.rewrite.initializers import MIN_ELEMENTS
from pocket_export.rewrite.int8_products import Form
from pocket_export.rewrite.int8_weights import rounded_to_int8
from pocket_export.sensitivity import RoundingErrors
from pocket_export.trace import trace

pytestmark = pytest.mark.skipif(not products_are_right(), reason="8-bit products are wrong on this CPU")

ROLES = ("unet", "vae_decoder", "vae_encoder")
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def int8(tiny_bundle_int8: Path) -> Bundle:
    return Bundle.open(tiny_bundle_int8)


@pytest.fixture(scope="module")
def part_of(tiny_folder: Path) -> Callable[[str], Part]:
    """The networks that were exported."""
    checkpoint = read_checkpoint(str(tiny_folder), None)
    return cache(lambda role: getattr(parts, role)(checkpoint))


def layers_of(module: nn.Module) -> list[str]:
    kinds = (nn.Linear, nn.Conv2d)
    return [f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, kinds)]


def session(bundle: Bundle, role: str, *, in_8_bits: bool) -> GraphSession:
    manifest = bundle.manifest.in_int8([role] if in_8_bits else [])
    return GraphSession(bundle.root, role, manifest.component(role), "cpu")


def relative(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def computed_in(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the form of each product of 8-bit numbers by the name of its weights, as its inputs tell it."""
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    times = Counter(node.input[1] for node in products)
    constants = {tensor.name for tensor in graph.initializer}
    forms = {}
    for node in products:
        _, weights, scale = node.input[:3]
        forms[weights] = "token" if scale in constants else {1: "tensor", 2: "two_terms"}[times[weights]]
    return forms


# What the exporter writes.


@pytest.mark.parametrize("role", ROLES)
def test_a_certificate_lists_every_layer_once_and_belongs_to_its_files(
    int8: Bundle, part_of: Callable[[str], Part], role: str
) -> None:
    certificate, component = int8.certificate(role), int8.manifest.component(role)
    graph = int8.manifest.int8_graphs[role]
    assert certificate.graph_sha256 == sha256_of(int8.path(graph.graph))
    assert certificate.weights_sha256 == sha256_of(int8.path(component.weights))
    assert sorted(layer.name for layer in certificate.layers) == sorted(layers_of(part_of(role).module))
    assert certificate.relative_error <= certificate.largest_error
    assert certificate.relative_error <= certificate.bound == certify.BOUND
    assert certificate.allows
    assert (certificate.psnr_db is None) == (role == "vae_encoder")
    assert not int8.damaged_files()


@pytest.mark.parametrize("role", ROLES)
def test_layers_are_computed_as_the_certificate_says(int8: Bundle, part_of: Callable[[str], Part], role: str) -> None:
    graph = onnx.load(int8.path(int8.manifest.int8_graphs[role].graph), load_external_data=False).graph
    found = computed_in(graph)
    module = part_of(role).module
    in_8_bits = {layer.name: layer for layer in int8.certificate(role).layers if layer.computed != "float32"}
    assert len(in_8_bits) > 10
    for name, layer in in_8_bits.items():
        forms = {form for weights, form in found.items() if weights.startswith(f"{name}.")}
        assert forms == {layer.computed}
        assert layer.stored == "int8"
    assert all(any(weights.startswith(f"{name}.") for name in in_8_bits) for weights in found)
    for layer in int8.certificate(role).layers:
        weight = module.get_parameter(layer.name)
        if min(weight.shape[:2]) < 16 or weight.numel() < MIN_ELEMENTS:  # which the exact graph does not round
            assert layer.computed == "float32"
        assert (layer.error is None) == (layer.computed == "float32")


def fresh(part: Part, seed: int) -> dict[str, NDArray[np.float32]]:
    sizes = {"batch": 1, "contexts": 2, "tokens": 77, "height": 9, "width": 7}
    example = part.example(sizes, seed)
    return {spec.name: x.numpy() for spec, x in zip(part.inputs, example, strict=True)}


@pytest.mark.parametrize("role", ROLES)
def test_the_error_is_about_what_fresh_inputs_show(int8: Bundle, part_of: Callable[[str], Part], role: str) -> None:
    """At an odd size, and of noise, where the certificate was measured on what a drawing makes."""
    exact, rounded = (session(int8, role, in_8_bits=choice) for choice in (False, True))
    errors = []
    for seed in range(3):
        inputs = fresh(part_of(role), seed)
        (ours,), (theirs,) = rounded.run(**inputs).values(), exact.run(**inputs).values()
        errors.append(relative(ours, theirs))
    assert int8.certificate(role).relative_error / 5 < np.median(errors) < 5 * int8.certificate(role).relative_error


@pytest.mark.parametrize("role", ROLES)
def test_both_graphs_share_one_weights_file(int8: Bundle, role: str) -> None:
    component, graph = int8.manifest.component(role), int8.manifest.int8_graphs[role]
    tensors = onnx.load(int8.path(graph.graph), load_external_data=False).graph.initializer
    outside = [t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]
    assert {entry.value for t in outside for entry in t.external_data if entry.key == "location"} == {component.weights}
    assert sum(np.prod(t.dims) for t in outside if t.data_type == onnx.TensorProto.INT8) > component.parameters / 2
    assert int8.path(graph.graph).stat().st_size < 1e6


@pytest.mark.parametrize("role", ROLES)
def test_no_weight_of_either_graph_is_minus_128(int8: Bundle, role: str) -> None:
    component, graph = int8.manifest.component(role), int8.manifest.int8_graphs[role]
    for name in (component.graph, graph.graph):
        stored = [v.const_value for v in ir.load(int8.path(name)).graph.initializers.values() if v.const_value]
        weights = [tensor.numpy() for tensor in stored if tensor.dtype == ir.DataType.INT8]
        assert weights
        assert min(int(w.min()) for w in weights) == -127


def test_memory_of_8_bit_graphs_is_measured(int8: Bundle) -> None:
    for role in ROLES:
        memory = int8.manifest.int8_graphs[role].memory
        assert memory is not None
        assert memory.per_pixel > 0


@pytest.mark.parametrize("role", ROLES)
def test_the_exact_graph_computes_with_the_stored_weights_in_float32(
    int8: Bundle, part_of: Callable[[str], Part], role: str
) -> None:
    """As PyTorch does with weights that were rounded as the certificate says, to the order of sums."""
    part = part_of(role)
    stored = {layer.name: layer.stored for layer in int8.certificate(role).layers}
    exact = dict(part.module.state_dict())
    weights = {name: x.clone() for name, x in exact.items()}
    for name, kind in stored.items():
        if weights[name].numel() >= MIN_ELEMENTS:
            as_int8 = torch.from_numpy(rounded_to_int8(exact[name].numpy(), axis=0))
            weights[name] = as_int8 if kind == "int8" else exact[name].half().float()
    inputs = fresh(part, 0)
    largest = max(len(x) for x in inputs.values())
    given = [torch.from_numpy(x).expand(largest, *x.shape[1:]) for x in inputs.values()]
    with torch.inference_mode():
        theirs = torch.func.functional_call(part.module, weights, tuple(given)).numpy()
    (ours,) = session(int8, role, in_8_bits=False).run(**inputs).values()
    assert relative(ours, theirs) < 1e-5


# How a graph is found that is within the bound.


@pytest.mark.parametrize(
    ("errors", "first"),
    [
        (RoundingErrors(tensor=1e-2, token=5e-3, two_terms=1e-4), "tensor"),
        (RoundingErrors(tensor=6e-2, token=7e-3, two_terms=2e-4), "token"),
        (RoundingErrors(tensor=6e-2, token=5e-2, two_terms=2e-4), "two_terms"),
        (RoundingErrors(tensor=6e-2, token=None, two_terms=2e-4), "two_terms"),
        (RoundingErrors(tensor=0.6, token=0.5, two_terms=0.1), "two_terms"),
    ],
)
def test_a_layer_begins_with_the_fastest_form_that_is_not_far_off(errors: RoundingErrors, first: Form) -> None:
    assert first_form(errors) == first


def test_the_worst_tenth_climbs_and_leaves_at_the_top() -> None:
    errors = dict.fromkeys(map(str, range(9)), RoundingErrors(tensor=1e-2, token=5e-3, two_terms=1e-4))
    errors["worst"] = RoundingErrors(tensor=3e-2, token=1.5e-2, two_terms=2e-4)
    forms: dict[str, Form] = dict.fromkeys(errors, "tensor")
    forms = climb(forms, errors)
    assert forms == dict.fromkeys(errors, "tensor") | {"worst": "token"}
    forms = climb(forms, errors)
    assert forms["worst"] == "two_terms"
    for _ in range(2 * 9):
        forms = climb(forms, errors)
    assert set(forms.values()) == {"two_terms"}
    assert climb(forms, errors).keys() == errors.keys() - {"worst"}


def test_of_many_layers_a_tenth_climbs_at_once() -> None:
    errors = {str(i): RoundingErrors(tensor=1e-3 * i, token=None, two_terms=1e-5) for i in range(1, 26)}
    climbed = climb(dict.fromkeys(errors, "tensor"), errors)
    assert [name for name, form in climbed.items() if form == "two_terms"] == ["23", "24", "25"]


def test_a_rung_that_is_worse_is_passed_over() -> None:
    errors = {"a": RoundingErrors(tensor=1e-2, token=4e-2, two_terms=1e-4)}
    assert climb({"a": "tensor"}, errors) == {"a": "two_terms"}
    assert climb({"a": "two_terms"}, errors) == {}


def test_a_form_that_a_layer_cannot_have_is_infinitely_wrong() -> None:
    assert error_of(RoundingErrors(1e-2, None, 1e-4), "token") == np.inf
    assert error_of(RoundingErrors(1e-2, None, 1e-4), "two_terms") == 1e-4


TO_KEYS = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(scope="module")
def traced(part_of: Callable[[str], Part]) -> ir.Model:
    return trace(part_of("unet"))


@pytest.fixture
def certify_unet(
    int8: Bundle, part_of: Callable[[str], Part], traced: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Certificate]:
    """Certify the U-Net anew, within a bound, on inputs of the test's own: contexts with a large token if so asked."""
    bundle = Bundle.open(shutil.copytree(int8.root, tmp_path / "copy"))
    part = part_of("unet")

    def again(_part: Part) -> ir.Model:
        model = traced.clone()
        model.meta.update(traced.meta)
        return model

    def certified(bound: float, *, large_token: bool = False) -> Certificate:
        exact = session(bundle, "unet", in_8_bits=False)
        evaluations = []
        for seed in range(4):
            inputs = fresh(part, seed)
            if large_token:
                inputs["context"][:, 3] *= 40
            evaluations.append(Evaluation(inputs, exact.run(**inputs)))
        drawn = Calibration(bundle, ["a lake"], 1, None, AUTO, {"unet": evaluations}, [Image.new("RGB", (8, 8))])
        monkeypatch.setattr(certify, "trace", again)
        monkeypatch.setattr(calibration, "calibrate", lambda *_, **__: drawn)
        monkeypatch.setattr(certify, "measure_memory", lambda *_, **__: None)
        monkeypatch.setattr(certify, "BOUND", bound)
        certifier = Certifier(bundle.root, drawn, Progress(lambda _what, _done: None, {}))
        component = certifier.certify(part, bundle.manifest.unet)
        assert component.int8 is not None
        return msgspec.json.decode(bundle.path(component.int8.certificate).read_bytes(), type=Certificate)

    return certified


def forms_of(certificate: Certificate) -> dict[str, str]:
    return {layer.name: layer.computed for layer in certificate.layers}


def test_a_layer_with_large_tokens_gets_one_scale_a_token(certify_unet: Callable[..., Certificate]) -> None:
    """One token of the context is forty times larger."""
    plain, spoiled = certify_unet(5e-2), certify_unet(5e-2, large_token=True)
    assert (forms_of(plain)[TO_KEYS], forms_of(spoiled)[TO_KEYS]) == ("tensor", "token")
    assert "tensor" in forms_of(spoiled).values()
    assert plain.evaluations == spoiled.evaluations == 4
    assert max(plain.relative_error, spoiled.relative_error) <= 5e-2


def test_a_smaller_bound_makes_layers_climb_and_leave(certify_unet: Callable[..., Certificate]) -> None:
    loose = certify_unet(5e-2)
    tight, tightest = certify_unet(loose.relative_error / 2), certify_unet(3e-5)
    for certificate in (loose, tight, tightest):
        assert certificate.relative_error <= certificate.bound
    counts = [Counter(forms_of(one).values()) for one in (loose, tight, tightest)]
    assert counts[0]["tensor"] > counts[1]["tensor"]
    assert counts[0]["float32"] == counts[1]["float32"] < counts[2]["float32"]


def test_weights_that_the_file_does_not_have_are_refused(int8: Bundle, traced: ir.Model) -> None:
    model = traced.clone()
    model.meta.update(traced.meta)
    graph = int8_graph.int8_graph(model, {})
    with pytest.raises(ExportError, match=r"vae_decoder\.weights has no .*, which the 8-bit graph beside it needs"):
        int8_graph.share_weights(graph, int8.root, int8.manifest.vae_decoder)


# Pictures.


@pytest.fixture
def any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where 8-bit products are slow."""
    if not products_are_right():
        pytest.skip("8-bit products come out wrong on this CPU")
    monkeypatch.setattr(arithmetic, "products_fault", lambda: None)


def psnr(picture: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(picture, np.float64) - np.asarray(other, np.float64)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


ORDERS: dict[str, dict[str, Any]] = {
    "square": {"width": 64, "height": 64},
    "odd": {"width": 88, "height": 72},
    "from a picture": {"image": Image.linear_gradient("L").convert("RGB").resize((72, 64)), "strength": 0.6},
}


@pytest.mark.usefixtures("any_cpu")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("memory", MODES)
def test_a_picture_is_nearly_that_of_exact_arithmetic(int8: Bundle, memory: str, order: str) -> None:
    drawn = {}
    for how in ("exact", "int8"):
        with Pipeline.load(int8.root, provider="cpu", arithmetic=how, memory=memory) as pipeline:
            drawn[how] = pipeline.generate("a lake", seed=3, steps=4, **ORDERS[order]).images[0]
            assert pipeline.arithmetic == how
    assert drawn["int8"].size == drawn["exact"].size
    assert 30 < psnr(drawn["int8"], drawn["exact"]) < 90


@pytest.mark.usefixtures("any_cpu")
def test_weights_that_were_changed_are_refused_and_exact_arithmetic_is_not(int8: Bundle, tmp_path: Path) -> None:
    """Also where the manifest was made to agree."""
    root = shutil.copytree(int8.root, tmp_path / "changed")
    manifest = json.loads((root / MANIFEST_NAME).read_bytes())
    content = bytearray((root / "unet.weights").read_bytes())
    content[1000] ^= 1
    (root / "unet.weights").write_bytes(content)
    manifest["files"]["unet.weights"]["sha256"] = sha256_of(root / "unet.weights")
    (root / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(BundleDamagedError, match=r"unet\.certificate\.json was not made for unet\.weights"):
        Pipeline.load(root, provider="cpu", arithmetic="int8")
    assert (
        Pipeline.load(root, provider="cpu", arithmetic="exact").generate("a lake", steps=1, width=64, height=64).images
    )
