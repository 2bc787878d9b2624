"""A graph on an NVIDIA GPU: its inputs and outputs stay in buffers there, and a run that comes again is replayed."""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
OpenSession = Callable[[Mapping[str, str]], Any]
"""Opens ONNX Runtime's session with these options of its CUDA provider."""

# The names and values are those of ONNX Runtime 1.31, core/providers/cuda/cuda_execution_provider_info.cc; one that it
# does not know is an error. None of them was measured: no GPU was to be had. `benchmarks/gpu.py` is there for it.
OPTIONS: Mapping[str, str] = {
    # The arena grows by what is asked for. To the next power of two, as is usual, 2.1 GB of activations would take 4.
    "arena_extend_strategy": "kSameAsRequested",
    # cuDNN names an algorithm for each convolution. The usual search times all of them at each new size, in each
    # process, for longer than a picture takes (core/providers/cuda/nn/conv.cc).
    "cudnn_conv_algo_search": "HEURISTIC",
    # Else at most 32 MB of workspace, with which the tensor cores' algorithms for float16 are not chosen.
    "cudnn_conv_use_max_workspace": "1",
    # Convolution and bias in one kernel of cuDNN's: off, as is usual, until somebody has measured what it gains.
    "fuse_conv_bias": "0",
    # The exporter settles the layout. ONNX Runtime's own change of it puts transposes around what it does not know.
    "prefer_nhwc": "0",
    # TF32 rounds the factors of float32 products to 10 bits, which is no more exact than float16.
    "use_tf32": "0",
}
"""Options of the CUDA provider that all sessions have."""

_RECORD = {"enable_cuda_graph": "1"}
_UNRECORDED = "-1"
"""The `gpu_graph_id` of a run that is neither recorded nor replayed."""
_MOST_SHAPES = 8
"""How many sets of buffers a session keeps, and how many runs it records, which stay until it is closed."""
_DEVICE = 0
_device_thread = ThreadPoolExecutor(1, "cuda")
"""The one thread that uses the GPU. ONNX Runtime keeps a recorded run for the thread that recorded it, and others draw
the next picture. And while a run is recorded, memory that another thread asks the GPU for would spoil it: the recording
is `cudaStreamCaptureModeGlobal` (core/providers/cuda/cuda_graph.cc)."""
_log = logging.getLogger(__name__)


@dataclass
class _Buffers:
    """What a run needs that has the same shapes each time."""

    binding: Any
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    sent: dict[str, Array] = field(default_factory=dict)
    """Copies of the arrays that lie in the input buffers."""
    graph_id: str = _UNRECORDED

    def send(self, arrays: Mapping[str, Array]) -> None:
        """Write arrays into the input buffers, but for those that are there already, bit for bit."""
        for name, array in arrays.items():
            sent = self.sent.get(name)
            if sent is None or not np.array_equal(sent.view(np.uint8), array.view(np.uint8)):
                self.inputs[name].update_inplace(array)
                self.sent[name] = array.copy()

    def release(self) -> None:
        """Let go of the session and the buffers, whoever still holds this."""
        self.binding = None
        for held in (self.inputs, self.outputs, self.sent):
            held.clear()


