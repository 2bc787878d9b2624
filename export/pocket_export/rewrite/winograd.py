"""3x3 convolutions with two to four times fewer multiplications, from operators that every ONNX Runtime has.

Winograd's minimal filtering F(m x m, 3 x 3) (Lavin and Gray 2016, equation 8): with n = m + 2, a tile d of n x n inputs
and a kernel g give m x m outputs Aᵀ[(G g Gᵀ) ∘ (Bᵀ d B)]A; the sum over channels turns the ∘ into n² matrix products.

The weights stay in the file as they are, but for their shape, and are transformed at each run, by a product with
G ⊗ G that takes a fiftieth of a step; transformed, they are up to four times as large. Many channels are made a part at
a time, large pictures in bands of rows, so that neither these weights nor the tiles, n²/m² times the inputs or outputs,
take much memory.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_export.rewrite.convolution_costs import Convolution, cheapest_tile
from pocket_export.rewrite.initializers import cut, drop_unused
from pocket_export.rewrite.nodes import Nodes, constant
from pocket_export.rewrite.sizes import fixed_shape, usual_shape

BAND_BYTES = 64e6
"""How much the tiles of a band may take."""
PART_BYTES = 40e6
"""How much the transformed weights of a part of the output channels may take."""
_POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, -2)}
"""By m: where the transforms evaluate tile and kernel as polynomials; one more point lies at infinity."""


def winograd(model: ir.Model, choose_tile: Callable[[Convolution], int | None] = cheapest_tile) -> ir.Model:
    """Rewrite every 3x3 convolution for which `choose_tile` returns an m, 2 or 4, at the model's usual sizes.

    The result holds at all sizes. The transforms' rounding makes a relative difference of 1e-6 (m = 2) or 1e-5 (m = 4).
    """
    for node in list(model.graph):
        if _is_plain_3x3(node):
            convolution, batch = _measure(model, node)
            m = choose_tile(convolution)
            if m is not None:
                joined = batch > 1 and _count_weights(convolution, m) > _count_activations(convolution)
                _replace(model, node, m, _count_bands(convolution, m), joined=joined)
    return model


def transforms(m: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return Aᵀ `[m, n]`, G `[n, 3]` and Bᵀ `[n, n]` (Toom and Cook's; Lavin 2016, section 5)."""
    points = [Fraction(point) for point in _POINTS[m]]
    outputs = [[point**power for point in points] + [Fraction(power == m - 1)] for power in range(m)]
    kernel, inputs = [], []
    for point in points:
        others = [other for other in points if other != point]
        scale = math.prod(point - other for other in others)
        kernel.append([point**power / scale for power in range(3)])
        inputs.append([*_polynomial(others), Fraction(0)])
    kernel.append([Fraction(0), Fraction(0), Fraction(1)])
    inputs.append(_polynomial(points))
    return np.array(outputs, np.float64), np.array(kernel, np.float64), np.array(inputs, np.float64)


def _polynomial(roots: list[Fraction]) -> list[Fraction]:
    """Return the coefficients of ∏(x - root), lowest power first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [*(-root * c for c in coefficients), Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _is_plain_3x3(node: ir.Node) -> bool:
    if node.op_type != "Conv" or _kernels(node) is None:
        return False
    plain = {"group": 1, "pads": [1, 1, 1, 1], "strides": [1, 1], "dilations": [1, 1], "auto_pad": "NOTSET"}
    given = {name: attribute.value for name, attribute in node.attributes.items() if name in plain}
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return plain | {"pads": [0, 0, 0, 0]} | given == plain


def _kernels(node: ir.Node) -> ir.Value | None:
    """Return a convolution's weights `[channels out, channels in, 3, 3]`, where that is what they are."""
    value = node.inputs[1]
    return value if value is not None and value.is_initializer() and fixed_shape(value)[2:] == [3, 3] else None


def _measure(model: ir.Model, node: ir.Node) -> tuple[Convolution, int]:
    """Return what a convolution costs by, and its batch."""
    picture, kernels = node.inputs[0], _kernels(node)
    assert picture is not None and kernels is not None  # noqa: S101 - of a Conv
    channels_out, channels_in = fixed_shape(kernels)[:2]
    batch, _, height, width = usual_shape(model, picture)
    return Convolution(channels_in, channels_out, batch * height * width), batch


def _count_bands(convolution: Convolution, m: int) -> int:
    channels = max(convolution.channels_in, convolution.channels_out)
    return math.ceil(((m + 2) / m) ** 2 * convolution.pixels * channels * 4 / BAND_BYTES)


def _count_weights(convolution: Convolution, m: int) -> int:
    """Return how many numbers the transformed weights are."""
    return (m + 2) ** 2 * convolution.channels_in * convolution.channels_out


def _count_activations(convolution: Convolution) -> int:
    return convolution.pixels * (convolution.channels_in + convolution.channels_out)


