"""How long each 3x3 convolution of a model takes directly and in Winograd's forms: the exporter's table of costs.

    python benchmarks/convolution_forms.py CHECKPOINT... [--repeats N] [--threads N] [--output FILE.json]

Run it on a machine that does nothing else; `--output export/pocket_export/rewrite/convolution_costs.json` renews the
table that `winograd` goes by. The models are not loaded, only their sizes.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import nn

from machine import machine_facts
from pocket_export.parts import PARTS, Part
from pocket_export.rewrite.convolution_costs import Convolution
from pocket_export.rewrite.winograd import winograd
from report import markdown_table, output_path, positive, progress, publish
from rewrites import read

FORMS = {"direct": None, "winograd_2": 2, "winograd_4": 4}


def convolutions(part: Part) -> set[Convolution]:
    """Return the 3x3 convolutions of stride 1 that a part runs for the default picture."""
    found = set()

    def note(layer: nn.Conv2d, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        if layer.kernel_size == (3, 3) and layer.stride == (1, 1):
            batch, channels, height, width = inputs[0].shape
            found.add(Convolution(channels, layer.out_channels, batch * height * width))

    module = part.module.to("meta")
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    with torch.inference_mode():
        module(*(x.to("meta") for x in part.example(part.usual_sizes)))
    return found


def open_forms(convolution: Convolution, threads: int | None) -> dict[str, onnxruntime.InferenceSession]:
    """Return a session for each form of one convolution, all with the same weights."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.intra_op_num_threads = threads or 0
    shape = (convolution.channels_out, convolution.channels_in, 3, 3)
    weights = np.random.default_rng(0).standard_normal(shape, np.float32)
    sessions = {}
    for form, tile in FORMS.items():
        proto = onnx.parser.parse_model(
            f'<ir_version: 9, opset_import: ["": 20]> graph (float[1,{convolution.channels_in},height,width] x)'
            " => (float y) { y = Conv <pads = [1, 1, 1, 1]> (x, weights) }"
        )
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "weights"))
        model = ir.from_proto(proto)
        model.meta["usual_sizes"] = dict(zip(("height", "width"), sides(convolution), strict=True))
        model = winograd(model, lambda _, tile=tile: tile)
        data = ir.to_proto(model).SerializeToString()
        sessions[form] = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    return sessions


def sides(convolution: Convolution) -> tuple[int, int]:
    """Return a height and a width with that many pixels, near a square."""
    height = next(n for n in range(int(convolution.pixels**0.5), 0, -1) if convolution.pixels % n == 0)
    return height, convolution.pixels // height


def measure(convolution: Convolution, *, repeats: int, threads: int | None) -> dict[str, float]:
    """Return the least seconds of each form, of runs by turns, the first of which do not count."""
    sessions = open_forms(convolution, threads)
    x = np.random.default_rng(1).standard_normal((1, convolution.channels_in, *sides(convolution)), np.float32)
    seconds: dict[str, list[float]] = {form: [] for form in sessions}
    for _ in range(repeats + 1):
        for form, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {"x": x})
            seconds[form].append(time.perf_counter() - start)
    return {form: float(f"{min(values[1:]):.3g}") for form, values in seconds.items()}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="as for `pocket-diffusion export`")
    parser.add_argument("--tokenizer", type=Path, help="for those that have none")
    parser.add_argument("--repeats", type=positive, default=5, help="runs of each form (default: 5)")
    parser.add_argument("--threads", type=positive, help="default: ONNX Runtime's choice")
    parser.add_argument("--output", type=output_path, metavar="FILE.json", help="write the table there too")
    arguments = parser.parse_args()
    found: set[Convolution] = set()
    for source in arguments.checkpoints:
        checkpoint = read(source, arguments.tokenizer)
        for make in PARTS:
            found |= convolutions(make(checkpoint))
    machine, rows = machine_facts(), []
    for convolution in sorted(found, key=lambda c: (c.pixels, c.channels_in, c.channels_out)):
        rows.append(vars(convolution) | measure(convolution, repeats=arguments.repeats, threads=arguments.threads))
        progress(f"{len(rows)} of {len(found)}: {rows[-1]}")
    header = ["channels", "pixels", *FORMS]
    cells = [
        [
            f"{row['channels_in']} → {row['channels_out']}",
            str(row["pixels"]),
            *(f"{row[f] * 1e3:.3g} ms" for f in FORMS),
        ]
        for row in rows
    ]
    publish({"machine": machine, "seconds": rows}, [markdown_table(header, cells)], arguments.output)


if __name__ == "__main__":
    main()
