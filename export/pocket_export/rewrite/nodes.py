"""New nodes, written as calls."""

from typing import Any

import numpy as np
import onnx_ir as ir

from pocket_export.rewrite.initializers import add_initializer

Operand = ir.Value | int | list[int] | None


class Nodes:
    """Nodes to be put into a graph, in the order in which they are written.

    Whole numbers and lists of them stand for int64 tensors `[n]`, each kept once in the graph.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._nodes: list[ir.Node] = []

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, op_type: str, *inputs: Operand, domain: str = "", **attributes: Any) -> ir.Value:  # noqa: ANN401 - what ONNX knows as attributes
        """Write a node and return its output."""
        return self.add_many(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def add_many(
        self,
        op_type: str,
        *inputs: Operand,
        outputs: int,
        domain: str = "",
        **attributes: Any,  # noqa: ANN401 - as above
    ) -> list[ir.Value]:
        """Write a node and return its outputs."""
        self._model.graph.opset_imports.setdefault(domain, 1)
        node = ir.node(op_type, [self._value(x) for x in inputs], attributes, domain=domain, num_outputs=outputs)
        self._nodes.append(node)
        return list(node.outputs)

    def like(self, node: ir.Node, *inputs: Operand) -> ir.Value:
        """Write a node that does to other inputs what `node` does to its own, and return its output."""
        copy = ir.node(node.op_type, [self._value(x) for x in inputs], domain=node.domain)
        copy.attributes.update(node.attributes)
        self._nodes.append(copy)
        return copy.outputs[0]

    def join(self, values: list[ir.Value], axis: int) -> ir.Value:
        """Write a Concat where there is more than one."""
        return self.add("Concat", *values, axis=axis) if len(values) > 1 else values[0]

    def int64(self, numbers: int | list[int]) -> ir.Value:
        """Return whole numbers as a tensor: a number alone has no axes."""
        name = f"int64_{numbers}".translate({ord(c): "_" for c in "[], "})
        return constant(self._model, name, np.array(numbers, np.int64))

    def insert_before(self, node: ir.Node) -> None:
        """Put all that was written into the graph, before `node`."""
        self._model.graph.insert_before(node, self._nodes)
        self._nodes = []

    def insert_after(self, node: ir.Node) -> None:
        """Put all that was written into the graph, after `node`."""
        self._model.graph.insert_after(node, self._nodes)
        self._nodes = []

    def insert_in_front(self) -> None:
        """Put all that was written before the graph's other nodes; see `replace_initializer` for why."""
        self.insert_before(self._model.graph[0])

    def _value(self, operand: Operand) -> ir.Value | None:
        if operand is None or isinstance(operand, ir.Value):
            return operand
        return self.int64([operand] if isinstance(operand, int) else operand)


def constant(model: ir.Model, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """Return the graph's initializer of that name, made from `array` when there is none yet."""
    known = model.graph.initializers.get(name)
    return known if known is not None else add_initializer(model, ir.tensor(array, name=name))


def replace_initializer(model: ir.Model, value: ir.Value, nodes: Nodes, output: ir.Value) -> None:
    """Let `nodes`, the last of which returns `output`, compute what `value` held.

    The nodes go to the front of the list: ONNX Runtime orders nodes by a depth-first walk from the outputs, and only
    nodes at the front are run just before their result is used; elsewhere all of them run first, and all weights
    are in memory twice.
    """
    output.shape, output.dtype = value.shape, ir.DataType.FLOAT
    ir.convenience.replace_all_uses_with(value, output)
    del model.graph.initializers[value.name or ""]
    nodes.insert_in_front()


def only_user(node: ir.Node | None) -> ir.Node | None:
    """Return the node that alone uses a node's output, or None where there is none such."""
    users = [] if node is None else [use.node for use in node.outputs[0].uses()]
    return users[0] if len(users) == 1 else None


def is_row(value: ir.Value | None) -> bool:
    """Tell whether a value is an initializer of one axis, as biases are."""
    return value is not None and value.const_value is not None and len(value.const_value.shape) == 1
