"""ONNX Runtime with its default options, on the graphs that `torch.onnx.export` makes of diffusers' networks."""

from pathlib import Path

import onnxruntime

from systems.peer import Opened


def open_network(folder: Path, component: str, threads: int | None) -> Opened:
    """See `systems.peer.OpenNetwork`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0  # 0 is ONNX Runtime's own choice
    session = onnxruntime.InferenceSession(folder / f"{component}.onnx", options, providers=["CPUExecutionProvider"])
    return Opened(lambda **inputs: session.run(None, inputs)[0])
