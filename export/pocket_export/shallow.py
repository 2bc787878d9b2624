"""A U-Net's shallow graph: what is computed again where the deep layers' output is kept from an earlier evaluation.

    python -m pocket_export.shallow BUNDLE OUTPUT

copies a bundle that has none, and gives the copy shallow graphs. They are made of the U-Net's graphs, so that the
checkpoint is not needed.

DeepCache (Ma et al. 2023, "DeepCache: Accelerating Diffusion Models for Free", section 3.2): what the coarser levels
make of the latents changes slowly from step to step. The last layer of the way up is all that is computed at each step,
from those features and from the first feature map of the way down; that is the paper's branch 0, its choice for Stable
Diffusion.
"""

import re
import shutil
import sys
from pathlib import Path
from typing import TypeVar

import click
import msgspec
import numpy as np
import onnx_ir as ir

from pocket_diffusion.bundle import (
    DEEP,
    SHALLOW_UNET,
    Bundle,
    Component,
    TensorSpec,
    sha256_of,
)
from pocket_diffusion.errors import InvalidRequestError, ParityError, PocketDiffusionError
from pocket_diffusion.layers import LayerTable
from pocket_diffusion.machine.session import GraphSession
from pocket_diffusion.text import one_line
from pocket_diffusion.writer import BundleWriter, copy_tiny_vae
from pocket_export.graph_file import write_graph
from pocket_export.rewrite.cuda import portable

Thing = TypeVar("Thing")

_LAST_LAYER = re.compile(r"up_blocks\.(\d+)\.resnets\.(\d+)\.conv_shortcut\.(weight|bias)")
_SIDES = ((15, 20), (24, 17))
"""In latents: sizes that were not traced, at which shallow graphs are compared with whole ones."""
_TOLERANCE = 1e-5


def give_deep(model: ir.Model) -> None:
    """Have a U-Net's graph return, when it is asked to, what goes into its last layer from below."""
    join = _last_join(model)
    deep = _given(join.inputs[0])
    # Rewrites leave values without shapes; of an output, ONNX wants one.
    channels = next(
        int(np.prod(value.shape.numpy()))
        for name, value in model.graph.initializers.items()
        if value.shape is not None and name.startswith(_last_layer(model) + ".conv_shortcut.bias")
    )
    sides: dict[int, list[int | str]] = {
        1: ["contexts", channels, "height", "width"],
        2: ["contexts", "pixels", channels],
        3: ["contexts", "height", "width", channels],
    }
    deep.shape = ir.Shape(sides[join.attributes["axis"].as_int()])
    deep.dtype = deep.dtype or ir.DataType.FLOAT
    deep.name = DEEP
    model.graph.outputs.append(deep)


def shallow_graph(model: ir.Model) -> ir.Model:
    """Return what is left of a graph that `give_deep` has changed where its deep layers' output is an input."""
    position = list(model.graph).index(_given(_deep_output(model).producer()))
    graph = model.clone()
    deep = graph.graph[position].outputs[0]
    given = ir.Value(name=DEEP, shape=deep.shape, type=deep.type)
    graph.graph.outputs.remove(deep)
    deep.name = None
    ir.convenience.replace_all_uses_with(deep, given)
    graph.graph.inputs.append(given)
    _take_sizes_from(graph, given)
    _drop_unneeded(graph)
    return graph


def write_shallow(model: ir.Model, folder: Path, component: Component, table: LayerTable) -> Component:
    """Write the shallow graph of a written graph and return it as a component, over the same weights file.

    `model` is the written graph, which `give_deep` has changed, and `component` describes it.

    Raises:
        ParityError: it does not compute what the whole graph does.

    """
    shallow = shallow_graph(model)
    stem = Path(component.graph).stem
    write_graph(shallow, folder / f"{stem}.shallow.onnx")
    portable_name = None if component.portable is None else f"{stem}.shallow.portable.onnx"
    if portable_name is not None:
        write_graph(portable(shallow.clone()), folder / portable_name)
    names = shallow.graph.initializers
    layers = {
        name: layer for name, layer in table.layers.items() if any(one.initializer in names for one in layer.stored)
    }
    table_name = f"{stem}.shallow.layers.json"
    (folder / table_name).write_bytes(msgspec.json.encode(LayerTable(layers=layers)))
    taken = {value.name for value in shallow.graph.inputs}
    deep = _deep_output(model)
    found = Component(
        graph=f"{stem}.shallow.onnx",
        weights=component.weights,
        inputs=(*component.inputs, _spec(deep)),
        outputs=component.outputs,
        parameters=sum(int(np.prod(layer.shape)) for layer in layers.values()),
        parity=(),
        options=tuple(spec for spec in component.options if spec.name in taken),
        layers=table_name,
        portable=portable_name,
    )
    compare_shallow(folder, msgspec.structs.replace(component, shallow=found), found)
    return found