def _replace(model: ir.Model, node: ir.Node, m: int, bands: int, *, joined: bool) -> None:
    """Put Winograd's form in the place of a convolution.

    Without `joined`, each sample has products of its own, for which the weights are read anew. With it, samples come
    second among the axes, so that the tiles of all of them take part in the same products; that moves the activations.
    """
    picture, kernels, bias = node.inputs[0], _kernels(node), node.inputs[2:]
    assert kernels is not None  # noqa: S101 - the caller asked
    channels_out, channels_in = fixed_shape(kernels)[:2]
    a, g, b = transforms(m)
    n = m + 2

    nodes = Nodes(model)
    transform = _not_to_be_folded(model, f"winograd_{m}_g", _both_ways(g))
    flat = _not_to_be_folded(model, "winograd_flat", np.array([-1, 9]))
    weights = []
    for part in cut(model, kernels, math.ceil(n * n * channels_out * channels_in * 4 / PART_BYTES), axis=0):
        products = nodes.add("Gemm", transform, nodes.add("Reshape", part, flat), transB=1)
        weights.append(nodes.add("Reshape", products, [n * n, fixed_shape(part)[0], channels_in]))
    nodes.insert_in_front()

    if joined:
        batch = nodes.add("Shape", picture, start=0, end=1)
        picture = nodes.add("Transpose", picture, perm=[1, 0, 2, 3])
    to_points = constant(model, f"winograd_{m}_b", _both_ways(b).reshape(n * n, 1, n, n))
    from_points = constant(model, f"winograd_{m}_a", _both_ways(a).T.reshape(n * n, 1, m, m))
    height = nodes.add("Shape", picture, start=2, end=3)
    width = nodes.add("Shape", picture, start=3)
    tiles = nodes.add("Div", nodes.add("Add", height, m - 1), m)
    many = nodes.add("Div", nodes.add("Add", tiles, bands - 1), bands)
    made = []
    for band in range(bands):
        # The last bands start early enough to be whole, and leave out what the one before them has made.
        planned = nodes.add("Mul", many, band)
        first = nodes.add("Min", planned, nodes.add("Sub", tiles, many))
        rows, above, below = _rows_of_tiles(nodes, height, first, many, m)
        x = nodes.add("Gather", picture, rows, axis=2)
        x = nodes.add("Pad", x, nodes.add("Concat", above, below, axis=0), None, 2)
        # All channels' tiles, one below the other, as one tall picture of one channel; one stride a tile.
        x = nodes.add("Reshape", x, [1 if joined else 0, 1, -1, 0])
        x = nodes.add("Conv", x, to_points, strides=[n, m], pads=[0, 1, 0, m])
        across = nodes.add("Shape", x, start=3)
        x = nodes.add("Reshape", x, [0, n * n, channels_in, -1])
        x = nodes.join([nodes.add("MatMul", part, x) for part in weights], axis=2)
        x = nodes.add("Reshape", x, nodes.add("Concat", [0, n * n, -1], across, axis=0))
        x = nodes.add("ConvTranspose", x, from_points, strides=[m, m])
        separate = nodes.add("Concat", channels_out, batch, [-1, 0], axis=0) if joined else [0, channels_out, -1, 0]
        x = nodes.add("Reshape", x, separate)
        if bias:
            x = nodes.add("Add", x, nodes.add("Reshape", bias[0], [-1, 1, 1, 1] if joined else [-1, 1, 1]))
        top = nodes.add("Mul", nodes.add("Sub", planned, first), m)
        bottom = nodes.add("Sub", height, nodes.add("Mul", first, m))
        starts, ends = (nodes.add("Concat", *pair, axis=0) for pair in ((top, 0), (bottom, width)))
        made.append(nodes.add("Slice", x, starts, ends, [2, 3]))
    out = nodes.join(made, axis=2)
    if joined:
        out = nodes.add("Transpose", out, perm=[1, 0, 2, 3])
    nodes.insert_before(node)
    ir.convenience.replace_nodes_and_values(model.graph, node, [node], [], list(node.outputs), [out])
    drop_unused(model, kernels)


def _rows_of_tiles(
    nodes: Nodes, height: ir.Value, first: ir.Value, many: ir.Value, m: int
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return which rows of the picture `many` tiles from the `first` need, and how many rows of zeros around them."""
    start = nodes.add("Sub", nodes.add("Mul", first, m), 1)
    length = nodes.add("Mul", many, m)
    end = nodes.add("Add", start, length)
    tile_starts = nodes.add("Range", *(nodes.add("Squeeze", x) for x in (start, end)), nodes.int64(m))
    rows = nodes.add("Add", nodes.add("Unsqueeze", tile_starts, 1), list(range(m + 2)))
    above = nodes.add("Max", nodes.add("Neg", start), 0)
    below = nodes.add("Max", nodes.add("Sub", nodes.add("Add", end, 2), height), 0)
    rows = nodes.add("Reshape", rows, -1)
    inside = nodes.add("Sub", nodes.add("Shape", rows), below)
    return nodes.add("Slice", rows, above, inside), above, below


def _not_to_be_folded(model: ir.Model, name: str, array: NDArray[Any]) -> ir.Value:
    """Return a constant that ONNX Runtime does not take for one, since a caller could give another: an optional input.

    Otherwise, where the runtime has it expand the weights, it would transform them all at load, which takes 20 s and
    4 GB, or, if it is their shape that it knows, hold them twice until all are expanded.
    """
    value = constant(model, name, array)
    if value not in model.graph.inputs:
        model.graph.inputs.append(value)
    return value


def _both_ways(transform: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the transform of rows and columns at once, of what is flattened."""
    return np.kron(transform, transform).astype(np.float32)
