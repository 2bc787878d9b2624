"""The templates that come along are what a fresh export makes: nodes, constants, layer tables and inputs."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import onnx
import onnx_ir as ir
import pytest
import torch

from pocket_diffusion.bundle import COMPONENTS
from pocket_diffusion.certificate import Certificate
from pocket_diffusion.importing import templates
from pocket_diffusion.importing.templates import ENDING, SPECS_NAME, Specs
from pocket_diffusion.layers import Form, LayerTable
from pocket_export import parts
from pocket_export.checkpoint import Checkpoint
from pocket_export.int8_graph import int8_graph
from pocket_export.rewrite.initializers import with_layouts
from pocket_export.rewrite.int8_products import Form as InEightBits
from pocket_export.targets import PREPARED, Rewrite, recipe
from pocket_export.trace import trace
from pocket_models import VAE, TextEncoder, TextEncoderConfig, UNet, UNetConfig, VAEConfig

ARCHITECTURES = sorted(templates.FOLDER.glob(f"*{ENDING}"))


def blank_checkpoint(specs: Specs, defaults: object) -> Checkpoint:
    """A checkpoint of zeros, which take no memory until they are touched."""
    text_encoder, unet, vae = (
        kind(**msgspec.structs.asdict(spec))
        for kind, spec in ((TextEncoderConfig, specs.text_encoder), (UNetConfig, specs.unet), (VAEConfig, specs.vae))
    )
    with torch.device("meta"):
        networks = (TextEncoder(text_encoder), UNet(unet), VAE(vae))
    tensors = [{n: torch.zeros(t.shape) for n, t in network.state_dict().items()} for network in networks]
    source = cast("Any", SimpleNamespace(defaults=defaults))
    return Checkpoint(source, *tensors, text_encoder, unet, vae)


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


@pytest.fixture(scope="module", params=[path.name for path in ARCHITECTURES])
def files(request: pytest.FixtureRequest) -> dict[str, bytes]:
    return templates.read_template_files(templates.FOLDER / request.param)


@pytest.mark.parametrize("role", COMPONENTS)
def test_a_template_is_what_a_fresh_export_makes(files: dict[str, bytes], role: str) -> None:
    """Traced once, rewritten for each storage and for 8-bit arithmetic."""
    specs = msgspec.json.decode(files[SPECS_NAME], type=Specs)
    defaults = templates.template_of(Path(), files, "fp16").manifest.defaults
    traced = trace(getattr(parts, role)(blank_checkpoint(specs, defaults)), torch.float32)

    def rewritten(rewrites: Iterable[Rewrite]) -> ir.Model:
        model = traced.clone()
        model.meta.update(traced.meta)
        for rewrite in rewrites:
            model = rewrite(model)
        return model

    for storage in ("fp32", "fp16", "int8"):
        template = templates.template_of(Path(), files, storage)
        component = template.manifest.component(role)
        graphs = {component.graph: rewritten(recipe("cpu", storage).rewrites)}
        assert layouts(graphs[component.graph]) == stored(template.tables[role])
        if component.int8 is not None:
            certificate = msgspec.json.decode(template.files[component.int8.certificate], type=Certificate)
            forms: dict[str, InEightBits] = {
                layer.name: layer.computed for layer in certificate.layers if layer.computed != "float32"
            }
            assert forms
            graphs[component.int8.graph] = int8_graph(rewritten(PREPARED), forms)
        for name, graph in graphs.items():
            published = set(layouts(graph))
            theirs = onnx.load_from_string(template.files[name])
            for value, _ in with_layouts(graph):
                value.const_value = ir.tensor([0.0], name=value.name)
            assert anatomy(ir.to_proto(graph), published) == anatomy(theirs, published)
