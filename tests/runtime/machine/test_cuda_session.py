"""A graph whose arrays lie in buffers on a device: here on ONNX Runtime's "cpu", since no GPU is to be had."""

import gc
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import Component, Manifest
from pocket_diffusion.errors import Cancelled, InferenceError, OutOfMemoryError
from pocket_diffusion.machine import cuda_session
from pocket_diffusion.machine import session as sessions
from pocket_diffusion.machine.cuda_session import OPTIONS, CudaSession, OpenSession
from pocket_diffusion.machine.session import GraphSession
from pocket_diffusion.machine.turns import Turns

# ONNX Runtime's own words.
NO_MEMORY = "[ONNXRuntimeError] : 1 : FAIL : bfc_arena.cc:358 Failed to allocate memory for requested buffer of size 99"
CUDA_NO_MEMORY = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : CUDA failure 2: out of memory ; GPU=0"
CANNOT_RECORD = (
    "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as requested by the user as all "
    "compute graph nodes have not been partitioned to the CUDAExecutionProvider"
)


class Gpu:
    """Opens sessions on the CPU in the place of a GPU, and notes what is asked of them."""

    def __init__(self) -> None:
        self.opened: list[Mapping[str, str]] = []
        self.runs: list[str] = []
        """The graph id of each."""
        self.threads: set[str] = set()
        self.before_run: list[Callable[[], object]] = []
        """What happens at the beginning of the next runs."""

    def open(self, session: Any, options: Mapping[str, str]) -> "Watched":  # noqa: ANN401 - ONNX Runtime's
        self.threads.add(threading.current_thread().name)
        self.opened.append(options)
        return Watched(self, session)


class Watched:
    """ONNX Runtime's session, as far as it is used."""

    def __init__(self, gpu: Gpu, session: Any) -> None:  # noqa: ANN401 - as above
        self.gpu, self.session = gpu, session
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
        self.io_binding = session.io_binding

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def run_with_iobinding(self, binding: Any, options: Any) -> None:  # noqa: ANN401 - as above
        self.gpu.threads.add(threading.current_thread().name)
        try:
            self.gpu.runs.append(options.get_run_config_entry("gpu_graph_id"))
        except RuntimeError:  # there is none
            self.gpu.runs.append("")
        if self.gpu.before_run:
            self.gpu.before_run.pop(0)()
        self.session.run_with_iobinding(binding, options)


class OnCpu(CudaSession):
    """Its buffers lie where every machine has memory."""

    def __init__(self, open_session: OpenSession, memory: int | None = None, *, records: bool = False) -> None:
        super().__init__(open_session, memory, device="cpu", records=records)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """Have sessions that are opened on "cuda" run on a CPU."""
    gpu = Gpu()
    real = sessions._open

    def opened(graph: Path, provider: str, options: Any, cuda: Mapping[str, str], *more: Any) -> Any:  # noqa: ANN401
        session = real(graph, "cpu", options, {}, *more)
        return gpu.open(session, cuda) if provider == "cuda" else session

    monkeypatch.setattr(sessions, "_open", opened)
    monkeypatch.setattr(sessions, "CudaSession", OnCpu)
    return gpu


def fail(message: str) -> Callable[[], None]:
    def failing() -> None:
        raise RuntimeError(message)

    return failing


def nothing() -> None:
    pass


def open_on_gpu(pipeline: Pipeline, role: str = "unet", **options: Any) -> GraphSession:  # noqa: ANN401 - GraphSession's
    component = pipeline.bundle.manifest.component(role)
    return GraphSession(pipeline.bundle.root, role, component, "cuda", **options)


