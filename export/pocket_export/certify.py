"""8-bit graphs beside the exact ones: as much of each in 8 bits as a bound on the whole network's error lets be.

For each network: measure what rounding does to each layer, on what passes through it while the bundle draws → round the
layers that bear it → compare the whole → write the graph over the exact graph's weights, and what was measured.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import onnx_ir as ir
import torch

from pocket_diffusion.batch.flickr30k import captions_of
from pocket_diffusion.batch.prompts import PROMPT, read_prompts
from pocket_diffusion.bundle import Component, Int8Graph, sha256_of
from pocket_diffusion.calibration import PROMPTS, Evaluation
from pocket_diffusion.certificate import Certificate, LayerFigure
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.layers import LayerTable
from pocket_export.graph_file import write_graph
from pocket_export.int8_graph import int8_graph, rounded_layers, share_weights
from pocket_export.memory import measure_memory
from pocket_export.parity import in_one_batch
from pocket_export.parts import Part
from pocket_export.progress import Progress
from pocket_export.rewrite.initializers import MIN_ELEMENTS
from pocket_export.rewrite.int8_products import Form
from pocket_export.rewrite.store_int8 import LARGEST_ERROR
from pocket_export.sensitivity import RoundingErrors, measure_int8_errors, measure_rounding_errors
from pocket_export.shallow import give_deep, with_shallow_memory, write_shallow
from pocket_export.targets import PREPARED
from pocket_export.trace import trace

BOUND = 2e-2
"""The relative error of a network's output, as a median over evaluations, up to which its 8-bit graph is used unasked.

OpenVINO's bfloat16 is 2.7e-2 off for a U-Net of Stable Diffusion 1.5's shape, 2.5e-2 for its decoder.
"""
FirstForms = Callable[[RoundingErrors], Form]
LADDER: tuple[Form, ...] = ("tensor", "token", "two_terms")
"""A layer's forms in 8 bits, the fastest first. A layer that bears none of them stays in float32."""
_FAR_OFF = 2e-2
"""The relative error of a layer's output that its form should not exceed, whatever the whole: outliers show there."""
_CLIMBING = 0.1
"""The share of the layers that go up a rung at a time, those with the largest errors, until the whole is in bounds."""
_FEWEST_CHANNELS = 16
"""Layers with fewer inputs or outputs, the first and last convolutions, stay in float32: little work, much effect."""
_MEASURED = 4
"""So many evaluations are measured layer by layer, at equal distances over all of them."""


class Measured(Protocol):
    """What the exact graphs have computed, which 8-bit graphs are compared with: a `Calibration`, as a rule."""

    @property
    def evaluations(self) -> Mapping[str, Sequence[Evaluation]]:
        """What went through each network, by role."""

    @property
    def what(self) -> str:
        """What was computed, in one line."""

    def errors(self, role: str, component: Component, evaluations: Sequence[Evaluation]) -> list[float]:
        """See `Calibration.errors`."""

    def psnr(self, role: str, component: Component) -> float | None:
        """See `Calibration.psnr`."""


