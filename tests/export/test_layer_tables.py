"""Every tensor of a checkpoint, from the bundle that was made of it and back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocket_diffusion.bundle import COMPONENTS, Bundle, TensorSpec
from pocket_diffusion.errors import ExportError
from pocket_diffusion.layers import Layer, Reshape, Slice, Stored, Transpose, read_array, restore, store
from pocket_export.checkpoint import read_checkpoint
from pocket_export.graph_file import layer_table, write_graph
from pocket_export.parts import Part
from pocket_export.rewrite import fold_reshapes, split_geglu, store_float16, winograd
from pocket_export.trace import trace

Arrays = dict[str, NDArray[np.float32]]
BUNDLES = ["tiny_bundle_fp32", "tiny_bundle_fp16", "tiny_bundle_cuda", "tiny_bundle_int8"]


@pytest.fixture(scope="session")
def published(tiny_folder: Path) -> dict[str, Arrays]:
    """The checkpoint's tensors by component."""
    checkpoint = read_checkpoint(str(tiny_folder), None)
    encoder = ("encoder.", "quant_conv.")
    networks = {
        "text_encoder": checkpoint.text_encoder,
        "unet": checkpoint.unet,
        "vae_encoder": {name: x for name, x in checkpoint.vae.items() if name.startswith(encoder)},
        "vae_decoder": {name: x for name, x in checkpoint.vae.items() if not name.startswith(encoder)},
    }
    return {role: {name: x.float().numpy() for name, x in tensors.items()} for role, tensors in networks.items()}


@pytest.fixture(params=BUNDLES)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.open(request.getfixturevalue(request.param))


def arrays_of(bundle: Bundle, role: str) -> Iterator[tuple[str, Layer, Stored, NDArray[np.generic]]]:
    weights = bundle.path(bundle.manifest.component(role).weights)
    for name, layer in bundle.layers(role).layers.items():
        for stored in layer.stored:
            yield name, layer, stored, read_array(weights, layer, stored)


@pytest.mark.parametrize("role", COMPONENTS)
def test_every_tensor_can_be_read_back(bundle: Bundle, published: dict[str, Arrays], role: str) -> None:
    weights = bundle.path(bundle.manifest.component(role).weights)
    layers = bundle.layers(role).layers
    assert layers.keys() == published[role].keys()
    for name, layer in layers.items():
        theirs = published[role][name]
        ours = restore(layer, lambda stored, layer=layer: read_array(weights, layer, stored))  # type: ignore[misc]
        storages = {stored.storage for stored in layer.stored}
        if storages == {"float32"}:
            np.testing.assert_array_equal(ours, theirs)
        elif storages == {"float16"}:
            np.testing.assert_array_equal(ours, theirs.astype(np.float16))
        else:
            assert storages == {"int8", "scale"}
            scale = np.abs(theirs).max(axis=tuple(range(1, theirs.ndim)), keepdims=True) / 127
            assert (np.abs(ours - theirs) <= scale * 0.5001).all()


@pytest.mark.parametrize("role", COMPONENTS)
def test_the_file_is_what_the_table_makes_of_the_checkpoint(
    bundle: Bundle, published: dict[str, Arrays], role: str
) -> None:
    """Byte for byte, so that an import writes what an export does; and what no array covers is zero."""
    left = np.fromfile(bundle.path(bundle.manifest.component(role).weights), np.uint8)
    for name, layer, stored, found in arrays_of(bundle, role):
        assert store(stored, published[role][name]).tobytes() == found.tobytes(), name
        left[stored.offset : stored.offset + layer.bytes_of(stored)] = 0
    assert not left.any()


@pytest.mark.parametrize("role", COMPONENTS)
def test_every_graph_takes_its_weights_from_where_the_table_says(bundle: Bundle, role: str) -> None:
    """By the same names in both graphs; what a graph holds itself does not come from the checkpoint."""
    component = bundle.manifest.component(role)
    listed = {
        stored.initializer: (found.shape, found.dtype, stored.offset, found.nbytes)
        for _, _, stored, found in arrays_of(bundle, role)
    }
    graphs = [component.graph] + ([] if component.int8 is None else [component.int8.graph])
    taken = {}
    for name in graphs:
        for tensor in onnx.load(bundle.path(name), load_external_data=False).graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                where = {entry.key: entry.value for entry in tensor.external_data}
                assert where["location"] == component.weights
                dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                place = (tuple(tensor.dims), dtype, int(where["offset"]), int(where["length"]))
                assert listed[tensor.name] == place
                taken[tensor.name] = place
            else:
                assert np.prod(tensor.dims) <= 36**2, tensor.name  # the transforms of Winograd's form
    assert taken == listed