class CudaSession:
    """A session whose arrays lie in buffers on the GPU, one set for each set of shapes; those used last are kept.

    An array that has not changed since the last run, such as a context, is not sent again. From the second run with the
    same shapes on, a session that may record launches all kernels at once, as a CUDA graph.
    """

    def __init__(
        self, open_session: OpenSession, memory: int | None = None, *, device: str = "cuda", records: bool = False
    ) -> None:
        """Open the session.

        Args:
            open_session: opens it; called again without the option to record, where the graph cannot be recorded.
            memory: the bytes of the GPU's memory that its arena may take; None for all that there are.
            device: the name of ONNX Runtime's device where the buffers lie; tests have "cpu".
            records: whether runs that come again are recorded, which costs two runs more: for graphs that run often.

        Raises:
            Exception: what `open_session` raises.

        """
        self._open_session = open_session
        self._options = OPTIONS if memory is None else {**OPTIONS, "gpu_mem_limit": str(memory)}
        self._device = device
        self._records = records
        self._recorded = 0
        self._buffers: dict[Any, _Buffers] = {}
        """By names and shapes, least recently used first."""
        self._session: Any = None
        _device_thread.submit(self._open).result()

    def run(self, names: list[str], arrays: Mapping[str, Array], options: Any) -> list[Array]:  # noqa: ANN401 - ONNX Runtime has no types
        """Compute the outputs of these names, as ONNX Runtime's `InferenceSession.run` does.

        The arrays are contiguous and of the graph's types; `options` are `RunOptions` that were made for this run.

        Raises:
            Exception: ONNX Runtime's.

        """
        return _device_thread.submit(self._run, names, arrays, options).result()

    def close(self) -> None:
        """Give the GPU's memory back."""
        _device_thread.submit(self._close).result()

    def _open(self) -> None:
        if self._records:
            try:
                self._session = self._open_session({**self._options, **_RECORD})
            except Exception as error:  # ONNX Runtime's exceptions share no base of their own
                if "graph capture" not in str(error):
                    raise
                self._stop_recording(error)
        if self._session is None:
            self._session = self._open_session(self._options)

    def _run(self, names: list[str], arrays: Mapping[str, Array], options: Any) -> list[Array]:  # noqa: ANN401 - as above
        key = tuple(names), tuple((name, array.shape) for name, array in arrays.items())
        buffers = self._buffers.pop(key, None) or self._new_buffers(arrays)
        self._buffers[key] = buffers
        while len(self._buffers) > _MOST_SHAPES:
            self._buffers.pop(next(iter(self._buffers))).release()
        buffers.send(arrays)
        is_new = not buffers.outputs
        if is_new:
            for name in names:
                buffers.binding.bind_output(name, self._device, _DEVICE)
        elif self._records and buffers.graph_id == _UNRECORDED and self._may_record(arrays):
            self._recorded += 1
            buffers.graph_id = str(self._recorded)
            try:
                return self._computed(buffers, options)
            except Exception as error:  # as above
                if options.terminate:
                    raise
                self._stop_recording(error)
                self._close()
                self._open()
                return self._run(names, arrays, options)
        outputs = self._computed(buffers, options)
        if is_new:  # the buffers that ONNX Runtime took for the outputs are kept
            buffers.outputs = dict(zip(names, buffers.binding.get_outputs(), strict=True))
            for name, value in buffers.outputs.items():
                buffers.binding.bind_ortvalue_output(name, value)
        return outputs

    def _new_buffers(self, arrays: Mapping[str, Array]) -> _Buffers:
        from onnxruntime import OrtValue

        buffers = _Buffers(self._session.io_binding())
        for name, array in arrays.items():
            value = OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype, self._device, _DEVICE)
            buffers.inputs[name] = value
            buffers.binding.bind_ortvalue_input(name, value)
        return buffers

    def _may_record(self, arrays: Mapping[str, Array]) -> bool:
        """Tell whether a run does the same each time: whole numbers may settle shapes inside the graph."""
        return self._recorded < _MOST_SHAPES and all(array.dtype.kind == "f" for array in arrays.values())

    def _computed(self, buffers: _Buffers, options: Any) -> list[Array]:  # noqa: ANN401 - as above
        if self._records:
            options.add_run_config_entry("gpu_graph_id", buffers.graph_id)
        else:  # What a recorded run uses must stay where it is; else the arena gives back what it does not hold.
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"{self._arena}:{_DEVICE}")
        self._session.run_with_iobinding(buffers.binding, options)
        return [value.numpy().copy() for value in buffers.binding.get_outputs()]  # on "cpu", it is the buffer itself

    @property
    def _arena(self) -> str:
        return "gpu" if self._device == "cuda" else self._device

    def _stop_recording(self, error: Exception) -> None:
        _log.warning("CUDA graphs are not used: %s", str(error).strip().splitlines()[0])
        self._records = False

    def _close(self) -> None:
        while self._buffers:
            self._buffers.popitem()[1].release()
        self._session = None