class Certifier:
    """Makes the 8-bit graphs of components that are complete but for them."""

    def __init__(self, folder: Path, measured: Measured, progress: Progress, forms: FirstForms | None = None) -> None:
        """Write into the folder of the components.

        `forms` says in which forms layers are computed whatever the network's error; without it, `first_form` and what
        the bound asks for.
        """
        self._folder = folder
        self._measured = measured
        self._progress = progress
        self._first_form = forms or first_form
        self._climbs = forms is None

    def certify(self, part: Part, component: Component) -> Component:
        """Write a part's 8-bit graph and certificate, and return its component with them.

        Raises:
            ExportError: the graph could not be run, or has not the weights of the exact one.

        """
        begin = partial(self._progress.begin, part.name)
        begin("retrace", f"tracing {part.name} for 8-bit arithmetic")
        model = trace(part)
        for rewrite in PREPARED:
            model = rewrite(model)
        storage_errors = model.meta["int8_errors"] = measure_int8_errors(part)
        evaluations = self._measured.evaluations[part.name]
        begin("layers", f"measuring 8-bit arithmetic on {part.name}, layer by layer")
        some = evaluations[:: math.ceil(len(evaluations) / _MEASURED)]
        errors = {
            name: error
            for name, error in measure_rounding_errors(part, [_as_tensors(part, one) for one in some]).items()
            if storage_errors[name] <= LARGEST_ERROR and _is_large(part, name)
        }
        forms = {name: self._first_form(error) for name, error in errors.items()}
        begin("whole", f"measuring 8-bit arithmetic on all of {part.name}")
        while True:
            graph = int8_graph(model, forms)
            in_8_bits = self._write(graph, component)
            error = np.median(self._measured.errors(part.name, in_8_bits, some))
            self._progress.tell(f"8-bit arithmetic on {part.name}: {error:.1e} off, at most {BOUND:.1e}")
            if not forms or not self._climbs or error <= BOUND:
                break
            forms = climb(forms, errors)

        begin("certificate", f"certifying 8-bit arithmetic on {part.name}")
        rounded = rounded_layers(graph)
        found = self._measured.errors(part.name, in_8_bits, evaluations)
        folder = self._folder
        memory = measure_memory(part, folder, in_8_bits, multiplies_in_8_bits=True)
        if component.shallow is not None:
            shallow = write_shallow(graph, folder, in_8_bits, _layers(component, folder))
            in_8_bits = with_shallow_memory(msgspec.structs.replace(in_8_bits, memory=memory, shallow=shallow))
        int8 = Int8Graph(
            graph=in_8_bits.graph,
            certificate=f"{part.name}.certificate.json",
            memory=memory,
            shallow=in_8_bits.shallow,
        )
        certificate = Certificate(
            graph_sha256=sha256_of(folder / int8.graph),
            weights_sha256=sha256_of(folder / component.weights),
            bound=BOUND,
            relative_error=float(np.median(found)),
            largest_error=max(found),
            evaluations=len(found),
            psnr_db=self._measured.psnr(part.name, in_8_bits),
            what=self._measured.what,
            layers=tuple(
                LayerFigure(
                    name=name,
                    stored="int8" if error <= LARGEST_ERROR else "fp16",
                    computed=forms[name] if name in rounded else "float32",
                    storage_error=error,
                    error=error_of(errors[name], forms[name]) if name in rounded else None,
                )
                for name, error in storage_errors.items()
            ),
        )
        (folder / int8.certificate).write_bytes(msgspec.json.format(msgspec.json.encode(certificate)) + b"\n")
        return msgspec.structs.replace(component, int8=int8)

    def _write(self, graph: ir.Model, component: Component) -> Component:
        """Write a graph over a component's weights, and return the component that it is."""
        name = f"{Path(component.graph).stem}.int8.onnx"
        share_weights(graph, self._folder, component)
        if component.shallow is not None:
            give_deep(graph)
        write_graph(graph, self._folder / name)
        return msgspec.structs.replace(component, graph=name)


def captions_to_draw(dataset: Path) -> tuple[str, ...]:
    """Return as many captions of Flickr30K's folder, or of a file of prompts, as there are prompts of our own.

    The same file gives the same captions.

    Raises:
        InvalidRequestError: the file cannot be read, or has too few prompts.

    """
    path = captions_of(dataset)
    captions = sorted({str(row.fields[PROMPT]) for row in read_prompts(path) if PROMPT in row.fields})
    if len(captions) < len(PROMPTS):
        raise InvalidRequestError(f"{path} has {len(captions)} different prompts; give {len(PROMPTS)} or more")
    return tuple(random.Random(0).sample(captions, len(PROMPTS)))  # noqa: S311 - no secret


def first_form(errors: RoundingErrors) -> Form:
    """Return the fastest form in which a layer is not far off by itself, or its best one."""
    best = min(LADDER, key=lambda form: error_of(errors, form))
    return next((form for form in LADDER if error_of(errors, form) <= _FAR_OFF), best)


def climb(forms: Mapping[str, Form], errors: Mapping[str, RoundingErrors]) -> dict[str, Form]:
    """Return the forms of layers after the worst tenth went up the ladder; those that were on its top are left out."""
    worst_first = sorted(forms, key=lambda name: error_of(errors[name], forms[name]), reverse=True)
    climbing = set(worst_first[: math.ceil(len(forms) * _CLIMBING)])
    chosen: dict[str, Form] = {}
    for name, form in forms.items():
        above = LADDER[LADDER.index(form) + 1 :] if name in climbing else (form,)
        better = next((one for one in above if error_of(errors[name], one) <= error_of(errors[name], form)), None)
        if better is not None:
            chosen[name] = better
    return chosen


def error_of(errors: RoundingErrors, form: Form) -> float:
    """Return a layer's error in a form: infinite where it cannot have that form."""
    error: float | None = getattr(errors, form)
    return math.inf if error is None else error


def _layers(component: Component, folder: Path) -> LayerTable:
    """Read the layer table of a component that was written."""
    assert component.layers is not None  # noqa: S101 - all have one since format 3
    return msgspec.json.decode((folder / component.layers).read_bytes(), type=LayerTable)


def _as_tensors(part: Part, evaluation: Evaluation) -> tuple[torch.Tensor, ...]:
    inputs = tuple(torch.from_numpy(np.ascontiguousarray(evaluation.inputs[spec.name])) for spec in part.inputs)
    return in_one_batch(inputs)


def _is_large(part: Part, weights: str) -> bool:
    """Tell whether a layer has enough channels, and so many weights that the exact graph takes them rounded too."""
    weight = part.module.get_parameter(weights)
    return min(weight.shape[:2]) >= _FEWEST_CHANNELS and weight.numel() >= MIN_ELEMENTS
