"""Feature maps with their channels last, so that a convolution is one product of gathered rows.

A feature map `[N, C, H, W]` becomes tokens `[N, P, C]` and a table `[H, W]` that says which token each pixel shows. A
convolution gathers the tokens of each pixel's window by that table, `[N, P, 9·C]`, and multiplies them with its weights
`[9·C, O]` (im2col; Chellapilla et al. 2006). The table also expresses strides, borders (a row of zeros behind the last
token), enlargement by nearest neighbours, and cropping, none of which moves a feature. Attention's tokens are a feature
map's tokens as they are.

The product is meant to be made of 8-bit numbers: in float32 its columns take nine times the memory of the features.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pocket_export.rewrite.initializers import derive, layout_of
from pocket_export.rewrite.int8_weights import as_product
from pocket_export.rewrite.nodes import Nodes, constant, only_user
from pocket_export.rewrite.scans import Body, share_out
from pocket_export.rewrite.sizes import fixed_shape, usual_shape

LARGE_BYTES = 16e6
"""Feature maps and windows that take more are never whole: squares are made in shares of the tokens, and windows are
gathered by rows of the picture, so that `bands` may cut them."""


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A feature map whose channels are last."""

    tokens: ir.Value
    """`[N, P, C]`."""
    size: ir.Value
    """Height and width, int64 `[2]`."""
    places: ir.Value | None = None
    """Which token each pixel shows, int64 `[H, W]`; None where they show one each, row by row."""


def channels_last(model: ir.Model, converts: Callable[[str], bool]) -> ir.Model:
    """Keep feature maps with their channels last wherever convolutions, norms and attention allow it.

    Convolutions become products where `converts` says so of their weights' published name; others stay what they are,
    between transpositions, as does all else that is not known here. The result holds at all sizes; norms differ from
    the original by float32's rounding, which counts where a group's mean is a hundred times its deviation.
    """
    _Conversion(model, converts).run()
    return model


