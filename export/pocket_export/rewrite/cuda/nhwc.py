"""Feature maps with their channels last, `[N, H, W, C]`, as tensor cores and the kernels of fused norms want them.

Convolutions become NhwcConv, whose weights are `[O, height, width, I]`, or products where they are 1×1; attention's
tokens `[N, H·W, C]` are a feature map's numbers as they lie. Unlike in `channels_last`, windows are never gathered.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from pocket_diffusion.layers import Transpose
from pocket_export.rewrite.cuda.kernels import DOMAIN
from pocket_export.rewrite.initializers import derive, layout_of
from pocket_export.rewrite.int8_weights import as_product
from pocket_export.rewrite.nodes import Nodes, constant
from pocket_export.rewrite.sizes import fixed_shape

_Thing = TypeVar("_Thing")

_LAST, _FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Permutations from channels first to channels last, and back."""


def nhwc(model: ir.Model) -> ir.Model:
    """Keep feature maps with their channels last wherever convolutions, fused norms and attention allow it.

    What is not known here stays as it is, between transpositions; so do norms that `fuse_group_norm` has not fused.
    """
    _Conversion(model).run()
    return model


class _Conversion:
    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._nodes = Nodes(model)
        self._maps: dict[ir.Value, ir.Value] = {}
        """What stands in a value's place, by the value `[N, C, H, W]`."""
        self._views: dict[ir.Value, ir.Value] = {}
        """The same numbers with channels last, by a value that stays."""
        self._turned_back: dict[ir.Value, ir.Value] = {}
        self._flat: dict[ir.Value, ir.Value] = {}
        """Feature maps `[N, H, W, C]` by the value that is them as `[N, C, H·W]`."""
        self._tokens: dict[ir.Value, ir.Value] = {}
        """Tokens `[N, P, C]` by the value that is them as `[N, C, P]`."""
        self._products: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        """Product and bias by their sum."""
        self._handlers: dict[str, Callable[[ir.Node], ir.Value | None]] = {
            "Conv": self._convolve,
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
            if node.op_type in ("GroupNorm", "SkipGroupNorm"):
                self._normalise(node)
            elif (handle := self._handlers.get(node.op_type)) and (made := handle(node)) is not None:
                self._put(node.outputs[0], made)
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
        needed = {self._maps.get(value, value) for value in outputs}
        left = []
        for node in reversed(self._model.graph):
            if any(value in needed for value in node.outputs):
                left.append(node)
                needed.update(self._maps.get(value, value) for value in node.inputs if value is not None)
        return left[::-1]

    # Feature maps from and to channels first.

    def _known(self, value: ir.Value | None) -> ir.Value | None:
        return None if value is None else self._maps.get(value, self._views.get(value))

    def _channels_last(self, value: ir.Value) -> ir.Value:
        known = self._known(value)
        if known is None:
            if _sizes(value)[2:] == [1, 1]:  # a number a channel lies in memory as it did
                known = self._nodes.add("Reshape", value, [-1, 1, 1, _channels(value)])
            else:
                known = self._nodes.add("Transpose", value, perm=_LAST)
            self._views[value] = _shaped_last(known, value)
        return known

    def _channels_first(self, value: ir.Value) -> ir.Value:
        if value not in self._turned_back:
            back = self._nodes.add("Transpose", self._maps[value], perm=_FIRST)
            back.shape, back.type = value.shape, value.type
            self._turned_back[value] = back
        return self._turned_back[value]

    def _put(self, value: ir.Value, features: ir.Value) -> None:
        """Note what stands in a value's place."""
        self._maps[value] = features if value.shape is None else _shaped_last(features, value)

    # What becomes of each operator. A node for which a handler returns nothing stays as it is.

    def _convolve(self, node: ir.Node) -> ir.Value | None:
        weights = node.inputs[1]
        if weights is None or layout_of(weights) is None or node.attributes.get_int("group", 1) != 1:
            return None
        features = self._channels_last(_given(node.inputs[0]))
        bias = list(node.inputs[2:])
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        attributes["kernel_shape"] = fixed_shape(weights)[
            2:
        ]  # which else would be looked for where it is in `[O, I, …]`
        top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
        if fixed_shape(weights)[2:] == [1, 1] and not (top or left or bottom or right) and self._keeps_size(node):
            product = self._nodes.add(
                "MatMul", features, derive(self._model, weights, *as_product(fixed_shape(weights)))
            )
            _shaped_last(product, node.outputs[0])
            if not bias:
                return product
            out = self._nodes.add("Add", product, bias[0])
            self._products[out] = product, _given(bias[0])
            return out
        if (top, left) != (bottom, right):  # cuDNN has but symmetric padding
            features = self._nodes.add("Pad", features, self._nodes.int64([0, top, left, 0, 0, bottom, right, 0]))
            attributes["pads"] = [0, 0, 0, 0]
        kernels = derive(self._model, weights, Transpose(axes=(0, 2, 3, 1)))
        return self._nodes.add("NhwcConv", features, kernels, *bias, domain=DOMAIN, **attributes)

    @staticmethod
    def _keeps_size(node: ir.Node) -> bool:
        strides = node.attributes.get("strides")
        return strides is None or list(strides.as_ints()) == [1, 1]

    def _normalise(self, node: ir.Node) -> None:
        x, gamma, beta, *skips = map(_given, node.inputs)
        operands = [self._channels_last(one) for one in (x, *skips)]
        bias: list[ir.Value] = []
        for i, one in enumerate(operands):
            if skips and one in self._products and not self._is_by_channel(operands[1 - i]):
                product, added = self._products[one]
                operands, bias = [product, operands[1 - i]], [added]
                break
        outputs = self._nodes.add_many(
            node.op_type,
            operands[0],
            gamma,
            beta,
            *operands[1:],
            *bias,
            outputs=len(node.outputs),
            domain=DOMAIN,
            **{name: attribute.value for name, attribute in node.attributes.items()} | {"channels_last": 1},
        )
        for value, made in zip(node.outputs, outputs, strict=True):
            self._put(value, made)

    @staticmethod
    def _is_by_channel(features: ir.Value) -> bool:
        return _sizes(features)[1:3] == [1, 1]

    def _apply(self, node: ir.Node) -> ir.Value | None:
        """Convert a function of each number alone."""
        features = self._known(node.inputs[0])
        return None if features is None else self._nodes.like(node, features)

    def _combine(self, node: ir.Node) -> ir.Value | None:
        """Convert a sum or product of two feature maps, or of one and a number a channel."""
        operands = [_given(value) for value in node.inputs]
        if not any(value in self._maps for value in operands) or any(len(x.shape or ()) != 4 for x in operands):
            return None
        return self._nodes.like(node, *map(self._channels_last, operands))

    def _join(self, node: ir.Node) -> ir.Value | None:
        if not any(value in self._maps for value in node.inputs) or node.attributes.get_int("axis", 0) != 1:
            return None
        return self._nodes.add("Concat", *(self._channels_last(_given(value)) for value in node.inputs), axis=3)

    def _enlarge(self, node: ir.Node) -> ir.Value | None:
        """Convert an enlargement by nearest neighbours, which is all that the kernel has for channels last."""
        features = self._known(node.inputs[0])
        scales = node.inputs[2] if len(node.inputs) == 3 else None
        if features is None or scales is None or scales.const_value is None:
            return None
        if node.attributes.get_string("mode", "nearest") != "nearest":
            return None
        factors = scales.const_value.numpy()[_LAST]
        name = "scales_" + "_".join(f"{factor:g}" for factor in factors)
        return self._nodes.like(node, features, None, constant(self._model, name, factors.astype(np.float32)))

    def _crop(self, node: ir.Node) -> ir.Value | None:
        features = self._known(node.inputs[0])
        axes = node.inputs[3].const_value if len(node.inputs) > 3 and node.inputs[3] is not None else None
        if features is None or axes is None:
            return None
        turned = [_LAST.index(axis % 4) for axis in axes.numpy().tolist()]
        return self._nodes.like(node, features, *node.inputs[1:3], turned, *node.inputs[4:])

    def _reshape(self, node: ir.Node) -> ir.Value | None:
        """Follow `[N, C, H, W]` to `[N, C, H·W]`, and `[N, C, P]` of tokens to `[N, C, H, W]`."""
        value, out = _given(node.inputs[0]), node.outputs[0]
        if (value not in self._maps and value not in self._tokens) or _sizes(value)[1] != _sizes(out)[1]:
            return None
        if value in self._maps and len(_sizes(out)) == 3:
            self._flat[out] = self._maps[value]
        elif value in self._tokens and len(_sizes(out)) == 4:
            size = self._nodes.add("Slice", _given(node.inputs[1]), 2, 4)
            shape = self._nodes.add("Concat", [0], size, [_channels(out)], axis=0)
            return self._nodes.add("Reshape", self._tokens[value], shape)
        return None

    def _transpose(self, node: ir.Node) -> None:
        value, out = _given(node.inputs[0]), node.outputs[0]
        perm = node.attributes.get("perm")
        if perm is None or list(perm.as_ints()) != [0, 2, 1]:
            return
        if value not in self._flat:
            self._tokens[out] = value
            return
        tokens = self._nodes.add("Reshape", self._flat[value], [0, -1, _channels(value)])
        tokens.shape, tokens.type = out.shape, out.type
        ir.convenience.replace_all_uses_with(out, tokens, replace_graph_outputs=True)


def _shaped_last(features: ir.Value, like: ir.Value) -> ir.Value:
    """Give a feature map the shape that another has with channels first: later rewrites look for batches."""
    features.shape, features.type = ir.Shape([_sizes(like)[axis] for axis in _LAST]), like.type
    return features


def _sizes(value: ir.Value) -> list[int | ir.SymbolicDim]:
    return list(_given(value.shape))


def _channels(value: ir.Value) -> int:
    return int(_sizes(value)[1])  # type: ignore[arg-type] # channels are fixed


def _given(thing: _Thing | None) -> _Thing:
    assert thing is not None  # noqa: S101 - the operator wants it, and the tracer gives every value a shape
    return thing
