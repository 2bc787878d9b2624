"""Self-attention at the finest level may look at fewer tokens: every n-th of every n-th row.

Neighbouring tokens are much alike there, and its products grow with the square of the pixels (Smith et al. 2024, "ToDo:
Token Downsampling for Efficient Generation of High-Resolution Images", section 3). Queries stay as many as there are.
"""

import numpy as np
import onnx_ir as ir

from pocket_diffusion.bundle import TOKEN_DOWNSAMPLING
from pocket_export.rewrite.initializers import add_initializer
from pocket_export.rewrite.nodes import Nodes

_SIDES = {"height": 1009, "width": 1013}
"""Primes, by which the finest level is told from others."""


def downsample_tokens(model: ir.Model) -> ir.Model:
    """Give a U-Net an optional input, int64 `[1]`: by how much fewer keys and values are along each side, usually 1."""
    latents = next((value for value in model.graph.inputs if value.name == "latents"), None)
    places = [] if latents is None else [node for node in model.graph if _is_finest_self_attention(node)]
    if not places:
        return model
    every = add_initializer(model, ir.tensor(np.array([1], np.int64), name=TOKEN_DOWNSAMPLING))
    model.graph.inputs.append(every)
    nodes = Nodes(model)
    start, step = nodes.int64(0), nodes.add("Squeeze", every)
    height, width = (nodes.add("Squeeze", nodes.add("Shape", latents, start=i, end=i + 1)) for i in (2, 3))
    ys, xs = (nodes.add("Range", start, side, step) for side in (height, width))
    rows = nodes.add("Add", nodes.add("Unsqueeze", nodes.add("Mul", ys, width), 1), xs)
    rows = nodes.add("Reshape", rows, -1)
    nodes.insert_in_front()
    for node in places:
        products = [value.producer() for value in node.inputs[1:3] if value is not None]
        tokens = products[0].inputs[0] if products[0] is not None else None
        fewer = nodes.add("Gather", tokens, rows, axis=1)
        first = min((product for product in products if product is not None), key=model.graph.index)
        nodes.insert_before(first)
        for product in products:
            if product is not None:
                product.replace_input_with(0, fewer)
                out = product.outputs[0]
                if out.shape is not None:
                    out.shape = ir.Shape([out.shape[0], None, out.shape[2]])
    return model


def _is_finest_self_attention(node: ir.Node) -> bool:
    """Tell whether queries, keys and values are made of the same tokens, one for each latent."""
    if node.op_type != "MultiHeadAttention":
        return False
    products = [value.producer() if value is not None else None for value in node.inputs[:3]]
    sources = {product.inputs[0] for product in products if product is not None and product.op_type == "MatMul"}
    if len(sources) != 1 or None in products:
        return False
    (tokens,) = sources
    count = tokens.shape[1] if tokens is not None and tokens.shape is not None else None
    return isinstance(count, ir.SymbolicDim) and _evaluate(count) == _SIDES["height"] * _SIDES["width"]


def _evaluate(count: ir.SymbolicDim) -> object:
    return count.evaluate(_SIDES) if count.free_symbols() <= set(_SIDES) else None