class _Conversion:
    def __init__(self, model: ir.Model, converts: Callable[[str], bool]) -> None:
        self._model = model
        self._converts = converts
        self._nodes = Nodes(model)
        self._maps: dict[ir.Value, FeatureMap] = {}
        """By the value `[N, C, H, W]` in whose place they stand."""
        self._views: dict[ir.Value, FeatureMap] = {}
        """By the value from which they are made, which stays."""
        self._flat: dict[ir.Value, FeatureMap] = {}
        """By that value as `[N, C, H·W]`."""
        self._turned: dict[ir.Value, ir.Value] = {}
        """Tokens `[N, P, C]` by the value that is them as `[N, C, P]`."""
        self._made: dict[tuple[object, ...], ir.Value] = {}
        """What is the same for many: tables, padded tokens."""
        self._handlers: dict[str, Callable[[ir.Node], None]] = {
            "Conv": self._convolve,
            "InstanceNormalization": self._normalise,
            "QuickGelu": self._apply,
            "Add": self._combine,
            "Mul": self._combine,
            "Concat": self._join,
            "Resize": self._enlarge,
            "Slice": self._crop,
            "Reshape": self._reshape,
            "Transpose": self._transpose,
        }

    def run(self) -> None:
        graph = self._model.graph
        for node in list(graph):
            handle = self._handlers.get(node.op_type)
            if handle is not None and not any(value in self._maps for value in node.outputs):
                handle(node)
            self._nodes.insert_before(node)
        for node in self._left():
            for i, value in enumerate(node.inputs):
                if value in self._maps:
                    node.replace_input_with(i, self._channels_first(value))
            self._nodes.insert_before(node)
        for i, value in enumerate(graph.outputs):
            if value in self._maps:
                output = self._channels_first(value)
                self._nodes.insert_after(graph[-1])
                output.name, value.name = value.name, None
                graph.outputs[i] = output
        RemoveUnusedNodesPass()(self._model)

    def _left(self) -> list[ir.Node]:
        """Return the nodes that are still needed and want their inputs with channels first."""
        outputs = self._model.graph.outputs
        needed = {*outputs, *(self._maps[value].tokens for value in outputs if value in self._maps)}
        left = []
        for node in reversed(self._model.graph):
            if any(value in needed and value not in self._maps for value in node.outputs):
                left.append(node)
                needed.update(value for value in node.inputs if value is not None)
                needed.update(self._maps[value].tokens for value in node.inputs if value in self._maps)
        return left[::-1]

    # Feature maps from and to channels first.

    def _channels_last(self, value: ir.Value) -> FeatureMap:
        known = self._known(value)
        if known is None:
            flat = self._nodes.add("Reshape", value, [0, _channels(value), -1])
            tokens = self._nodes.add("Transpose", flat, perm=[0, 2, 1])
            known = FeatureMap(tokens, self._nodes.add("Shape", value, start=2))
            self._note(self._views, value, known)
        return known

    def _put(self, value: ir.Value, features: FeatureMap) -> None:
        """Note what stands in a value's place."""
        self._note(self._maps, value, features)

    @staticmethod
    def _note(notes: dict[ir.Value, FeatureMap], value: ir.Value, features: FeatureMap) -> None:
        notes[value] = features
        if value.shape is not None and features.tokens.shape is None:
            # Later rewrites look for batches.
            features.tokens.shape = ir.Shape([value.shape[0], None, value.shape[1]])
            features.tokens.dtype = ir.DataType.FLOAT

    def _known(self, value: ir.Value | None) -> FeatureMap | None:
        return None if value is None else self._maps.get(value, self._views.get(value))

    def _channels_first(self, value: ir.Value) -> ir.Value:
        key = ("channels first", value)
        if key not in self._made:
            plain = self._plain(self._maps[value])
            turned = self._nodes.add("Transpose", plain.tokens, perm=[0, 2, 1])
            shape = self._nodes.add("Concat", [0, _channels(value)], plain.size, axis=0)
            self._made[key] = self._nodes.add("Reshape", turned, shape)
            self._made[key].shape, self._made[key].type = value.shape, value.type
        return self._made[key]

    def _plain(self, features: FeatureMap) -> FeatureMap:
        """Return a feature map whose pixels show one token each."""
        if features.places is None:
            return features
        rows = self._nodes.add("Reshape", features.places, -1)
        return FeatureMap(self._nodes.add("Gather", features.tokens, rows, axis=1), features.size)

    def _places(self, features: FeatureMap) -> ir.Value:
        if features.places is not None:
            return features.places
        key = ("places", features.size)
        if key not in self._made:
            count = self._nodes.add("ReduceProd", features.size, keepdims=0)
            rows = self._nodes.add("Range", self._nodes.int64(0), count, self._nodes.int64(1))
            self._made[key] = self._nodes.add("Reshape", rows, features.size)
        return self._made[key]

    # What becomes of each operator. A node for whose output a handler puts nothing stays as it is.

    def _convolve(self, node: ir.Node) -> None:
        weights = node.inputs[1]
        layout = None if weights is None else layout_of(weights)
        if weights is None or layout is None or not self._converts(layout.name):
            return
        kernel = fixed_shape(weights)[2:]
        strides = [*_numbers(node, "strides", [1, 1])]
        pads = [*_numbers(node, "pads", [0, 0, 0, 0])]
        plain = {"group": 1, "dilations": (1, 1), "auto_pad": "NOTSET"}
        given = {name: a.value for name, a in node.attributes.items() if name in plain}
        if plain | given != plain or kernel not in ([1, 1], [3, 3]):
            return
        features = self._channels_last(_given(node.inputs[0]))
        products = derive(self._model, weights, *as_product(fixed_shape(weights)))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if kernel == [1, 1] and strides == [1, 1] and not any(pads):
            out = replace(features, tokens=self._multiply(features.tokens, products, bias))
        else:
            windows = self._windows(features, kernel, strides, pads)
            padded = self._with_a_row_of_zeros(features.tokens) if any(pads) else features.tokens
            batch, _, height, width = usual_shape(self._model, node.outputs[0])
            large = batch * height * width * fixed_shape(products)[0] > LARGE_BYTES
            rows = self._rows_of_windows(windows) if large else self._once("Reshape", windows, -1)
            gathered = self._nodes.add("Gather", padded, rows, axis=1)
            taken = self._nodes.add("Reshape", gathered, [0, -1, fixed_shape(products)[0]])
            tokens = self._multiply(taken, products, bias)
            size = features.size
            if strides != [1, 1] or [pads[0] + pads[2], pads[1] + pads[3]] != [k - 1 for k in kernel]:
                size = self._once("Shape", windows, start=0, end=2)
            elif features.places is not None:
                size = self._once("Shape", features.places)
            out = FeatureMap(tokens, size)
        self._put(node.outputs[0], out)

    def _multiply(self, tokens: ir.Value, weights: ir.Value, bias: ir.Value | None) -> ir.Value:
        product = self._nodes.add("MatMul", tokens, weights)
        return product if bias is None else self._nodes.add("Add", product, bias)

    def _windows(self, features: FeatureMap, kernel: list[int], strides: list[int], pads: list[int]) -> ir.Value:
        """Return which tokens each output pixel is made of: `[H, W, kernel height · kernel width]`."""
        places = self._places(features)
        key = ("windows", places, *kernel, *strides, *pads)
        if key not in self._made:
            if any(pads):
                zeros = self._nodes.add("Shape", features.tokens, start=1, end=2)
                places = self._nodes.add("Pad", places, self._nodes.int64(pads), self._nodes.add("Squeeze", zeros))
            taken = []
            for y in range(kernel[0]):
                for x in range(kernel[1]):
                    ends = [end - kernel[i] + 1 or 2**31 for i, end in enumerate((y, x))]
                    part = self._nodes.add("Slice", places, [y, x], ends, [0, 1], strides)
                    taken.append(self._nodes.add("Unsqueeze", part, 2))
            self._made[key] = self._nodes.add("Concat", *taken, axis=2)
        return self._made[key]

    def _rows_of_windows(self, windows: ir.Value) -> ir.Value:
        """Return the tokens of all windows, by rows of the picture: `[H, W · window]`."""
        rows = self._once("Reshape", windows, [0, -1])
        rows.shape, rows.dtype = ir.Shape([None, None]), ir.DataType.INT64
        return rows

    def _with_a_row_of_zeros(self, tokens: ir.Value) -> ir.Value:
        return self._once("Pad", tokens, self._nodes.int64([0, 0, 0, 0, 1, 0]))

    def _normalise(self, node: ir.Node) -> None:
        """Convert the tracer's group normalisation: InstanceNormalization of groups, Mul and Add of channels."""
        grouped, restored = _given(node.inputs[0]).producer(), only_user(node)
        scaled = only_user(restored)
        shifted = only_user(scaled)
        chain = [n.op_type if n else "" for n in (grouped, restored, scaled, shifted)]
        if chain != ["Reshape", "Reshape", "Mul", "Add"]:
            return
        assert grouped is not None and scaled is not None and shifted is not None  # noqa: S101 - just looked
        scale, weight, bias = node.inputs[1], scaled.inputs[1], shifted.inputs[1]
        if not all(value is not None and value.is_initializer() for value in (*node.inputs[1:], weight, bias)):
            return
        assert scale is not None and weight is not None and bias is not None  # noqa: S101 - just looked
        picture = _given(grouped.inputs[0])
        groups, channels = fixed_shape(scale)[0], fixed_shape(weight)[0]
        features = self._plain(self._channels_last(picture))
        large = 4 * math.prod(usual_shape(self._model, picture)) > LARGE_BYTES
        mean, variance = self._moments(features, groups, channels, large=large)
        nodes = self._nodes
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        least = constant(self._model, f"epsilon_{epsilon:g}", np.array(epsilon, np.float32))
        deviation = nodes.add("Sqrt", nodes.add("Add", variance, least))
        by_group = [nodes.add("Reshape", value, [groups, channels // groups]) for value in (weight, bias)]
        gain = nodes.add("Div", by_group[0], deviation)
        offset = nodes.add("Sub", by_group[1], nodes.add("Mul", gain, mean))
        gain, offset = (nodes.add("Reshape", value, [-1, 1, channels]) for value in (gain, offset))
        for value in (gain, offset):  # `bands` looks for rows
            value.shape, value.dtype = ir.Shape([None, 1, channels]), ir.DataType.FLOAT
        tokens = nodes.add("Add", nodes.add("Mul", features.tokens, gain), offset)
        self._put(shifted.outputs[0], replace(features, tokens=tokens))
        assert restored is not None  # noqa: S101 - just looked
        for part in (node, restored, scaled):
            self._maps[part.outputs[0]] = self._maps[shifted.outputs[0]]  # nobody else looks at these

    def _moments(self, features: FeatureMap, groups: int, channels: int, *, large: bool) -> tuple[ir.Value, ir.Value]:
        """Return the mean and variance of each group, `[N, groups, 1]`; of a large map without having its squares."""
        nodes = self._nodes
        means = []
        for by_row in self._means_in_shares(features) if large else self._means_by_row(features, channels):
            by_channel = nodes.add("ReduceMean", by_row, 1, keepdims=0)
            by_group = nodes.add("Reshape", by_channel, [-1, groups, channels // groups])
            means.append(nodes.add("ReduceMean", by_group, 2, keepdims=1))
        variance = nodes.add("Sub", means[1], nodes.add("Mul", means[0], means[0]))
        zero = constant(self._model, "float_0", np.array(0, np.float32))
        return means[0], nodes.add("Max", variance, zero)  # of a flat picture, the sums' rounding may leave less

    def _means_by_row(self, features: FeatureMap, channels: int) -> list[ir.Value]:
        """Return the means of the numbers and of their squares over each row of pixels, `[N, H, C]`.

        ONNX Runtime sums over one axis of many parts with all threads, of few parts with one.
        """
        nodes = self._nodes
        height, width = (self._once("Slice", features.size, i, i + 1) for i in (0, 1))
        rows = nodes.add("Concat", [-1], width, [channels], axis=0)
        picture = nodes.add("Concat", [-1], height, [channels], axis=0)
        squares = nodes.add("Mul", features.tokens, features.tokens)
        means = [
            nodes.add("ReduceMean", nodes.add("Reshape", x, rows), 1, keepdims=0) for x in (features.tokens, squares)
        ]
        return [nodes.add("Reshape", x, picture) for x in means]

    def _means_in_shares(self, features: FeatureMap) -> list[ir.Value]:
        """Return the means of the numbers and of their squares over shares of the tokens, `[N, shares, C]`."""
        nodes = self._nodes
        shares = share_out(nodes, features.tokens)
        body = Body(features.tokens, "moments", [shares.tokens])
        (tokens,) = body.inputs
        first = nodes.int64([0])
        means = [body.add("ReduceMean", x, first, keepdims=0) for x in (tokens, body.add("Mul", tokens, tokens))]
        scanned = nodes.add_many("Scan", shares.tokens, outputs=2, body=body.graph(*means), num_scan_inputs=1)
        by_sample = nodes.add("Concat", shares.batch, shares.count, [-1], axis=0)
        return [nodes.add("Reshape", x, by_sample) for x in scanned]

    def _apply(self, node: ir.Node) -> None:
        """Convert a function of each number alone."""
        features = self._known(node.inputs[0])
        if features is None:
            return
        tokens = self._nodes.like(node, features.tokens)
        self._put(node.outputs[0], replace(features, tokens=tokens))

    def _combine(self, node: ir.Node) -> None:
        """Convert a sum or product of two feature maps, or of one and a number for each channel."""
        known = [self._known(value) for value in node.inputs]
        features = next((one for one in known if one is not None), None)
        if features is None:
            return
        if any(one is not None and one.places is not None for one in known):
            known = [None if one is None else self._plain(one) for one in known]
            features = next(one for one in known if one is not None)
        operands = []
        for value, one in zip(node.inputs, known, strict=True):
            operand = self._for_each_channel(_given(value)) if one is None else one.tokens
            if operand is None:
                return
            operands.append(operand)
        self._put(node.outputs[0], replace(features, tokens=self._nodes.like(node, *operands)))

    def _for_each_channel(self, value: ir.Value) -> ir.Value | None:
        """Return `[C, 1, 1]` as `[C]`, `[N, C, 1, 1]` as `[N, 1, C]`; None for what is neither."""
        if value.is_initializer():
            shape = fixed_shape(value)
            return self._nodes.add("Reshape", value, shape[:1]) if shape[1:] == [1, 1] else None
        if len(value.shape or ()) == 4 and list(value.shape or ())[2:] == [1, 1]:
            return self._nodes.add("Reshape", value, [-1, 1, _channels(value)])
        return None

    def _join(self, node: ir.Node) -> None:
        if not any(self._known(value) for value in node.inputs) or node.attributes.get_int("axis", 0) != 1:
            return
        parts = [self._plain(self._channels_last(_given(value))) for value in node.inputs]
        tokens = self._nodes.add("Concat", *(part.tokens for part in parts), axis=2)
        self._put(node.outputs[0], replace(parts[0], tokens=tokens))

    def _enlarge(self, node: ir.Node) -> None:
        """Convert an enlargement to twice the size, by showing each token four times."""
        scales = node.inputs[2] if len(node.inputs) > 2 else None
        features = self._known(node.inputs[0])
        if features is None or scales is None or scales.const_value is None:
            return
        ways = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        how = {name: node.attributes.get_string(name, "") for name in ways}
        if how != ways or list(scales.const_value.numpy()) != [1, 1, 2, 2]:
            return
        places = self._places(features)
        key = ("enlarged", places)
        if key not in self._made:
            nodes = self._nodes
            size = nodes.add("Shape", places)
            pixels = nodes.add(
                "Reshape",
                places,
                nodes.add("Concat", nodes.add("Slice", size, 0, 1), [1], nodes.add("Slice", size, 1, 2), [1], axis=0),
            )
            four = nodes.add("Expand", pixels, [1, 2, 1, 2])
            self._made[key] = nodes.add("Reshape", four, nodes.add("Mul", size, 2))
        large = self._made[key]
        self._put(node.outputs[0], FeatureMap(features.tokens, self._once("Shape", large), large))

    def _crop(self, node: ir.Node) -> None:
        axes = node.inputs[3].const_value if len(node.inputs) > 3 and node.inputs[3] is not None else None
        features = self._known(node.inputs[0])
        if features is None or axes is None or min(axes.numpy()) < 2:
            return
        inputs = [self._places(features), *node.inputs[1:3], [int(axis) - 2 for axis in axes.numpy()], *node.inputs[4:]]
        places = self._once("Slice", *inputs)
        self._put(node.outputs[0], FeatureMap(features.tokens, self._once("Shape", places), places))

    def _reshape(self, node: ir.Node) -> None:
        """Follow `[N, C, H, W]` to `[N, C, H·W]`, and `[N, C, P]` of tokens to `[N, C, H, W]`."""
        value, out = _given(node.inputs[0]), node.outputs[0]
        features = self._known(value)
        if features is not None and len(out.shape or ()) == 3 and _channels(value) == out.shape[1]:  # type: ignore[index] # it has three
            self._flat[out] = self._plain(features)
            return
        if (
            value in self._turned
            and len(out.shape or ()) == 4
            and value.shape is not None
            and value.shape[1] == _channels(out)
        ):
            size = self._once("Slice", _given(node.inputs[1]), 2, 4)
            self._put(out, FeatureMap(self._turned[value], size))

    def _transpose(self, node: ir.Node) -> None:
        value, out = _given(node.inputs[0]), node.outputs[0]
        if _numbers(node, "perm", []) != [0, 2, 1]:
            return
        if value in self._flat:
            ir.convenience.replace_all_uses_with(out, self._flat[value].tokens)
        else:
            self._turned[out] = value

    def _once(self, op_type: str, *inputs: ir.Value | int | list[int] | None, **attributes: int) -> ir.Value:
        """Write a node, or return the output of one that is the same."""
        key = (op_type, *(tuple(x) if isinstance(x, list) else x for x in inputs), *attributes.items())
        if key not in self._made:
            self._made[key] = self._nodes.add(op_type, *inputs, domain="", **attributes)
        return self._made[key]


def _channels(value: ir.Value) -> int:
    assert value.shape is not None  # noqa: S101 - the tracer gives every feature map one
    return int(value.shape[1])  # type: ignore[arg-type] # channels are fixed


def _given(value: ir.Value | None) -> ir.Value:
    assert value is not None  # noqa: S101 - the operator wants it
    return value


def _numbers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    attribute = node.attributes.get(name)
    return default if attribute is None else list(attribute.as_ints())
