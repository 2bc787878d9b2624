"""How far the numbers of each network reach, and float16 for the operators whose numbers fit it.

Pictures are drawn with float32 graphs that tell the largest magnitude of each of their values → the graphs compute in
float16 but for the operators that would overflow → the result is compared with PyTorch, every number rounded.
"""

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from pocket_diffusion.bundle import Component, FloatRange, ParityFigure, TensorSpec
from pocket_diffusion.errors import ExportError
from pocket_diffusion.layers import LayerTable
from pocket_diffusion.machine.session import GraphSession
from pocket_diffusion.model.components import Arrays
from pocket_export.graph_file import write_graph
from pocket_export.parity import measure_parity, parity_inputs
from pocket_export.parts import Part
from pocket_export.rewrite.compute_float16 import (
    LIMIT,
    compute_float16,
    float32_operators,
    leading_to_angles,
    measurable,
    operators,
    results,
)
from pocket_export.rewrite.cuda import portable
from pocket_export.rewrite.nodes import Nodes
from pocket_export.rewrite.simulate_float16 import simulate_float16
from pocket_export.shallow import compare_shallow

Peaks = dict[str, float]
"""The largest magnitude of each value of a graph, by its name."""


class Ranges:
    """The written float32 components of a bundle, which tell how far their numbers reach while they are run."""

    def __init__(self, folder: Path, components: Mapping[str, Component]) -> None:
        """Take components by role; they are left as they are until `to_float16`."""
        self._folder = folder
        self._components = components
        self._peaks: dict[str, Peaks] = {role: {} for role in components}

    def open(self, role: str) -> "Watched":
        """Load a network that notes its peaks; see `calibrate`."""
        component = self._components[role]
        model = ir.load(self._folder / component.graph)
        watched = msgspec.structs.replace(
            component, graph=f"{role}.peaks.onnx", portable=None, outputs=(*component.outputs, *tell_peaks(model))
        )
        path = self._folder / watched.graph
        write_graph(portable(model), path)
        try:
            session = GraphSession(self._folder, role, watched, "cpu")
        finally:
            path.unlink()
        return Watched(session, component, self._peaks[role])

    def to_float16(self, part: Part, tolerance: float) -> Component:
        """Let a part's component compute in float16 where its numbers fit, and return it with what was measured.

        Raises:
            ExportError: its numbers overflow float32 too.
            ParityError: see `measure_parity`.

        """
        component, peaks = self._components[part.name], self._peaks[part.name]
        network = self.open(part.name)
        for inputs in parity_inputs(part):
            network.run(**inputs)
        network.close()
        model = ir.load(self._folder / component.graph)
        found = _range(model, peaks, _published_names(self._folder, component))
        for graph in _graphs(component):
            path = self._folder / graph
            model = ir.load(path)
            write_graph(compute_float16(model, float32_operators(model, peaks)), path)
        return msgspec.structs.replace(component, parity=self._parity(part, component, tolerance), range=found)

    def _parity(self, part: Part, component: Component, tolerance: float) -> tuple[ParityFigure, ...]:
        """Compare a component with PyTorch, and its shallow graph with it, as float16 hardware would compute them."""
        names = {graph: f"simulated.{graph}" for graph in _graphs(component)}
        shallow = component.shallow
        if shallow is not None:
            shallow = msgspec.structs.replace(shallow, graph=names[shallow.graph], portable=None)
        simulated = msgspec.structs.replace(component, graph=names[component.graph], portable=None, shallow=shallow)
        try:
            for graph, name in names.items():
                write_graph(portable(simulate_float16(ir.load(self._folder / graph))), self._folder / name)
            if shallow is not None:
                compare_shallow(self._folder, simulated, shallow)
            return measure_parity(part, self._folder, simulated, tolerance)
        finally:
            for name in names.values():
                (self._folder / name).unlink(missing_ok=True)


class Watched:
    """A network that notes the largest magnitudes that it comes across."""

    def __init__(self, session: GraphSession, component: Component, peaks: Peaks) -> None:
        """Take a session of a graph that `tell_peaks` has changed, and keep the largest magnitudes in `peaks`."""
        self._session = session
        self._outputs = {spec.name for spec in component.outputs}
        self._peaks = peaks

    def run(self, *more: str, **inputs: NDArray[Any]) -> Arrays:
        """See `Network`."""
        outputs = self._session.run(*more, **inputs)
        told = {name: outputs.pop(name) for name in list(outputs) if name not in self._outputs and name not in more}
        for name, peak in told.items():
            value, _ = name.rsplit("/", 1)
            self._peaks[value] = float(np.maximum(abs(peak), self._peaks.get(value, 0.0)))  # NaN stays
        return outputs

    def close(self) -> None:
        """See `Network`."""
        self._session.close()


def tell_peaks(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Have a float32 graph return the ends of each `measurable` value too, and describe these outputs.

    The last value's ends are the first nodes: ONNX Runtime computes what leads to the last node first, so that ends are
    computed as soon as their value is, and the value need not be kept.
    """
    nodes = Nodes(model)
    peaks = []
    for value in reversed(list(measurable(model))):
        for operator in ("ReduceMax", "ReduceMin"):  # faster than one of Abs, whose result is as large as the value
            peak = nodes.add(operator, value, keepdims=0)
            peak.name, peak.shape, peak.dtype = f"{value.name}/{operator}", ir.Shape([]), ir.DataType.FLOAT
            peaks.append(peak)
    nodes.insert_after(model.graph[-1])
    model.graph.outputs.extend(peaks)
    return tuple(TensorSpec(name=str(peak.name), dtype="float32", shape=()) for peak in peaks)


def _range(model: ir.Model, peaks: Peaks, published: Mapping[str, str]) -> FloatRange:
    """Say how far a float32 graph's numbers reach, and how much of it stays in float32."""
    angles = leading_to_angles(model)
    written = {str(x.name): node for node in operators(model) if node not in angles for x in results(node)}
    name = max(written, key=lambda name: (math.isnan(peaks[name]), peaks[name]))
    where = f"{written[name].op_type} at {_nearest_weight(written[name], published)}"
    if not math.isfinite(peaks[name]):
        raise ExportError(f"the numbers of {where} overflow float32; fetch the checkpoint again")
    return FloatRange(
        peak=peaks[name],
        where=where,
        limit=LIMIT,
        in_float32=len(float32_operators(model, peaks)),
        operators=len(list(operators(model))),
    )


def _nearest_weight(node: ir.Node, published: Mapping[str, str]) -> str:
    """Return the published name of the nearest weight that a node depends on."""
    waiting = deque(value for value in node.inputs if value is not None)
    seen = set(waiting)
    while waiting:
        value = waiting.popleft()
        if (name := published.get(value.name or "")) is not None:
            return name
        producer = value.producer()
        more = [] if producer is None else [x for x in producer.inputs if x is not None and x not in seen]
        seen.update(more)
        waiting.extend(more)
    return "the input"


def _graphs(component: Component) -> list[str]:
    """Return the files of a component's graphs: the whole one, and the shallow one where there is one."""
    return [component.graph] if component.shallow is None else [component.graph, component.shallow.graph]


def _published_names(folder: Path, component: Component) -> dict[str, str]:
    """Return the published names of a written component's initializers."""
    assert component.layers is not None  # noqa: S101 - all have one since format 3
    table = msgspec.json.decode((folder / component.layers).read_bytes(), type=LayerTable)
    return {stored.initializer: name for name, layer in table.layers.items() for stored in layer.stored}