def with_shallow_memory(component: Component) -> Component:
    """Return a component whose shallow graph has figures of memory: those of the whole.

    It has the largest feature maps, too. Only of weights, float32 where they are expanded, it has fewer.
    """
    if component.memory is None or component.shallow is None:
        return component
    expanded = min(component.memory.expanded_weights, 4 * component.shallow.parameters)
    memory = msgspec.structs.replace(component.memory, expanded_weights=expanded)
    return msgspec.structs.replace(component, shallow=msgspec.structs.replace(component.shallow, memory=memory))


def with_shallow_graphs(bundle: Bundle, output: Path) -> Bundle:
    """Copy a bundle and give the copy's U-Net shallow graphs; it appears at `output` complete, or not at all.

    Raises:
        InvalidRequestError: it has them already.
        BundleFormatError, BundleDamagedError: see `Bundle.layers` and `read_addon`.
        OutputExistsError, OutputError: the output is taken or cannot be written.

    """
    manifest = bundle.manifest
    if manifest.unet.shallow is not None:
        raise InvalidRequestError(f"{bundle.root} has a shallow graph already; draw with --cache deep")
    unet, table = manifest.unet, bundle.layers("unet")
    with BundleWriter(output, force=False) as writer:
        for name in manifest.files:
            (writer.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path(name), writer.folder / name)
        copy_tiny_vae(bundle.root, writer.folder)

        def add(component: Component) -> Component:
            path = writer.folder / component.graph
            model = ir.load(path)
            give_deep(model)
            write_graph(model, path)
            shallow = write_shallow(model, writer.folder, component, table)
            return with_shallow_memory(msgspec.structs.replace(component, shallow=shallow))

        shallow, int8 = add(unet).shallow, unet.int8
        if int8 is not None:
            in_8_bits = msgspec.structs.replace(unet, graph=int8.graph, memory=int8.memory)
            int8 = msgspec.structs.replace(int8, shallow=add(in_8_bits).shallow)
            certificate = msgspec.structs.replace(
                bundle.certificate("unet"), graph_sha256=sha256_of(writer.folder / int8.graph)
            )
            writer.write(int8.certificate, msgspec.json.format(msgspec.json.encode(certificate)) + b"\n")
        unet = msgspec.structs.replace(unet, shallow=shallow, int8=int8)
        writer.publish(msgspec.structs.replace(manifest, unet=unet, files=writer.records()))
    return Bundle.open(output)


def compare_shallow(folder: Path, component: Component, shallow: Component) -> None:
    """Make sure that a shallow graph makes of a whole one's features what that makes of them.

    Raises:
        ParityError: it does not.

    """
    whole, rest = GraphSession(folder, "unet", component, "cpu"), GraphSession(folder, SHALLOW_UNET, shallow, "cpu")
    generator = np.random.default_rng(0)
    for contexts, (height, width) in enumerate(_SIDES, 1):
        sizes = {"batch": 1, "contexts": contexts, "height": height, "width": width, "tokens": 77}
        inputs = {
            spec.name: generator.uniform(
                0, 1, [sizes[size] if isinstance(size, str) else size for size in spec.shape]
            ).astype(np.float32)
            for spec in component.inputs
        }
        expected = whole.run(DEEP, **inputs)
        found = rest.run(**inputs, deep=expected[DEEP])
        for spec in component.outputs:
            error = np.linalg.norm(found[spec.name] - expected[spec.name]) / np.linalg.norm(expected[spec.name])
            if not error <= _TOLERANCE:
                raise ParityError(
                    f"the shallow graph of {component.graph} is off by {error:.1e} relative to the whole one, more "
                    f"than the {_TOLERANCE:.0e} allowed; no bundle was written"
                )


