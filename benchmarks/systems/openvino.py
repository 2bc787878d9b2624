"""OpenVINO in float32, tuned for latency, on what its own converter makes of diffusers' networks."""

from pathlib import Path

import openvino

from systems.peer import Run

# Without the first, CPUs that have bfloat16 silently compute in it.
_CONFIG = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


def open_network(folder: Path, component: str, threads: int | None) -> Run:
    """See `systems.peer.OpenNetwork`."""
    config = _CONFIG if threads is None else {**_CONFIG, "INFERENCE_NUM_THREADS": str(threads)}
    model = openvino.Core().compile_model(folder / f"{component}.xml", "CPU", config)
    return lambda **inputs: model(inputs)[0]
