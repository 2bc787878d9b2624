"""The graphs of tiny VAEs, which no checkpoint changes: a template for `pocket_diffusion.importing.tiny_vae`.

    python -m pocket_export.tiny_vae_template

traces them anew and puts them into the package. Weights matter only to the figures that tiny VAEs inherit, parity and
memory, which are measured here with random ones.
"""

import tempfile
from pathlib import Path

import click
import msgspec
import numpy as np
import onnx_ir as ir
import torch

from pocket_diffusion.addon import ADDON_NAME, Addon
from pocket_diffusion.bundle import Component, Int8Graph, Provenance
from pocket_diffusion.importing.tiny_vae import ARCHIVE, MAGNITUDES, measuring
from pocket_export.export import tool_versions
from pocket_export.graph_file import layer_table, write_graph
from pocket_export.int8_graph import share_weights
from pocket_export.memory import measure_memory
from pocket_export.parity import measure_parity
from pocket_export.parts import Part
from pocket_export.rewrite.nodes import Nodes
from pocket_export.rewrite.static_int8 import static_int8
from pocket_export.targets import OLDEST_ONNXRUNTIME
from pocket_export.templates import pack
from pocket_export.tiny_vae import TOLERANCE, parts
from pocket_export.trace import trace
from pocket_models.tiny_vae import DOWNSCALE, LATENT_CHANNELS, TinyVAE

_PICTURES = ("decoder.layers.18.weight",)
_EXACT = ("encoder.layers.14.weight", "decoder.layers.0.weight")
"""The convolutions that give latents or take them: little work, which bytes would spoil."""


def write_template(folder: Path) -> dict[str, bytes]:
    """Trace both halves with random weights, in an empty folder, and return the template's files."""
    torch.manual_seed(0)
    components = {part.name: _write(part, folder) for part in parts(TinyVAE())}
    weights = {name for one in components.values() for name in (one.weights, _int8(one).scales)}
    addon = Addon(
        format_version=1,
        kind="tiny_vae",
        onnxruntime=OLDEST_ONNXRUNTIME,
        channels=LATENT_CHANNELS,
        downscale=DOWNSCALE,
        **components,
        provenance=Provenance(
            source="",
            source_sha256={},
            license=None,
            created="",
            tools=tool_versions(),
            notes=("parity and memory were measured on random weights",),
        ),
        files={},
    )
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in weights}
    return files | {ADDON_NAME: msgspec.json.encode(addon)}


def _write(part: Part, folder: Path) -> Component:
    """Write a half's three graphs over one file of weights, and measure it."""
    name = part.name
    component = Component(
        graph=f"{name}.onnx",
        weights=f"{name}.weights",
        inputs=part.inputs,
        outputs=part.outputs,
        parameters=part.parameters,
        parity=(),
        layers=f"{name}.layers.json",
        is_small=True,
        int8=Int8Graph(
            graph=f"{name}.int8.onnx", certificate=f"{name}.certificate.json", memory=None, scales=f"{name}.scales"
        ),
    )
    int8 = _int8(component)
    exact = trace(part)
    in_8_bits, watched = exact.clone(), exact.clone()
    write_graph(exact, folder / component.graph, component.weights)
    (folder / f"{name}.layers.json").write_bytes(msgspec.json.encode(layer_table(exact)))

    scales = folder / f"{name}.scales"
    measured = static_int8(in_8_bits, scales, pictures=_PICTURES, exact=_EXACT)
    scales.write_bytes(np.ones(len(measured), np.float32).tobytes())
    share_weights(in_8_bits, folder, component)
    write_graph(in_8_bits, folder / int8.graph)
    _watch(watched, measured)
    share_weights(watched, folder, component)
    write_graph(watched, folder / measuring(component).graph)

    figures = measure_parity(part, folder, component, TOLERANCE)
    in_bytes = msgspec.structs.replace(component, graph=int8.graph)
    return msgspec.structs.replace(
        component,
        parity=figures,
        memory=measure_memory(part, folder, component),
        int8=msgspec.structs.replace(int8, memory=measure_memory(part, folder, in_bytes)),
    )


def _watch(model: ir.Model, names: list[str]) -> None:
    """Have a network give the largest magnitudes of these activations too."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    nodes = Nodes(model)
    largest = [nodes.add("ReduceMax", nodes.add("Abs", values[name]), keepdims=0) for name in names]
    magnitudes = nodes.add("Concat", *(nodes.add("Unsqueeze", one, 0) for one in largest), axis=0)
    nodes.insert_after(model.graph[-1])
    magnitudes.name, magnitudes.dtype, magnitudes.shape = MAGNITUDES, ir.DataType.FLOAT, ir.Shape([len(names)])
    model.graph.outputs.append(magnitudes)


def _int8(component: Component) -> Int8Graph:
    assert component.int8 is not None  # noqa: S101 - `_write` has just made one
    return component.int8


@click.command()
def main() -> None:
    """Trace the tiny VAE anew for the package."""
    with tempfile.TemporaryDirectory() as folder:
        ARCHIVE.write_bytes(pack(write_template(Path(folder))))


if __name__ == "__main__":
    main()
