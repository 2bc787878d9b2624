"""The templates that come along are what a fresh export makes: nodes, constants, layer tables and inputs."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import msgspec
import onnx
import onnx_ir as ir
import pytest
import torch

from pocket_diffusion.bundle import WeightStorage
from pocket_diffusion.certificate import Certificate
from pocket_diffusion.importing import templates
from pocket_diffusion.layers import Form, LayerTable
from pocket_export import parts
from pocket_export import templates as writing
from pocket_export.int8_graph import int8_graph
from pocket_export.rewrite.initializers import with_layouts
from pocket_export.rewrite.int8_products import Form as InEightBits
from pocket_export.shallow import give_deep, shallow_graph
from pocket_export.targets import PREPARED, Rewrite, recipe
from pocket_export.trace import trace

RETRACED = ("text_encoder/stable-diffusion-1", "unet/stable-diffusion-1", "vae/stable-diffusion")
"""Tracing all of them takes a quarter of an hour; the others are known by the code that made them."""


def anatomy(model: onnx.ModelProto, published: set[str]) -> tuple[list[Any], dict[str, bytes]]:
    """A graph's nodes, with values by the order in which they appear, and its constants by name."""
    numbers: dict[str, str] = {}
    constants = {t.name: t.SerializeToString() for t in model.graph.initializer if t.name not in published}
    fixed = {"", *published, *constants, *(v.name for v in (*model.graph.input, *model.graph.output))}

    def name(value: str) -> str:
        return value if value in fixed else numbers.setdefault(value, f"value {len(numbers)}")

    def described(node: onnx.NodeProto) -> tuple[Any, ...]:
        attributes = []
        for attribute in sorted(node.attribute, key=lambda one: one.name):
            if attribute.HasField("g"):
                inner = [name(v.name) for v in attribute.g.input], list(map(described, attribute.g.node))
                attributes.append((attribute.name, *inner, [name(v.name) for v in attribute.g.output]))
            else:
                attributes.append((attribute.name, attribute.SerializeToString()))
        return node.domain, node.op_type, list(map(name, node.input)), list(map(name, node.output)), attributes

    return list(map(described, model.graph.node)), constants


def layouts(model: ir.Model) -> dict[str, tuple[str, Form]]:
    return {layout.initializer: (layout.name, layout.form) for _, layout in with_layouts(model)}


def stored(table: LayerTable) -> dict[str, tuple[str, Form]]:
    return {
        one.initializer: (name, Form(steps=one.steps, storage=one.storage, axis=one.axis))
        for name, layer in table.layers.items()
        for one in layer.stored
    }


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return templates.read_archive(templates.ARCHIVE)


def test_all_networks_come_along_in_every_storage(files: dict[str, bytes]) -> None:
    """In a quarter of the 1 MB that a package may well grow by."""
    assert templates.ARCHIVE.stat().st_size < 1_000_000
    places = {place: spec for kind in templates.NETWORKS for place, spec in templates.read_specs(files, kind).items()}
    assert places == writing.NETWORKS
    for place in places:
        for storage in get_args(WeightStorage):
            template = template_of(files, place, storage)
            for component, table in template.tables.items():
                table.check(template.records[template.components[component].weights].size)


def test_the_code_that_made_them_is_todays(files: dict[str, bytes]) -> None:
    """Where this fails, `python -m pocket_export.templates` makes them anew."""
    made_by = {
        place: template_of(files, place, storage).networks[0].code_sha256
        for place in writing.NETWORKS
        for storage in get_args(WeightStorage)
    }
    assert set(made_by.values()) == {writing.fingerprint()}, made_by


def test_comments_are_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(Path(writing.__file__).parent, tmp_path / "pocket_export")
    monkeypatch.setattr(writing, "_HERE", folder)
    as_it_is = writing.fingerprint()
    code = (folder / "trace.py").read_text()
    (folder / "trace.py").write_text(code.replace('"""One network', '# Of PyTorch.\n"""A network'))
    assert writing.fingerprint() == as_it_is
    (folder / "trace.py").write_text(code.replace("OPSET = 20", "OPSET = 21"))
    assert writing.fingerprint() != as_it_is


def template_of(files: dict[str, bytes], place: str, storage: str) -> templates.Template:
    own = templates.below(f"{place}/{storage}/", files)
    return templates.Template((msgspec.json.decode(own.pop(templates.NETWORK_NAME), type=templates.Network),), own)


@pytest.mark.parametrize("place", RETRACED)
def test_a_template_is_what_a_fresh_export_makes(
    files: dict[str, bytes], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced once, rewritten for each storage and for 8-bit arithmetic."""
    for initialise in ("kaiming_uniform_", "uniform_", "normal_"):  # zeros are made fast
        monkeypatch.setattr(torch.nn.init, initialise, lambda tensor, *_, **__: tensor.detach().zero_())
    checkpoint = writing.random_checkpoint(writing.NETWORKS[place])
    for role in template_of(files, place, "fp32").components:
        check_template(files, place, role, trace(getattr(parts, role)(checkpoint)))


def check_template(files: dict[str, bytes], place: str, role: str, traced: ir.Model) -> None:
    def rewritten(rewrites: Iterable[Rewrite]) -> ir.Model:
        model = traced.clone()
        model.meta.update(traced.meta)
        for rewrite in rewrites:
            model = rewrite(model)
        return model

    for storage in get_args(WeightStorage):
        template = template_of(files, place, storage)
        component = template.components[role]
        graphs = {component.graph: rewritten(recipe("cpu", storage).rewrites)}
        assert layouts(graphs[component.graph]) == stored(template.tables[role])
        if component.int8 is not None:
            certificate = msgspec.json.decode(template.files[component.int8.certificate], type=Certificate)
            forms: dict[str, InEightBits] = {
                layer.name: layer.computed for layer in certificate.layers if layer.computed != "float32"
            }
            assert forms
            graphs[component.int8.graph] = int8_graph(rewritten(PREPARED), forms)
        for one in (component, component.int8):
            if one is not None and one.shallow is not None:
                give_deep(graphs[one.graph])
                graphs[one.shallow.graph] = shallow_graph(graphs[one.graph])
        for name, graph in graphs.items():
            published = set(layouts(graph))
            theirs = onnx.load_from_string(template.files[name])
            for value, _ in with_layouts(graph):
                value.const_value = ir.tensor([0.0], name=value.name)
            assert anatomy(ir.to_proto(graph), published) == anatomy(theirs, published)