def inputs_of(component: Component, seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    sizes = {"batch": 1, "contexts": 2, "tokens": 77, "height": 8, "width": 8} | sizes
    rng = np.random.default_rng(seed)
    return {
        spec.name: (rng.integers(0, 9, shape) if spec.dtype == "int64" else rng.normal(size=shape).astype(spec.dtype))
        for spec in component.inputs
        for shape in [[sizes[side] if isinstance(side, str) else side for side in spec.shape]]
    }


@pytest.mark.parametrize("role", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
def test_buffers_change_nothing_run_after_run(pipeline: Pipeline, gpu: Gpu, role: str) -> None:
    component = pipeline.bundle.manifest.component(role)
    names = [spec.name for spec in component.outputs]
    session = open_on_gpu(pipeline, role, runs_often=True)
    unbound = session._session._session.session
    found, expected = [], []
    for seed in range(3):  # new, recorded, replayed
        found.append(session.run(**inputs_of(component, seed)))
        expected.append(dict(zip(names, unbound.run(names, inputs_of(component, seed)), strict=True)))
    for one, other in zip(found, expected, strict=True):  # at the end: earlier results stay what they were
        assert list(one) == names
        for name, output in other.items():
            assert one[name].dtype == np.float32
            np.testing.assert_array_equal(one[name], output)


def test_a_run_that_comes_again_is_recorded_by_its_shapes(pipeline: Pipeline, gpu: Gpu, manifest: Manifest) -> None:
    session = open_on_gpu(pipeline, runs_often=True)
    for width in (8, 8, 8, 16, 16, 8, 16):
        session.run(**inputs_of(manifest.unet, width=width))
    assert gpu.runs == ["-1", "1", "1", "-1", "2", "1", "2"]


def test_outputs_on_request_are_a_run_of_their_own(pipeline: Pipeline, gpu: Gpu, manifest: Manifest) -> None:
    session = open_on_gpu(pipeline, runs_often=True)
    inputs = inputs_of(manifest.unet)
    found = [set(session.run(*more, **inputs)) for more in ((), ("deep",), (), ("deep",))]
    assert found == [{"noise"}, {"noise", "deep"}] * 2
    assert gpu.runs == ["-1", "-1", "1", "2"]


def test_what_whole_numbers_settle_is_not_recorded(pipeline: Pipeline, gpu: Gpu, manifest: Manifest) -> None:
    session = open_on_gpu(pipeline, "text_encoder", runs_often=True)
    for _ in range(3):
        session.run(**inputs_of(manifest.text_encoder))
    assert gpu.runs == ["-1"] * 3


def test_a_graph_that_runs_once_is_not_recorded(pipeline: Pipeline, gpu: Gpu, manifest: Manifest) -> None:
    session = open_on_gpu(pipeline, "vae_decoder")
    for _ in range(3):
        session.run(**inputs_of(manifest.vae_decoder))
    assert gpu.runs == [""] * 3
    assert gpu.opened == [OPTIONS]


def test_buffers_that_were_given_up_are_never_replayed(pipeline: Pipeline, gpu: Gpu, manifest: Manifest) -> None:
    session = open_on_gpu(pipeline, runs_often=True)
    most = cuda_session._MOST_SHAPES
    for height in range(1, most + 2):
        for _ in range(2):
            session.run(**inputs_of(manifest.unet, contexts=1, height=8 * height))
    assert gpu.runs[1::2] == [*map(str, range(1, most + 1)), "-1"]  # no more are recorded than can be kept
    gpu.runs.clear()
    for _ in range(2):
        session.run(**inputs_of(manifest.unet, contexts=1, height=8))  # was the first to go
    session.run(**inputs_of(manifest.unet, contexts=1, height=8 * most))
    assert gpu.runs == ["-1", "-1", str(most)]


def test_what_has_not_changed_is_not_sent_again(
    pipeline: Pipeline, gpu: Gpu, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime import OrtValue

    sent = []
    update = OrtValue.update_inplace
    monkeypatch.setattr(OrtValue, "update_inplace", lambda value, array: (sent.append(array), update(value, array)))
    session, inputs = open_on_gpu(pipeline), inputs_of(manifest.unet)
    session.run(**inputs)
    assert len(sent) == len(inputs)
    sent.clear()
    session.run(**{name: array.copy() for name, array in inputs.items()})
    assert sent == []
    inputs["context"][-1, -1, -1] += 1  # in place
    changed = session.run(**inputs)["noise"]
    assert len(sent) == 1
    np.testing.assert_array_equal(sent[0], inputs["context"])
    np.testing.assert_array_equal(changed, open_on_gpu(pipeline).run(**inputs)["noise"])


def test_all_that_uses_the_gpu_is_done_by_one_thread(pipeline: Pipeline, gpu: Gpu, manifest: Manifest) -> None:
    """Which is where ONNX Runtime keeps what was recorded."""

    def draw() -> None:
        session = open_on_gpu(pipeline, runs_often=True)
        session.run(**inputs_of(manifest.unet))
        session.close()

    for _ in range(2):
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join()
    draw()
    assert len(gpu.threads) == 1
    assert threading.current_thread().name not in gpu.threads


def test_options_go_to_the_provider(pipeline: Pipeline, gpu: Gpu) -> None:
    open_on_gpu(pipeline, runs_often=True, device_memory=4 * 10**9)
    assert gpu.opened == [{**OPTIONS, "gpu_mem_limit": "4000000000", "enable_cuda_graph": "1"}]


def test_a_graph_that_cannot_be_recorded_is_opened_without(
    pipeline: Pipeline, gpu: Gpu, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accepting = gpu.open

    def refusing(session: Any, options: Mapping[str, str]) -> Watched:  # noqa: ANN401 - ONNX Runtime's
        if "enable_cuda_graph" in options:
            raise RuntimeError(CANNOT_RECORD)
        return accepting(session, options)

    monkeypatch.setattr(gpu, "open", refusing)
    session = open_on_gpu(pipeline, runs_often=True)
    for _ in range(2):
        session.run(**inputs_of(manifest.unet))
    assert gpu.runs == ["", ""]
    assert "CUDA graphs are not used: " in caplog.text


def test_a_recording_that_fails_is_done_without(
    pipeline: Pipeline, gpu: Gpu, manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    session, inputs = open_on_gpu(pipeline, runs_often=True), inputs_of(manifest.unet)
    gpu.before_run = [nothing, fail("CUDA failure 900: operation not permitted when stream is capturing")]
    first, second, third = (session.run(**inputs)["noise"] for _ in range(3))
    np.testing.assert_array_equal(second, first)
    np.testing.assert_array_equal(third, first)
    assert gpu.runs == ["-1", "1", "1", ""]  # options of the failed run are used again
    assert ["enable_cuda_graph" in options for options in gpu.opened] == [True, False]
    assert "CUDA graphs are not used: CUDA failure 900" in caplog.text


def test_a_run_that_is_cancelled_while_it_is_recorded_ends(pipeline: Pipeline, gpu: Gpu, manifest: Manifest) -> None:
    turns = Turns()
    session, inputs = open_on_gpu(pipeline, runs_often=True, turns=turns), inputs_of(manifest.unet)
    gpu.before_run = [nothing, turns.cancellation.cancel]
    session.run(**inputs)
    with pytest.raises(Cancelled):
        session.run(**inputs)
    assert len(gpu.opened) == 1


@pytest.mark.parametrize("message", [NO_MEMORY, CUDA_NO_MEMORY])
def test_where_memory_runs_out_the_error_says_what_helps_and_lets_go_of_it(
    pipeline: Pipeline, gpu: Gpu, manifest: Manifest, message: str
) -> None:
    session, inputs = open_on_gpu(pipeline, "vae_decoder"), inputs_of(manifest.vae_decoder)
    gpu.before_run = [fail(message)]
    held = weakref.ref(session._session._session)
    with pytest.raises(
        OutOfMemoryError, match=r"vae_decoder failed at latents \[1, .*; use --memory low, or"
    ) as caught:
        session.run(**inputs)
    assert isinstance(caught.value, MemoryError)
    session.close()
    gc.collect()
    assert held() is None  # though the error is still there


def test_where_memory_does_not_suffice_for_the_weights_the_bundle_is_not_blamed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: fail(CUDA_NO_MEMORY)())
    with pytest.raises(OutOfMemoryError, match=r"suffice to load unet.onnx; use --memory low"):
        GraphSession(pipeline.bundle.root, "unet", pipeline.bundle.manifest.unet, "cpu")


def test_a_closed_session_cannot_be_run(pipeline: Pipeline, gpu: Gpu, manifest: Manifest) -> None:
    session = open_on_gpu(pipeline)
    session.close()
    with pytest.raises(InferenceError, match="unet was closed"):
        session.run(**inputs_of(manifest.unet))