def test_int8_and_float16_are_what_the_bundles_are_made_of(request: pytest.FixtureRequest) -> None:
    """Else the tests above would look at nothing but float32."""
    for name, kinds in (("fp16", {"float16", "float32"}), ("int8", {"float16", "float32", "int8", "scale"})):
        bundle = Bundle.open(request.getfixturevalue(f"tiny_bundle_{name}"))
        assert {stored.storage for _, _, stored, _ in arrays_of(bundle, "unet")} <= kinds
        assert {stored.storage for role in COMPONENTS for _, _, stored, _ in arrays_of(bundle, role)} == kinds


class Small(nn.Module):
    """Two layers of one shape, a norm, a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.norm, self.last = nn.GroupNorm(4, 16), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        turned = self.second(self.first(picture.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        out: Tensor = self.last(self.norm(turned))
        return out


class Gated(nn.Module):
    """A gated layer and a convolution of its result."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.last = nn.Linear(16, 1024), nn.Conv2d(512, 16, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        hidden, gate = self.gate(picture.permute(0, 2, 3, 1)).chunk(2, dim=-1)
        out: Tensor = self.last((hidden * torch.sigmoid(gate)).permute(0, 3, 1, 2))
        return out


def part_of(module: nn.Module) -> Part:
    picture = ("batch", 16, "height", "width")
    inputs, outputs = (TensorSpec(name=name, dtype="float32", shape=picture) for name in ("x", "y"))
    return Part("unet", module.eval(), (inputs,), (outputs,), {"batch": 1, "height": 8, "width": 8}, 8)


def test_a_graph_does_not_depend_on_the_weights(tmp_path: Path) -> None:
    """Of equal weights, the tracer makes one; of ones and zeros, an optimiser may make nothing. Not here."""
    written = []
    for name in ("drawn", "equal"):
        torch.manual_seed(0)
        module = Small().requires_grad_(requires_grad=False)
        for weight in module.parameters() if name == "equal" else ():
            weight.fill_(1.0)
        model = trace(part_of(module))
        (tmp_path / name).mkdir()
        write_graph(model, tmp_path / name / "unet.onnx", "unet.weights")
        table = layer_table(model)
        table.check((tmp_path / name / "unet.weights").stat().st_size)
        assert set(table.layers) == set(dict(module.named_parameters()))
        written.append((table, (tmp_path / name / "unet.onnx").read_bytes()))
    assert written[0] == written[1]


def test_tracing_leaves_the_weights_as_they_were() -> None:
    module = Small()
    before = {name: (weight, weight.clone()) for name, weight in module.named_parameters()}
    trace(part_of(module))
    for name, weight in module.named_parameters():
        assert weight is before[name][0]
        assert torch.equal(weight, before[name][1])


class Folded(nn.Module):
    """Weights that the tracer makes one constant of."""

    def __init__(self, *, together: bool) -> None:
        super().__init__()
        self.gain, self.spare = nn.Parameter(torch.rand(16, 1, 1)), nn.Parameter(torch.rand(16, 1, 1))
        self.together = together

    def forward(self, picture: Tensor) -> Tensor:
        return picture * (self.gain + self.spare if self.together else self.gain)


@pytest.mark.parametrize(
    ("together", "why"),
    [(True, r"folds gain, spare in a way that a bundle cannot describe"), (False, r"does without spare")],
)
def test_weights_that_a_table_cannot_describe_are_refused(*, together: bool, why: str) -> None:
    with pytest.raises(ExportError, match=f"unet: the trace.*{why}"):
        trace(part_of(Folded(together=together)))


def test_a_weight_that_is_no_number_is_what_is_blamed() -> None:
    """Not the versions of PyTorch and onnxscript, because nothing equals it when it is folded."""
    module = Gated().requires_grad_(requires_grad=False)
    module.gate.weight[3, 5] = torch.nan
    with pytest.raises(ExportError, match=r"unet: gate\.weight holds NaN or infinity; fetch the checkpoint again"):
        trace(part_of(module))


def test_a_layout_says_what_the_rewrites_have_made_of_a_weight(tmp_path: Path) -> None:
    """A gated layer's halves, turned by the tracer; a convolution for Winograd's form; a norm's shape."""
    model = trace(part_of(Gated()))
    for rewrite in (split_geglu, lambda model: winograd(model, lambda _: 2), fold_reshapes, store_float16):
        model = rewrite(model)
    write_graph(model, tmp_path / "unet.onnx", "unet.weights")
    layers = layer_table(model).layers
    halves, last = layers["gate.weight"].stored, layers["last.weight"].stored
    assert [stored.steps for stored in halves] == [
        (Transpose(axes=(1, 0)), Slice(axis=1, start=start, end=start + 512)) for start in (0, 512)
    ]
    assert [(stored.steps, stored.storage) for stored in last] == [((Reshape(shape=(512 * 16, 9)),), "float16")]
    assert [stored.storage for stored in layers["gate.bias"].stored] == ["float32"] * 2