def _take_sizes_from(model: ir.Model, deep: ir.Value) -> None:
    """Let sizes that were read off the deep layers' values be those of the features, or of the latents.

    8-bit graphs have such: how many tokens there are, and the height and width of the map that they show. At the finest
    level there is a token for each latent.
    """
    latents = next(value for value in model.graph.inputs if value.name == "latents")
    needed = _needed(model, with_shapes=False)
    for node in [node for node in model.graph if node in needed and node.op_type == "Shape"]:
        producer = _given(node.inputs[0]).producer()
        if producer is None or producer in needed:
            continue
        start, end = (node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end"))
        if (start, end) in ((0, 1), (1, 2)):  # samples and tokens, as `[N, P, C]` has them
            node.replace_input_with(0, deep)
        else:  # height and width
            node.replace_input_with(0, latents)
            node.attributes.clear()
            node.attributes.add(ir.AttrInt64("start", 2))


def _drop_unneeded(model: ir.Model) -> None:
    """Remove what leads to no output; onnx_ir's own pass would keep what the graphs within removed nodes take."""
    needed = _needed(model, with_shapes=True)
    taken = {*model.graph.outputs, *(value for node in needed for value in _inputs(node))}
    model.graph.remove([node for node in model.graph if node not in needed])
    for name, value in list(model.graph.initializers.items()):
        if value not in taken:
            del model.graph.initializers[name]
            if value in model.graph.inputs:
                model.graph.inputs.remove(value)


def _needed(model: ir.Model, *, with_shapes: bool) -> set[ir.Node]:
    """Return the nodes that lead to the outputs, with or without those that do so by their results' shape alone."""
    needed: set[ir.Node] = set()
    waiting = [value.producer() for value in model.graph.outputs]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in needed:
            needed.add(node)
            if with_shapes or node.op_type != "Shape":
                waiting += [value.producer() for value in _inputs(node)]
    return needed


def _inputs(node: ir.Node) -> list[ir.Value]:
    """Return what a node takes, also from around the graphs within it."""
    within = [graph for attribute in node.attributes.values() if (graph := _graph_of(attribute)) is not None]
    return [
        value
        for one in (node, *(inner for graph in within for inner in graph))
        for value in one.inputs
        if value is not None
    ]


def _graph_of(attribute: ir.Attr) -> ir.Graph | None:
    return attribute.as_graph() if attribute.type == ir.AttributeType.GRAPH else None


def _last_layer(model: ir.Model) -> str:
    found = [match for name in model.graph.initializers if (match := _LAST_LAYER.match(name))]
    level, layer = max((int(match[1]), int(match[2])) for match in found)
    return f"up_blocks.{level}.resnets.{layer}"


def _last_join(model: ir.Model) -> ir.Node:
    """Return the Concat of the features that come up with those of the way down, before the last layer."""
    start = _last_layer(model) + ".conv_shortcut.weight"
    made = [value for name, value in model.graph.initializers.items() if name.startswith(start)]
    product: ir.Node | None = None
    for value in made:  # grows: what is made of the weights alone, up to the product with the features
        for use in value.uses():
            if use.node.inputs[0] in made:
                made += use.node.outputs
            elif use.idx == 1:
                product = use.node
    node = product
    while node is not None and node.op_type != "Concat":
        node = _given(node.inputs[0]).producer()
    if node is None:
        raise AssertionError(f"{start} is not multiplied with features of two sources")
    return node


def _given(value: Thing | None) -> Thing:
    """Return what graphs of ours always have."""
    assert value is not None  # noqa: S101 - that is what is said
    return value


def _deep_output(model: ir.Model) -> ir.Value:
    return next(value for value in model.graph.outputs if value.name == DEEP)


def _spec(value: ir.Value) -> TensorSpec:
    sizes = _given(value.shape)
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in sizes)
    return TensorSpec(name=DEEP, dtype="float16" if value.dtype == ir.DataType.FLOAT16 else "float32", shape=shape)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def main(bundle: Path, output: Path) -> None:
    """Copy BUNDLE to OUTPUT with shallow graphs of its U-Net."""
    try:
        with_shallow_graphs(Bundle.open(bundle), output)
    except PocketDiffusionError as error:
        click.echo(f"error: {one_line(str(error))}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
