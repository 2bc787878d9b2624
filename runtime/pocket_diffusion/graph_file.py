"""Where an ONNX graph keeps its weights: a reader of just that much of the format.

ONNX Runtime before 1.24 follows whatever path a graph names, so a stranger's bundle could have it map any file.
The graph is therefore read before ONNX Runtime sees it.
"""

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_EXTERNAL_DATA = 13
_KEY, _VALUE = 1, 2

# Messages of onnx.proto that lead to a TensorProto: field numbers and what is in them.
_CHILDREN: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}


def weight_files(graph: bytes) -> set[str]:
    """Return the paths, as the graph spells them, of the files that tensors are kept in.

    Raises:
        ValueError: this is no graph.

    """
    found = set()
    pending = [("Model", memoryview(graph))]
    while pending:
        kind, message = pending.pop()
        for field, value in _fields(message):
            if kind == "Tensor" and field == _EXTERNAL_DATA:
                entry = [(number, bytes(text)) for number, text in _fields(value)]
                if (_KEY, b"location") in entry:
                    found |= {text.decode() for number, text in entry if number == _VALUE}
            elif field in _CHILDREN.get(kind, ()):
                pending.append((_CHILDREN[kind][field], value))
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the fields of a message that hold bytes: texts and other messages."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, position = _varint(message, position)
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        elif wire_type == _BYTES:
            size, position = _varint(message, position)
            yield tag >> 3, message[position : position + size]
            position += size
        else:
            raise ValueError("not an ONNX graph")
    if position != len(message):
        raise ValueError("ends in the middle")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    number = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
    raise ValueError("ends in the middle")
