"""What a graph asks of ONNX Runtime, found before that loads it: operators, and the files in which its weights lie.

A graph comes from whoever made the bundle, and ONNX Runtime would run any. One that loops for ever is refused here, as
is one that reads a file which nobody has checked. A graph of these operators ends, but may take as much memory and time
as its author likes.

Only the messages of the ONNX format that lead to these are read (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto),
in protobuf's encoding (https://protobuf.dev/programming-guides/encoding).
"""

import posixpath
from collections.abc import Collection, Iterator

LARGEST_GRAPH = 2**24
"""Bytes. Stable Diffusion 1.5's largest takes a twentieth of it."""

OPERATORS = frozenset(
    {
        *("Abs", "Add", "BitwiseAnd", "Cast", "Concat", "Conv", "ConvTranspose", "Cos", "DequantizeLinear", "Div"),
        *("DynamicQuantizeLinear", "Expand", "Gather", "Gelu", "Gemm", "GreaterOrEqual", "InstanceNormalization"),
        *("LayerNormalization", "MatMul", "Max", "Min", "Mul", "Neg", "Pad", "QuantizeLinear", "Range", "Reciprocal"),
        *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "Relu", "Reshape", "Resize", "Round", "Scan", "Shape"),
        *("Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze"),
        *("Where",),
        *("com.microsoft:MatMulIntegerToFloat", "com.microsoft:MultiHeadAttention", "com.microsoft:QLinearAdd"),
        *("com.microsoft:QLinearConv", "com.microsoft:QuickGelu"),
        *("com.microsoft:BiasSplitGelu", "com.microsoft:GroupNorm", "com.microsoft:NhwcConv"),  # on CUDA alone
        *("com.microsoft:SkipGroupNorm", "com.microsoft:SkipLayerNormalization"),
    }
)
"""All that the exporter writes, and Softmax, for attention that benchmarks leave unfused.

Of those that run a graph of their own, Scan alone: it ends with its input."""

# By message: its fields that are messages to be read; those that no exported graph has; the texts that are asked for.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {13: "external data"},
    "external data": {},
}
_REFUSED = {"model": (25,), "graph": (15,), "attribute": (22, 23)}
_OPERATOR, _DOMAIN = 4, 7
_KEY, _VALUE = 1, 2
_TEXTS = {"node": (_OPERATOR, _DOMAIN), "external data": (_KEY, _VALUE)}
_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5  # protobuf's wire types
_NO_GRAPH = "is no ONNX graph"
_SHOWN = 100  # how much of a name from the file an error shows


def graph_fault(content: bytes, name: str, files: Collection[str]) -> str | None:
    """Return why a graph is not to be loaded, or None.

    Args:
        content: of the graph's file.
        name: of that file in the bundle.
        files: the files of the bundle in which its weights may lie.

    """
    try:
        _check("model", content, 0, len(content), posixpath.dirname(name), files)
    except (_Fault, IndexError, RecursionError) as error:
        why = error if isinstance(error, _Fault) else _NO_GRAPH
        return f"{name} {why}"
    return None


class _Fault(Exception):  # noqa: N818 - what it says is the end of a sentence
    """What is wrong with a graph."""


def _check(message: str, content: bytes, start: int, end: int, folder: str, files: Collection[str]) -> None:
    """Raise a `_Fault` for what is wrong with a message that lies at `start` to `end` (not counted)."""
    messages, refused, named = _MESSAGES[message], _REFUSED.get(message, ()), _TEXTS.get(message, ())
    texts = {}  # as in protobuf, the last of a field counts
    for field, begin, behind in _counted_fields(content, start, end):
        if field in messages:
            _check(messages[field], content, begin, behind, folder, files)
        elif field in named:
            texts[field] = content[begin:behind].decode("utf-8", "backslashreplace")
        elif field in refused:
            raise _Fault("has functions or sparse weights, which no exported graph has")
    if message == "node":
        domain, operator = texts.get(_DOMAIN, ""), texts.get(_OPERATOR, "")
        called = f"{domain}:{operator}" if domain else operator
        if called not in OPERATORS:
            raise _Fault(f"uses the operator {called[:_SHOWN]!a}, which no exported graph has")
    elif texts.get(_KEY) == "location":  # of external data
        file = posixpath.join(folder, texts.get(_VALUE, ""))
        if file not in files:
            raise _Fault(f"reads {file[:_SHOWN]!a}, which is none of its files in the manifest")


def _counted_fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number of each field that is counted in bytes, where its content begins, and what lies behind it."""
    at = start
    while at < end:
        tag, at = (content[at], at + 1) if content[at] < 128 else _varint(content, at)
        wire_type = tag & 7
        if wire_type == _COUNTED:
            size, begin = (content[at], at + 1) if content[at] < 128 else _varint(content, at)
            at = begin + size
            if at <= end:
                yield tag >> 3, begin, at
        elif wire_type == _VARINT:
            _, at = _varint(content, at)
        elif wire_type in (_EIGHT_BYTES, _FOUR_BYTES):
            at += 8 if wire_type == _EIGHT_BYTES else 4
        else:
            raise _Fault(_NO_GRAPH)
        if at > end or tag >= 2**32:  # of a larger tag, other readers take the lower half for the field
            raise _Fault(_NO_GRAPH)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return a number that has seven bits a byte, and what lies behind it."""
    number = 0
    for shift in range(0, 70, 7):
        byte = content[at + shift // 7]
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at + shift // 7 + 1
    raise _Fault(_NO_GRAPH)
