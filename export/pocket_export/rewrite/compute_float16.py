"""A graph that computes in float16, but for the operators that float16 would break: islands of float32.

Float16's largest number is 65,504, and its products are summed in float32; what overflows is what an operator writes.
The peaks that decide are measured on the float32 graph, see `pocket_export.ranges`.
"""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from pocket_export.rewrite.nodes import Nodes

LIMIT = 30_000.0
"""The largest magnitude that is left to float16: less than half of 65,504, since other prompts and sizes reach further
than those that were measured."""
FLOAT32_OPERANDS: Mapping[str, tuple[int, ...]] = {"GroupNorm": (1, 2), "Resize": (1, 2), "SkipGroupNorm": (1, 2)}
"""Inputs that operators want in float32 whatever they compute in, by their positions."""
_ANGLES = ("Sin", "Cos")
"""Angles reach a thousand, where float16's numbers lie half a radian apart."""
_COMPARES = ("GreaterOrEqual",)


def float32_operators(model: ir.Model, peaks: Mapping[str, float]) -> list[ir.Node]:
    """Return the operators of a float32 graph that are to stay in float32, in the graph's order.

    They are those that read or write a value whose peak is above `LIMIT`, and all that lead to a sine or a cosine.

    Args:
        model: the graph.
        peaks: the largest magnitudes of `measurable` values, by their names.

    """
    angles = leading_to_angles(model)
    return [
        node
        for node in operators(model)
        if node in angles or any(_peak(value, peaks) > LIMIT for value in (*node.inputs, *results(node)))
    ]


def compute_float16(model: ir.Model, in_float32: Collection[ir.Node]) -> ir.Model:
    """Let all operators of a float32 graph but `in_float32` compute in float16, with Casts between the two.

    Inputs, outputs and small weights of the graph stay float32. A weight that `store_float16` has stored in float16 is
    taken as it is stored. ONNX Runtime folds the Casts of the small ones when it loads the graph.
    """
    kept = set(in_float32)
    found = list(operators(model))
    precision = _Precision(model, {value for node in found if node not in kept for value in results(node)})
    for node in found:
        wants_float32 = range(len(node.inputs)) if node in kept else FLOAT32_OPERANDS.get(node.op_type, ())
        for i, value in enumerate(node.inputs):
            if value is not None and is_float32(value):
                node.replace_input_with(i, precision.full(value) if i in wants_float32 else precision.half(value))
    precision.settle()
    return model


def operators(model: ir.Model) -> Iterator[ir.Node]:
    """Yield the nodes that make float32 numbers, other than the Casts of stored weights."""
    for node in model.graph:
        if any(map(is_float32, node.outputs)) and not _restores_weight(node):
            yield node


def results(node: ir.Node) -> list[ir.Value]:
    """Return a node's outputs without those that are left out, which have no name."""
    return [value for value in node.outputs if value.name]


def measurable(model: ir.Model) -> Iterator[ir.Value]:
    """Yield the float32 values whose magnitudes are not known before the graph runs: all but weights and constants."""
    yield from (value for value in model.graph.inputs if is_float32(value))
    for node in operators(model):
        yield from results(node)


def is_float32(value: ir.Value | None) -> bool:
    """Tell whether a value of a graph holds float32 numbers; rewrites leave values without types."""
    return value is not None and element_type(value) == ir.DataType.FLOAT


def element_type(value: ir.Value) -> ir.DataType:
    """Return what numbers a value holds: said, or concluded from the operator that makes it."""
    dtype = value.dtype
    if dtype is None:
        dtype = value.dtype = _concluded_type(value)
    return dtype


def _concluded_type(value: ir.Value) -> ir.DataType:
    node = value.producer()
    if node is None:
        raise AssertionError(f"{value.name} has no type")
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int())
    if node.op_type == "Shape":
        return ir.DataType.INT64
    if node.op_type in _COMPARES:
        return ir.DataType.BOOL
    source = node.inputs[1 if node.op_type == "Where" else 0]
    if source is None:
        raise AssertionError(f"{value.name}: nothing tells its type")
    return element_type(source)


def _peak(value: ir.Value | None, peaks: Mapping[str, float]) -> float:
    """Return the largest magnitude of a value; of a weight that is stored in float16, none is too large."""
    if value is None or not value.name or not is_float32(value):
        return 0.0
    producer, name = value.producer(), value.name
    if name in peaks:
        return peaks[name]
    if producer is not None and _restores_weight(producer):
        return 0.0
    assert value.const_value is not None, name  # noqa: S101 - all else was measured
    return float(np.abs(value.const_value.numpy()).max())


def _restores_weight(node: ir.Node) -> bool:
    """Tell whether a node turns a weight that is stored in float16 into float32."""
    stored = node.inputs[0] if node.op_type == "Cast" else None
    return stored is not None and stored.is_initializer() and element_type(stored) == ir.DataType.FLOAT16


def leading_to_angles(model: ir.Model) -> set[ir.Node]:
    """Return the sines and cosines of a graph and all that leads to them: these are of the timestep."""
    found: set[ir.Node] = set()
    waiting = [node for node in model.graph if node.op_type in _ANGLES]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [made for value in node.inputs if value is not None and (made := value.producer()) is not None]
    return found


class _Precision:
    """The values of a graph in either precision, each made once."""

    def __init__(self, model: ir.Model, halves: Collection[ir.Value]) -> None:
        """`halves` are those that operators will write in float16."""
        self._model = model
        self._halves = halves
        self._cast: dict[ir.Value, ir.Value] = {}

    def half(self, value: ir.Value) -> ir.Value:
        """Return a float32 value in float16."""
        if value in self._halves:
            return value
        node = value.producer()
        if node is not None and _restores_weight(node):
            stored = node.inputs[0]
            assert stored is not None  # noqa: S101 - it restores that
            return stored
        return self._other(value, ir.DataType.FLOAT16)

    def full(self, value: ir.Value) -> ir.Value:
        """Return a value in float32."""
        return self._other(value, ir.DataType.FLOAT) if value in self._halves else value

    def settle(self) -> None:
        """Give values their new types, the graph's outputs float32, and drop the Casts that nothing takes any more."""
        graph = self._model.graph
        for i, output in enumerate(graph.outputs):
            if output in self._halves:
                full = self.full(output)
                full.name, output.name, full.shape = output.name, f"{output.name}.fp16", output.shape
                graph.outputs[i] = full
        for value in self._halves:
            value.dtype = ir.DataType.FLOAT16
        graph.remove([node for node in graph if _restores_weight(node) and not node.outputs[0].uses()], safe=True)

    def _other(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if value not in self._cast:
            nodes = Nodes(self._model)
            other = self._cast[value] = nodes.add("Cast", value, to=dtype)
            other.shape, other.dtype = value.shape, dtype
            producer = value.producer()
            if producer is None:
                nodes.insert_in_front()
            else:
                nodes.insert_after(producer)
        return self._cast[value]
