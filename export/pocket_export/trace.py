"""One network → one ONNX graph, with named inputs and outputs and dynamic batch and sizes."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import onnx_ir as ir
import torch
from torch import Tensor, nn

from pocket_export.parts import Part
from pocket_models.attention import AttentionProduct

OPSET = 20  # the first with Gelu
_TRACED_SIZES = {"batch": 2, "contexts": 2, "height": 16, "width": 24, "tokens": 77}
_TRACED_ALIKE = {"contexts": "batch"}  # one picture under several contexts is share_guidance's doing


class FusedAttention(nn.Module):
    """ONNX Runtime's own attention operator, in the place of an `AttentionProduct`.

    Its kernels never hold all scores at once, on the CPU as on CUDA.
    """

    def __init__(self, product: AttentionProduct) -> None:
        super().__init__()
        self.heads = product.heads
        self.causal = product.causal

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See `AttentionProduct.forward`."""
        return torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            (query, key, value),
            {"num_heads": self.heads, "unidirectional": int(self.causal)},
            dtype=query.dtype,
            shape=query.shape,
            version=1,
        )


def trace(part: Part, dtype: torch.dtype, *, fuse_attention: bool = True) -> ir.Model:
    """Trace a network that computes in `dtype`.

    Weights that have that dtype are referred to, not copied, but for those that the tracer transposes. The part's own
    module is left as it was. The model's `meta` carries the part's usual sizes, for rewrites. Without `fuse_attention`,
    which benchmarks/rewrites.py wants, attention is made of products and a softmax.
    """
    example = tuple(x if x.dtype == torch.int64 else x.to(dtype) for x in part.example(_TRACED_SIZES))
    attention = _fused_attention(part.module) if fuse_attention else contextlib.nullcontext()
    with attention, _computing_in(part.module, dtype), _quiet():
        program = torch.onnx.export(
            part.module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in part.inputs],
            output_names=[spec.name for spec in part.outputs],
            dynamic_shapes=tuple(
                {axis: dim for axis, dim in enumerate(_dynamic(spec.shape, part)) if dim is not None}
                for spec in part.inputs
            ),
            verbose=False,
        )
    if program is None:  # only with an output file given
        raise AssertionError
    _name_folded_weights(program.model)
    program.model.meta["usual_sizes"] = part.usual_sizes
    return program.model


def _name_folded_weights(model: ir.Model) -> None:
    """Name weights that the tracer has folded, which are transposed ones, after what they were made from."""
    for value in list(model.graph.initializers.values()):
        sources = value.meta.get("pkg.onnxscript.optimizer.folded_from", ())
        if len(sources) == 1:
            value.name = f"{next(iter(sources))}.transposed"


def _dynamic(shape: tuple[int | str, ...], part: Part) -> list[object | None]:
    """Return torch.export's word for each axis: pictures come in multiples of the VAE's factor."""
    dims: list[object | None] = []
    for size in shape:
        if not isinstance(size, str):
            dims.append(None)
        elif size in ("height", "width") and part.pixels_per_size > 1:
            dims.append(part.pixels_per_size * torch.export.Dim(f"latent_{size}", min=1))
        else:
            dims.append(torch.export.Dim(_TRACED_ALIKE.get(size, size), min=1))
    return dims


@contextlib.contextmanager
def _fused_attention(module: nn.Module) -> Iterator[None]:
    places = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if isinstance(child, AttentionProduct)
    ]
    for parent, name, child in places:
        setattr(parent, name, FusedAttention(child))
    try:
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)


@contextlib.contextmanager
def _computing_in(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Give the module weights in another precision for a while."""
    if dtype == torch.float32:
        yield
        return
    weights = dict(module.state_dict())
    module.to(dtype)
    try:
        yield
    finally:
        module.load_state_dict(weights, assign=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's talk (torchvision is missing, an axis was renamed) from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
