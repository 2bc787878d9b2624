"""One network → one ONNX graph, with named inputs and outputs and dynamic batch and sizes."""

import contextlib
import inspect
import logging
import warnings
from collections.abc import Hashable, Iterator
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocket_diffusion.errors import ExportError
from pocket_diffusion.layers import Form, Reshape, Step, Transpose
from pocket_export.parts import Part
from pocket_export.rewrite.initializers import Layout, lay_out, with_layouts
from pocket_models.attention import AttentionProduct

OPSET = 20  # the first with Gelu
_TRACED_SIZES = {"batch": 2, "contexts": 2, "height": 16, "width": 24, "tokens": 77}
_TRACED_ALIKE = {"contexts": "batch"}  # one picture under several contexts is share_guidance's doing
_SMALL = 2**14  # the tracer merges equal weights of up to 1024 numbers

_skeletons: dict[tuple[Hashable, ...], ir.Model] = {}
"""Traced graphs by all that they depend on: the network's name and config, and the form of attention."""


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


def trace(part: Part, *, fuse_attention: bool = True) -> ir.Model:
    """Return the graph of a network, in float32.

    Every initializer that is made of a weight has its `Layout`, and refers to the part's own weights in float32; the
    graph does not depend on what these are, so that a process traces networks of one config once. The part's module is
    left as it was. The model's `meta` carries the part's usual sizes, for rewrites. Without `fuse_attention`, which
    benchmarks/rewrites.py wants, attention is made of products and a softmax.

    Raises:
        ExportError: a weight holds NaN or infinity, or is in the graph in some form that layouts do not have, or not
            at all.

    """
    published = {name: weight.detach().float().numpy() for name, weight in part.module.named_parameters()}
    for name, numbers in published.items():  # NaN equals nothing, so that no steps would be found that lead to it
        if not (np.isfinite(numbers.min()) and np.isfinite(numbers.max())):  # a NaN anywhere becomes both
            raise ExportError(f"{part.name}: {name} holds NaN or infinity; fetch the checkpoint again")
    kind = (part.name, part.config, fuse_attention)
    if part.config is None or kind not in _skeletons:
        _skeletons[kind] = _trace_anew(part, fuse_attention=fuse_attention)
    model = _skeletons[kind].clone()
    for value, layout in with_layouts(model):
        lay_out(value, replace(layout, published=published[layout.name]))
    model.meta["usual_sizes"] = part.usual_sizes
    return model


def _trace_anew(part: Part, *, fuse_attention: bool) -> ir.Model:
    """Return the graph with layouts of published weights that have no numbers."""
    attention = _fused_attention(part.module) if fuse_attention else contextlib.nullcontext()
    with attention, _told_apart(part.module), _quiet():
        program = torch.onnx.export(
            part.module,
            part.example(_TRACED_SIZES),
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in part.inputs],
            output_names=[spec.name for spec in part.outputs],
            dynamic_shapes=_dynamic_shapes(part),
            verbose=False,
        )
        if program is None:  # only with an output file given
            raise AssertionError
        _lay_out_weights(part, program.model)
    return program.model


def _lay_out_weights(part: Part, model: ir.Model) -> None:
    """Give every initializer that the tracer has made of a weight its layout, without the published one's numbers."""
    traced = {name: weight.detach().numpy() for name, weight in part.module.named_parameters()}
    missing = set(traced)
    for value in list(model.graph.initializers.values()):
        folded_from = value.meta.get("pkg.onnxscript.optimizer.folded_from", {value.name})
        sources = [name for name in folded_from if name in traced]
        if not sources:
            continue
        assert value.const_value is not None  # noqa: S101 - it is an initializer
        name = sources[0]
        steps = () if value.name == name else _steps_between(traced[name], value.const_value.numpy())
        if steps is None or len(sources) > 1:
            raise ExportError(
                f"{part.name}: the tracer folds {', '.join(sorted(sources))} in a way that a bundle cannot describe; "
                "install the versions of PyTorch and onnxscript that constraints.txt has"
            )
        shape_alone = np.broadcast_to(np.float32(0), traced[name].shape)
        lay_out(value, Layout(name, shape_alone, Form(steps=steps)))
        missing.discard(name)
    if missing:
        raise ExportError(f"{part.name}: the traced graph does without {', '.join(sorted(missing)[:3])}")


def _steps_between(source: NDArray[Any], found: NDArray[Any]) -> tuple[Step, ...] | None:
    """Return the steps by which the tracer folded one array into another, as the numbers tell; None if there are none.

    Where several do, as with symmetric matrices, it was a transposition: that is what the tracer folds.
    """
    *turned, as_it_is = reversed(list(permutations(range(source.ndim))))
    for axes in (*turned, as_it_is):
        if source.transpose(axes).shape == found.shape and np.array_equal(source.transpose(axes), found):
            return () if axes == as_it_is else (Transpose(axes=axes),)
    if source.size == found.size and np.array_equal(source.reshape(found.shape), found):
        return (Reshape(shape=found.shape),)
    return None


def _dynamic_shapes(part: Part) -> tuple[object, ...]:
    """Return torch.export's words for the inputs' axes, in the form of the module's arguments: a `*more` is a tuple."""
    shapes = [
        {axis: dim for axis, dim in enumerate(_dynamic(spec.shape, part)) if dim is not None} for spec in part.inputs
    ]
    return tuple(inspect.signature(part.module.forward).bind(*shapes).arguments.values())


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
def _told_apart(module: nn.Module) -> Iterator[None]:
    """Give small weights numbers of their own for a while: of equal ones, the tracer would make one initializer."""
    small = {name: weight for name, weight in module.named_parameters() if weight.numel() <= _SMALL}
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(w.shape, generator=generator).to(w.dtype) for name, w in small.items()}
    module.load_state_dict(drawn, assign=True, strict=False)
    try:
        yield
    finally:
        module.load_state_dict(small, assign=True, strict=False)


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
