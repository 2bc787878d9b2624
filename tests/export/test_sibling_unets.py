"""The graphs of U-Nets that are told or shown more than latents, timestep and context: each traced once."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from pocket_diffusion.bundle import GUIDANCE, IMAGE_LATENTS, MASK, MASKED_LATENTS, Component
from pocket_diffusion.checkpoint.architecture import UNetSpec
from pocket_diffusion.machine.cpu import products_are_right
from pocket_diffusion.machine.session import GraphSession
from pocket_export import parts
from pocket_export.certify import first_form
from pocket_export.graph_file import write_graph
from pocket_export.int8_graph import int8_graph, rounded_layers
from pocket_export.memory import measure_memory
from pocket_export.parity import in_one_batch, measure_parity
from pocket_export.parts import Part
from pocket_export.sensitivity import measure_int8_errors, measure_rounding_errors
from pocket_export.targets import PREPARED, Rewrite, recipe
from pocket_export.templates import random_checkpoint
from pocket_export.trace import trace

SIZES = {"batch": 1, "contexts": 2, "tokens": 77, "height": 9, "width": 7}

# All that siblings have and Stable Diffusion 1.x has not, in two networks.
SPECS = {
    "guided inpainting": UNetSpec(
        in_channels=9,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        attention_levels=(True, False),
        attention_heads=(4, 4),
        cross_attention_dim=48,
        use_linear_projection=False,
        norm_num_groups=16,
        time_cond_proj_dim=32,
    ),
    "distilled instruct-pix2pix": UNetSpec(
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        attention_levels=(False, True),
        attention_heads=(1, 2),
        cross_attention_dim=48,
        use_linear_projection=True,
        norm_num_groups=16,
        mid_block=False,
        only_cross_attention=(False, True),
    ),
}
MORE = {
    "guided inpainting": [GUIDANCE, MASK, MASKED_LATENTS],
    "distilled instruct-pix2pix": [IMAGE_LATENTS],
}


@dataclass
class Exported:
    """A U-Net and its graph."""

    part: Part
    traced: ir.Model
    folder: Path

    @cached_property
    def component(self) -> Component:
        return self.write(self.rewritten(recipe("cpu", "fp32").rewrites), "unet")

    def rewritten(self, rewrites: tuple[Rewrite, ...]) -> ir.Model:
        model = self.traced.clone()
        model.meta.update(self.traced.meta)
        for rewrite in rewrites:
            model = rewrite(model)
        return model

    def write(self, model: ir.Model, name: str) -> Component:
        write_graph(model, self.folder / f"{name}.onnx", f"{name}.weights")
        return Component(
            graph=f"{name}.onnx",
            weights=f"{name}.weights",
            inputs=self.part.inputs,
            outputs=self.part.outputs,
            parameters=self.part.parameters,
            parity=(),
        )

    def session(self, component: Component) -> GraphSession:
        return GraphSession(self.folder, "unet", component, "cpu")


@pytest.fixture(scope="module", params=SPECS)
def kind(request: pytest.FixtureRequest) -> str:
    """By module, so that each is traced once."""
    return str(request.param)


@pytest.fixture(scope="module")
def exported(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    part = parts.unet(random_checkpoint(SPECS[kind]))
    return Exported(part, trace(part), tmp_path_factory.mktemp("sibling"))


def arrays(part: Part, sizes: dict[str, int], seed: int = 0) -> dict[str, NDArray[np.float32]]:
    return {spec.name: x.numpy() for spec, x in zip(part.inputs, part.example(sizes, seed), strict=True)}


def test_a_graph_takes_what_the_model_is_told_and_shown(exported: Exported, kind: str) -> None:
    component = exported.component
    assert [spec.name for spec in component.inputs] == ["latents", "timestep", "context", *MORE[kind]]
    assert [name for name in (GUIDANCE, MASK, MASKED_LATENTS, IMAGE_LATENTS) if component.needs(name)] == MORE[kind]
    shapes = {spec.name: spec.shape for spec in component.inputs}
    assert shapes["latents"] == ("batch", 4, "height", "width")
    assert [shapes[name][1:2] for name in MORE[kind]] == [{GUIDANCE: (), MASK: (1,)}.get(n, (4,)) for n in MORE[kind]]


def test_a_graph_computes_what_pytorch_does_at_sizes_that_were_not_traced(exported: Exported) -> None:
    """One picture under several contexts among them."""
    figures = measure_parity(exported.part, exported.folder, exported.component, tolerance=1e-5)
    assert [figure.inputs["context"][0] - figure.inputs["latents"][0] for figure in figures] == [0, 1]


def test_every_input_counts(exported: Exported, kind: str) -> None:
    session, inputs = exported.session(exported.component), arrays(exported.part, SIZES)
    before = session.run(**inputs)["noise"]
    for name in MORE[kind]:
        after = session.run(**inputs | {name: 1 - inputs[name]})["noise"]
        assert np.abs(after - before).max() > 1e-3, name


@pytest.mark.skipif(not products_are_right(), reason="8-bit products are wrong on this CPU")
def test_a_graph_multiplies_in_8_bits(exported: Exported) -> None:
    part = exported.part
    errors = measure_rounding_errors(part, [in_one_batch(part.example(SIZES, seed=1))])
    assert errors.keys() == measure_int8_errors(part).keys()
    large = {name for name in errors if min(part.module.get_parameter(name).shape[:2]) >= 16}
    model = exported.rewritten(PREPARED)
    model.meta["int8_errors"] = dict.fromkeys(errors, 0.0)
    graph = int8_graph(model, {name: first_form(errors[name]) for name in large})
    assert len(rounded_layers(graph)) > 10
    session = exported.session(exported.write(graph, "int8"))
    inputs = part.example(SIZES, seed=2)
    with torch.inference_mode():
        theirs = part.module(*in_one_batch(inputs)).numpy()
    ours = session.run(**{spec.name: x.numpy() for spec, x in zip(part.inputs, inputs, strict=True)})["noise"]
    assert 1e-4 < np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 5e-2


@pytest.mark.parametrize("kind", ["guided inpainting"], indirect=True)
def test_memory_is_measured(exported: Exported) -> None:
    memory = measure_memory(exported.part, exported.folder, exported.component)
    assert memory is None or memory.per_pixel > 0
