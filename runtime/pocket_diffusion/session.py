"""ONNX Runtime, and nobody else imports it: providers, session options, shape and dtype checks."""

import importlib.metadata
import os
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import Component, Target, TensorSpec
from pocket_diffusion.errors import (
    BundleDamagedError,
    InferenceError,
    InvalidRequestError,
    ProviderUnavailableError,
    RuntimeUnavailableError,
)

Provider = Literal["cpu", "cuda"]
PROVIDERS = ("auto", "cpu", "cuda")
FLAVOURS = ("onnxruntime", "onnxruntime-gpu")
MAX_THREADS = 1024
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


def onnxruntime() -> ModuleType:
    """Import ONNX Runtime, or say how to get it.

    Raises:
        RuntimeUnavailableError: neither flavour is installed, or the one that is does not load.

    """
    try:
        import onnxruntime
    except ImportError as error:
        if not installed_flavours():
            why = "ONNX Runtime is not installed"
        else:
            why = f"ONNX Runtime does not load ({_first_line(error)})"
        raise RuntimeUnavailableError(
            f'{why}; run `pip install "pocket-diffusion[cpu]"`, or `[cuda]` on a machine with an NVIDIA GPU'
        ) from None
    onnxruntime.set_default_logger_severity(3)  # warnings of ONNX Runtime are for whoever builds graphs
    module: ModuleType = onnxruntime
    return module


def installed_flavours() -> dict[str, str]:
    """Return the installed distributions that provide `onnxruntime`, with their versions."""
    flavours = {}
    for name in FLAVOURS:
        try:
            flavours[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return flavours


def available_providers() -> list[str]:
    """Return the names of the execution providers that this build of ONNX Runtime has."""
    return list(onnxruntime().get_available_providers())


def choose_provider(asked: str, target: Target) -> Provider:
    """Settle `auto`: CUDA where this machine has it and the bundle was made for it, else the CPU.

    Raises:
        InvalidRequestError: not one of `PROVIDERS`.
        ProviderUnavailableError: CUDA was asked for and this ONNX Runtime has none.

    """
    if asked not in PROVIDERS:
        raise InvalidRequestError(f"provider {asked!r} is not known; choose one of {', '.join(PROVIDERS)}")
    if asked == "cpu":
        return "cpu"
    has_cuda = _CUDA in available_providers()
    if asked == "cuda" and not has_cuda:
        raise ProviderUnavailableError(
            "this ONNX Runtime has no CUDA provider; `pip uninstall onnxruntime`, then "
            '`pip install "pocket-diffusion[cuda]"`, or use --provider cpu; `pocket-diffusion doctor` tells more'
        )
    return "cuda" if has_cuda and (asked == "cuda" or target == "cuda") else "cpu"


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that makes no sense.

    Raises:
        InvalidRequestError: not from 1 to `MAX_THREADS`.

    """
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= MAX_THREADS):
        raise InvalidRequestError(f"threads must be a whole number from 1 to {MAX_THREADS}, not {threads!r}")


class GraphSession:
    """One component of a bundle, loaded: arrays in by name, one float32 array out."""

    def __init__(
        self, folder: Path, name: str, component: Component, provider: Provider, threads: int | None = None
    ) -> None:
        """Load a component whose files are in `folder`.

        Raises:
            BundleDamagedError: ONNX Runtime cannot load the graph, or it is not the one that the manifest describes.
            ProviderUnavailableError: CUDA was asked for and the session fell back to the CPU.

        """
        self.name = name
        self._spec = component
        self._session = _open(folder / component.graph, provider, threads)
        if provider == "cuda" and _CUDA not in self._session.get_providers():
            raise ProviderUnavailableError(
                "CUDA was to be used, but ONNX Runtime fell back to the CPU (driver, CUDA or cuDNN missing or of "
                "another version); use --provider cpu; `pocket-diffusion doctor` tells more"
            )
        for kind, found, specs in (
            ("inputs", self._session.get_inputs(), component.inputs),
            ("outputs", self._session.get_outputs(), component.outputs),
        ):
            names = sorted(node.name for node in found)
            if names != sorted(spec.name for spec in specs):
                raise BundleDamagedError(
                    f"{component.graph} has the {kind} {names}, not those of the manifest; export the bundle again"
                )

    def run(self, **inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the graph's output as float32; inputs are converted to the graph's precision.

        Raises:
            InvalidRequestError: an input is missing, unknown, of the wrong kind or of a shape that does not fit.
            InferenceError: ONNX Runtime failed.

        """
        _check_inputs(self.name, self._spec.inputs, inputs)
        feeds = {
            spec.name: np.ascontiguousarray(inputs[spec.name], dtype=np.dtype(spec.dtype)) for spec in self._spec.inputs
        }
        try:
            output = self._session.run([self._spec.outputs[0].name], feeds)[0]
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise InferenceError(
                f"{self.name} failed at {_shapes(feeds)}: {_first_line(error)}; "
                "if memory ran out, try a smaller size or count"
            ) from None
        return np.asarray(output, np.float32)


def _open(graph: Path, provider: Provider, threads: int | None) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # a failure is reported once, by the exception
    if threads is not None:
        options.intra_op_num_threads = threads
    providers: list[Any] = [_CPU]
    if provider == "cuda":
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds CUDA and cuDNN where pip put them
        providers = [_CUDA, _CPU]
    else:
        # Graphs arrive optimised, and weights are mapped from the file: optimising again would fold the Casts and
        # prepacking would copy, each at the price of a second set of weights in memory.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_mem_pattern = False  # halves the arena
    # ONNX Runtime itself refuses weights outside the graph's folder since 1.24, the oldest version that we allow.
    try:
        return ort.InferenceSession(os.fspath(graph), options, providers=providers)
    except Exception as error:  # as above
        raise BundleDamagedError(
            f"ONNX Runtime {ort.__version__} cannot load {graph}: {_first_line(error)}; "
            "`pocket-diffusion verify` tells whether the bundle is damaged"
        ) from None


def _check_inputs(name: str, specs: tuple[TensorSpec, ...], inputs: dict[str, NDArray[Any]]) -> None:
    expected = {spec.name for spec in specs}
    if set(inputs) != expected:
        raise InvalidRequestError(f"{name} takes {sorted(expected)}, not {sorted(inputs)}")
    sizes: dict[str, int] = {}
    for spec in specs:
        array = inputs[spec.name]
        fits = array.ndim == len(spec.shape)
        for found, wanted in zip(array.shape, spec.shape, strict=False):
            fits &= found == (sizes.setdefault(wanted, found) if isinstance(wanted, str) else wanted) and found > 0
        if not fits:
            raise InvalidRequestError(
                f"{name}: {spec.name} must be {list(spec.shape)}, not {list(array.shape)} ({sizes})"
            )
        if spec.dtype == "int64" and array.dtype.kind not in "iu":
            raise InvalidRequestError(f"{name}: {spec.name} holds whole numbers, not {array.dtype}")


def _shapes(arrays: dict[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
