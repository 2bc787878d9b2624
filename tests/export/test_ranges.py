"""How far numbers reach is measured, and a network whose numbers float16 cannot hold computes right all the same."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pocket_diffusion.bundle import COMPONENTS, Bundle, Component, Manifest, TensorSpec
from pocket_diffusion.errors import ExportError, ParityError
from pocket_export import ranges
from pocket_export.graph_file import layer_table, write_graph
from pocket_export.parity import parity_inputs
from pocket_export.parts import Part
from pocket_export.ranges import Ranges
from pocket_export.rewrite import store_float16
from pocket_export.rewrite.compute_float16 import LIMIT
from pocket_export.trace import trace


class Loud(nn.Module):
    """A decoder whose activations reach beyond float16 before a norm, and are small behind it."""

    def __init__(self, loudness: float) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(4, 32, 3, padding=1), nn.GroupNorm(4, 32)
        self.middle, self.last = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 3, 1)
        with torch.no_grad():
            self.first.weight *= loudness

    def forward(self, latents: Tensor) -> Tensor:
        """Map `[batch, 4, height, width]` to `[batch, 3, height, width]`."""
        x = self.first(latents)
        out: Tensor = self.last(nn.functional.silu(self.middle(self.norm(x + x.flip(1)))))
        return out


def written(loudness: float, folder: Path) -> tuple[Part, Component]:
    """A part, and its component in float32 with weights in float16, as the exporter writes it before it converts it."""
    torch.manual_seed(0)
    inputs = TensorSpec(name="latents", dtype="float32", shape=("batch", 4, "height", "width"))
    outputs = TensorSpec(name="picture", dtype="float32", shape=("batch", 3, "height", "width"))
    sizes = {"batch": 1, "height": 8, "width": 8}
    module = Loud(loudness).eval().requires_grad_(requires_grad=False)
    part = Part("vae_decoder", module, (inputs,), (outputs,), sizes, 8, config="loud")  # so that it is traced once
    model = store_float16(trace(part))
    write_graph(model, folder / "vae_decoder.onnx", "vae_decoder.weights")
    (folder / "vae_decoder.layers.json").write_bytes(msgspec.json.encode(layer_table(model)))
    component = Component(
        graph="vae_decoder.onnx",
        weights="vae_decoder.weights",
        inputs=part.inputs,
        outputs=part.outputs,
        parameters=part.parameters,
        parity=(),
        layers="vae_decoder.layers.json",
    )
    return part, component


def loudest(part: Part) -> float:
    """The largest magnitude before the norm, where it is largest, as PyTorch computes it."""
    peaks = []
    hook = part.module.get_submodule("norm").register_forward_pre_hook(
        lambda _module, given: peaks.append(float(given[0].abs().max()))
    )
    for inputs in parity_inputs(part):
        part.module(torch.from_numpy(inputs["latents"]))
    hook.remove()
    return max(peaks)


def test_numbers_beyond_float16_are_computed_in_float32(tmp_path: Path) -> None:
    part, component = written(60_000, tmp_path)
    found = Ranges(tmp_path, {part.name: component}).to_float16(part, tolerance=5e-3)
    assert found.range is not None
    assert found.range.peak == pytest.approx(loudest(part), rel=1e-3)  # its weights are rounded
    assert found.range.peak > 160_000
    assert found.range.where == "Add at first.weight"
    assert found.range.limit == LIMIT
    assert 0 < found.range.in_float32 < found.range.operators
    assert len(found.parity) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [  # and no graph that measured
        f"vae_decoder.{ending}" for ending in ("layers.json", "onnx", "weights")
    ]


def test_a_network_whose_numbers_fit_is_float16_throughout(tmp_path: Path) -> None:
    part, component = written(1, tmp_path)
    found = Ranges(tmp_path, {part.name: component}).to_float16(part, tolerance=5e-3)
    assert found.range is not None
    assert (found.range.in_float32, found.range.peak < 100) == (0, True)


def test_an_overflow_that_nobody_saw_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity is measured as float16 hardware computes: the graph without islands is refused."""
    monkeypatch.setattr(ranges, "float32_operators", lambda _model, _peaks: [])
    part, component = written(60_000, tmp_path)
    with pytest.raises(ParityError, match="the graph of vae_decoder is off by nan"):
        Ranges(tmp_path, {part.name: component}).to_float16(part, tolerance=5e-3)


def test_what_is_drawn_counts_too(tmp_path: Path) -> None:
    """Not the inputs of parity alone: louder latents than those have come by."""
    part, component = written(1, tmp_path)
    measured = Ranges(tmp_path, {part.name: component})
    network = measured.open(part.name)
    loud = 50_000 * parity_inputs(part)[0]["latents"]
    assert set(network.run(latents=loud)) == {"picture"}
    found = measured.to_float16(part, tolerance=5e-3)
    assert found.range is not None
    assert found.range.peak == pytest.approx(50_000 * loudest(part), rel=0.5)
    assert found.range.in_float32 > 0


def test_numbers_beyond_float32_are_refused(tmp_path: Path) -> None:
    part, component = written(1, tmp_path)
    measured = Ranges(tmp_path, {part.name: component})
    measured.open(part.name).run(latents=np.full((1, 4, 9, 9), 3e38, np.float32))
    with pytest.raises(ExportError, match=r"the numbers of \w+ at [\w.]+ overflow float32; fetch the checkpoint again"):
        measured.to_float16(part, tolerance=5e-3)


def test_a_float16_bundle_tells_its_ranges(tiny_bundle_cuda: Path) -> None:
    """And a manifest without them, of an older version, is read."""
    manifest = Bundle.open(tiny_bundle_cuda).manifest
    for name in COMPONENTS:
        found = manifest.component(name).range
        assert found is not None
        assert 0 < found.peak < LIMIT
        assert found.in_float32 == (4 if name == "unet" else 0)  # the timestep's angles, which reach 999
    older = msgspec.to_builtins(manifest)
    for name in COMPONENTS:
        del older[name]["range"]
    assert msgspec.convert(older, Manifest).unet.range is None
