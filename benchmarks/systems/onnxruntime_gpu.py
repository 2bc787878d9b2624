"""ONNX Runtime with its default options on a graphics card, on the float16 graphs of `torch.onnx.export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from gpu import Turn
from systems.ours_gpu import drawing_with, workload_of
from systems.peer import Opened, load_with
from timeline import Timeline

if TYPE_CHECKING:
    from gpu_draw import Draw

_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_NUMBERS = {"tensor(float16)": np.float16, "tensor(float)": np.float32, "tensor(int64)": np.int64}


def load(turn: Turn, timeline: Timeline) -> "Draw":
    """See `gpu_draw.MODULES`."""
    if turn.provider == "cuda":
        onnxruntime.preload_dlls()
    workload = workload_of(turn)

    def open_network(folder: Path, component: str, _threads: int | None) -> Opened:
        provider = _PROVIDERS[turn.provider]
        session = onnxruntime.InferenceSession(folder / f"{component}.onnx", providers=[provider])
        if provider not in session.get_providers():
            raise SystemExit(f"ONNX Runtime did not take {provider}")
        numbers = {one.name: _NUMBERS[one.type] for one in session.get_inputs()}

        def run(**inputs: NDArray[Any]) -> NDArray[np.float32]:
            output: NDArray[Any] = session.run(None, {name: x.astype(numbers[name]) for name, x in inputs.items()})[0]
            return output.astype(np.float32)

        return Opened(run)

    return drawing_with(load_with(open_network, Path(turn.work, "peers", "onnx-float16"), workload, timeline), workload)
