"""Graphs that the exporter would not write are refused before ONNX Runtime reads them."""

from collections.abc import Iterator

import pytest

from pocket_diffusion import graph
from pocket_diffusion.graph import graph_fault
from pocket_diffusion.importing import templates, tiny_vae
from pocket_diffusion.machine.cpu import PROBE
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

FILES = ("nets/a.weights", "nets/a.scales")


def field(number: int, content: bytes) -> bytes:
    """A protobuf field that is counted in bytes."""
    assert number < 16 and len(content) < 2**14
    return bytes([number << 3 | 2, len(content) & 127 | 128, len(content) >> 7]) + content


def node(operator: str, *more: bytes, domain: str = "") -> bytes:
    return field(1, field(4, operator.encode()) + field(7, domain.encode()) + b"".join(more))


def model(*nodes: bytes) -> bytes:
    return field(7, b"".join(nodes))


def weights(location: str) -> bytes:
    """A tensor that lies in a file."""
    entries = (b"offset", b"0"), (b"location", location.encode())
    return b"".join(field(13, field(1, key) + field(2, value)) for key, value in entries)


def fault(content: bytes) -> str | None:
    return graph_fault(content, "nets/a.onnx", FILES)


def faults_of_exported_graphs() -> Iterator[str | None]:
    """What is found in all graphs that come along."""
    graphs = {path.name: path.read_bytes() for path in (*DEFAULT_BUNDLE.glob("*.onnx"), PROBE)}
    graphs |= templates.read_archive(templates.ARCHIVE) | templates.read_archive(tiny_vae.ARCHIVE)
    for name, content in graphs.items():
        if name.endswith(".onnx"):
            network = name.partition(".")[0]
            yield graph_fault(content, name, (f"{network}.weights", f"{network}.scales"))


def test_accepts_all_that_the_exporter_writes_and_no_other_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    used = set()

    class Notebook:
        def __contains__(self, operator: str) -> bool:
            used.add(operator)
            return True

    monkeypatch.setattr(graph, "OPERATORS", Notebook())
    assert set(faults_of_exported_graphs()) == {None}
    monkeypatch.undo()
    # Of graphs for CUDA, none comes along; Softmax is a benchmark's.
    fused = ("BiasSplitGelu", "GroupNorm", "NhwcConv", "SkipGroupNorm", "SkipLayerNormalization")
    assert used == graph.OPERATORS - {"Split", "Softmax", *(f"com.microsoft:{name}" for name in fused)}


LOOP = node("Loop")
UNKNOWN = "nets/a.onnx uses the operator 'Loop', which no exported graph has"


@pytest.mark.parametrize(
    "content",
    [
        model(node("Add"), LOOP),
        model() + model(LOOP),  # protobuf reads the two as one
        model(node("Scan", field(5, field(6, LOOP)))),
        model(node("Scan", field(5, field(6, b"") + field(6, LOOP)))),
        model(node("Scan", field(5, field(11, node("Add")) + field(11, LOOP)))),
        model(node("Scan", field(5, field(6, node("Scan", field(5, field(6, LOOP))))))),
        model(node("Add", field(4, b"Loop"))),  # the last counts
    ],
    ids=["plain", "in a second part", "in a Scan", "there in a second part", "in a list", "two deep", "named twice"],
)
def test_an_operator_that_may_never_end_is_found_wherever_it_lies(content: bytes) -> None:
    assert fault(content) == UNKNOWN


@pytest.mark.parametrize(
    ("operator", "domain", "named"),
    [
        ("EPContext", "com.microsoft", "com.microsoft:EPContext"),
        ("Add", "com.microsoft", "com.microsoft:Add"),
        ("QuickGelu", "", "QuickGelu"),
        ("", "", ""),
        ("Re\x1bshape", "", r"Re\x1bshape"),
    ],
)
def test_operators_are_known_with_their_domains(operator: str, domain: str, named: str) -> None:
    assert fault(model(node(operator, domain=domain))) == (
        f"nets/a.onnx uses the operator '{named}', which no exported graph has"
    )


@pytest.mark.parametrize("location", ["b.weights", "../nets/a.weights", "/nets/a.weights", "*/_ORT_MEM_ADDR_/*", ""])
@pytest.mark.parametrize("where", ["initializer", "attribute", "list", "in a Scan"])
def test_weights_in_any_other_file_are_refused(location: str, where: str) -> None:
    content = {
        "initializer": lambda tensor: model(field(5, tensor)),
        "attribute": lambda tensor: model(node("Add", field(5, field(5, tensor)))),
        "list": lambda tensor: model(node("Add", field(5, field(10, tensor)))),
        "in a Scan": lambda tensor: model(node("Scan", field(5, field(6, field(5, tensor))))),
    }[where]
    assert fault(content(weights("a.weights") + weights("a.scales"))) is None
    found = fault(content(weights("a.weights") + weights(location)))
    assert found is not None
    assert found.endswith("which is none of its files in the manifest")


@pytest.mark.parametrize(
    "content",
    [b"\xca\x01\x00", model(b"\x7a\x00"), model(node("Add", field(5, b"\xb2\x01\x00")))],
    ids=["functions", "sparse weights", "sparse weights in an attribute"],
)
def test_what_would_hide_operators_or_size_is_refused(content: bytes) -> None:
    assert fault(content) == "nets/a.onnx has functions or sparse weights, which no exported graph has"


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a",
        b"\x3a\x05abc",
        b"\x3b\x3c",  # a group, which other readers would pass over
        b"\x08" + b"\xff" * 2**20,
        b"\xba\x80\x80\x80\x80\x01\x00",  # a tag of 36 bits, of whose lower 32 others take the field
        model(b"\x0d\x00"),
        model(b"\x0a\x05abc"),
    ],
    ids=["no size", "cut off", "group", "endless number", "large tag", "cut off in a number", "cut off within"],
)
def test_what_is_no_graph_is_refused(content: bytes) -> None:
    assert fault(content) == "nets/a.onnx is no ONNX graph"


def test_graphs_in_each_other_without_end_are_refused() -> None:
    content = LOOP
    while len(content) < 10_000:
        content = node("Scan", field(5, field(6, content)))
    assert fault(model(content)) in ("nets/a.onnx is no ONNX graph", UNKNOWN)
