"""ONNX Runtime, and nobody else imports it: providers, session options, shape and dtype checks."""

import importlib.metadata
import os
import re
import reprlib
from collections.abc import Mapping
from functools import lru_cache, partial
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
    OperatorUnavailableError,
    OutOfMemoryError,
    ProviderUnavailableError,
    RuntimeUnavailableError,
)
from pocket_diffusion.files import read_regular
from pocket_diffusion.graph import LARGEST_GRAPH, graph_fault
from pocket_diffusion.machine import allocator
from pocket_diffusion.machine.cuda import CUDA, CUDNN, Cuda, find_cuda, open_library
from pocket_diffusion.machine.cuda_session import CudaSession
from pocket_diffusion.machine.turns import Turns

Provider = Literal["cpu", "cuda"]
Arena = Literal["own", "shared", "none"]
"""Where a session on a CPU takes the memory of its activations from: ONNX Runtime's arena, which keeps what is freed
for the next use, of its own or shared with others; or straight from the system, to which it goes back at once."""
PROVIDERS = ("auto", "cpu", "cuda")
FLAVOURS = ("onnxruntime", "onnxruntime-gpu")
MAX_THREADS = 1024
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"

# What ONNX Runtime 1.24 to 1.32 say when a graph is too new for them.
_LACKING = {
    r"Fatal error: (\S+)\(-?\d+\) is not a registered function/op": "the operator {}",
    r"No Op registered for (\S+) with domain_version": "the operator {}",
    r"Could not find an implementation for (\S+\(\d+\))": "the operator {}",
    r"Opset (\d+) is under development": "ONNX operator set {}",
    r"Unsupported model IR version: (\d+)": "ONNX file format {}",
}

_CUDA_FAILURE = r"\bCU(DA|DNN|BLAS) failure \d+: [^;]*[^; ]"
"""What it says when it begins with CUDA and something of NVIDIA's fails."""

# What ONNX Runtime, CUDA and its libraries say where memory is short.
_OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory|out of memory|Available memory of \d+ is smaller than requested"
    r"|CU(DNN|BLAS)_STATUS_ALLOC_FAILED|bad_alloc",
    re.IGNORECASE,
)


def onnxruntime() -> ModuleType:
    """Import ONNX Runtime, or say how to get it.

    Raises:
        RuntimeUnavailableError: neither flavour is installed, or the one that is does not load.

    """
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # its libraries make this error of Ctrl-C
            raise error.__cause__ from None
        if not installed_flavours():
            why = "ONNX Runtime is not installed"
        else:
            why = f"ONNX Runtime does not load ({_first_line(error)})"
        raise RuntimeUnavailableError(
            f'{why}; run `pip install "pocket-diffusion[cpu]"`, or `[cuda]` on a machine with an NVIDIA GPU'
        ) from None
    onnxruntime.set_default_logger_severity(4)  # as for sessions: a failure is reported once, by the exception
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


def usable_cuda() -> Cuda:
    """Find out whether ONNX Runtime can compute with CUDA here; see `find_cuda`."""
    if _CUDA not in available_providers():
        return Cuda(
            "this ONNX Runtime has no CUDA provider",
            f'`pip uninstall {" ".join(installed_flavours())}`, then `pip install "pocket-diffusion[cuda]"`',
        )
    return find_cuda(onnxruntime().cuda_version)


def require_cuda() -> None:
    """Refuse to go on where CUDA cannot be used.

    Raises:
        ProviderUnavailableError: it cannot; says why, and what to do.

    """
    found = usable_cuda()
    if found.obstacle is not None:
        raise ProviderUnavailableError(f"{found.refusal}; or use --provider cpu")


def choose_provider(asked: str, target: Target) -> Provider:
    """Settle `auto`: CUDA where this machine can use it and the bundle was made for it, else the CPU.

    Raises:
        InvalidRequestError: not one of `PROVIDERS`.
        ProviderUnavailableError: CUDA was asked for and cannot be used.

    """
    if asked not in PROVIDERS:
        raise InvalidRequestError(f"provider {reprlib.repr(asked)} is not known; choose one of {', '.join(PROVIDERS)}")
    if asked == "cpu":
        return "cpu"
    if asked == "cuda":
        require_cuda()
        return "cuda"
    onnxruntime()  # where it is missing, this is told now and not at the first picture
    return "cuda" if target == "cuda" and usable_cuda().obstacle is None else "cpu"


def renew_shared_arena() -> None:
    """Have sessions that share an arena and are opened from now on share a new one.

    ONNX Runtime holds one a process; the last one's memory goes when all sessions that share it are closed.
    """
    ort = onnxruntime()
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(where, None)


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads that makes no sense.

    Raises:
        InvalidRequestError: not from 1 to `MAX_THREADS`.

    """
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise InvalidRequestError(
            f"threads must be a whole number from 1 to {MAX_THREADS}, not {reprlib.repr(threads)}"
        )


class GraphSession:
    """One component of a bundle, loaded: arrays in by name, float32 arrays out by name."""

    def __init__(
        self,
        folder: Path,
        name: str,
        component: Component,
        provider: Provider,
        threads: int | None = None,
        *,
        expand_weights: bool = False,
        arena: Arena = "own",
        runs_often: bool = False,
        device_memory: int | None = None,
        replaced: Mapping[str, NDArray[Any]] | None = None,
        oldest_onnxruntime: str | None = None,
        turns: Turns | None = None,
    ) -> None:
        """Load a component whose files are in `folder`.

        On a CPU, weights stay mapped from their file and are cast just before each use, unless `expand_weights` has
        them as float32 in memory, or the component is small. An arena that is shared must be there: see
        `renew_shared_arena`. Without an arena, what is freed while running goes back to the system at once: with glibc
        by a setting of the whole process, which stays.

        On a GPU, a graph that `runs_often` is recorded and replayed; see `CudaSession`. It takes at most
        `device_memory` bytes there, if given.

        Arrays in `replaced` stand in for the initializers of these names, which lie in the weights file with the same
        shapes and types.

        A run ends early when the cancellation of `turns`, if given, asks for it.

        Raises:
            OutOfMemoryError: memory does not suffice for the weights.
            BundleDamagedError: ONNX Runtime cannot load the graph, it is not the one that the manifest describes, or
                it is none that the exporter would write; see `graph_fault`.
            OperatorUnavailableError: the graph has an operator that this ONNX Runtime lacks; names it, and
                `oldest_onnxruntime`, the first version to have it.
            ProviderUnavailableError: CUDA was asked for and cannot be used.

        """
        component = component.on(provider)
        self.name = name
        self._spec = component
        self._expanded = expand_weights
        self._turns = turns or Turns()
        self._weights = folder / component.weights
        self._mapped = _state_of(self._weights)
        _check_graph(folder, component)
        if arena == "none" and provider == "cpu":
            allocator.give_back_at_once()

        def opened(cuda_options: Mapping[str, str]) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
            small = component.is_small
            options = _options(provider, threads, expand_weights=expand_weights, arena=arena, is_small=small)
            graph = folder / component.graph
            session = _open(graph, provider, options, cuda_options, replaced or {}, oldest_onnxruntime)
            _check_session(session, component, provider)
            return session

        self._session: Any = opened({}) if provider == "cpu" else CudaSession(opened, device_memory, records=runs_often)

    def close(self) -> None:
        """Give the memory back; the session cannot be run again."""
        if isinstance(self._session, CudaSession):
            self._session.close()
        self._session = None
        if self._expanded:
            allocator.give_back_now()  # which would keep much of the weights for later otherwise

    def run(self, *more: str, **inputs: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        """Compute the outputs, by name and as float32; inputs are converted to the graph's precision.

        `more` names outputs that are returned on request alone.

        Raises:
            InvalidRequestError: an input is missing, unknown, of the wrong kind or of a shape that does not fit.
            OutOfMemoryError: memory did not suffice.
            InferenceError: ONNX Runtime failed in another way, or the session was closed.
            BundleDamagedError: something has written to the weights file since it was mapped. While ONNX Runtime
                computes, a file that becomes shorter ends the process by a signal.
            PocketDiffusionError: the run was cancelled; the cancellation's reason.

        """
        if self._session is None:
            raise InferenceError(f"{self.name} was closed; open a new session")
        self._check_weights()
        specs = (*self._spec.inputs, *(spec for spec in self._spec.options if spec.name in inputs))
        _check_inputs(self.name, specs, inputs)
        feeds = {spec.name: np.ascontiguousarray(inputs[spec.name], dtype=np.dtype(spec.dtype)) for spec in specs}
        names = [*(spec.name for spec in self._spec.outputs), *more]
        cancellation, options = self._turns.cancellation, onnxruntime().RunOptions()
        try:
            with cancellation.interrupting(partial(setattr, options, "terminate", True)):
                outputs = self._session.run(names, feeds, options)
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            cancellation.check()
            failed = f"{self.name} failed at {_shapes(feeds)}: {_first_line(error)}"
            if _OUT_OF_MEMORY.search(str(error)):
                error.__traceback__ = None  # whose frames hold the session, and with it the memory
                raise OutOfMemoryError(f"{failed}; use --memory low, or draw a smaller size or count") from None
            raise InferenceError(f"{failed}; if memory ran out, try a smaller size or count") from None
        return {name: np.asarray(output, np.float32) for name, output in zip(names, outputs, strict=True)}

    def _check_weights(self) -> None:
        """Refuse mapped weights that are not what they were. What another file replaces stays mapped as it was."""
        was, now = self._mapped, _state_of(self._weights)
        if was is None or now is None or not os.path.samestat(was, now):
            return
        if (was.st_size, was.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
            raise BundleDamagedError(
                f"{self._weights} was written to while it was in use; load the bundle again, and replace bundles as "
                "whole folders"
            )


def _state_of(path: Path) -> os.stat_result | None:
    """Look at a file; None where it is not there any more."""
    try:
        return path.stat()
    except OSError:
        return None


_fault_of = lru_cache(4)(graph_fault)  # some memory modes open the same graphs for each picture


def _check_graph(folder: Path, component: Component) -> None:
    try:
        content = read_regular(folder / component.graph, LARGEST_GRAPH)
    except OSError as error:
        raise BundleDamagedError(
            f"{folder / component.graph} cannot be read: {error.strerror}; export the bundle again"
        ) from None
    fault = _fault_of(content, component.graph, component.files)
    if fault:
        raise BundleDamagedError(
            f"{folder}: {fault}; update pocket-diffusion if a newer one made the bundle, else do not use it"
        )


def _options(provider: Provider, threads: int | None, *, expand_weights: bool, arena: Arena, is_small: bool) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4  # a failure is reported once, by the exception
    if threads is not None:
        options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # halves the arena
    if provider == "cuda":
        return options
    if is_small:
        options.add_session_config_entry("session.disable_quant_qdq", "1")  # as below; all else makes it faster
    elif expand_weights:
        # Folds the Casts and DequantizeLinears of the weights. Beyond the basic optimisations, ONNX Runtime would
        # replace the products with int8 weights by ones that round their inputs too.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    else:
        # Graphs arrive optimised, and weights are mapped from the file: folding and prepacking would copy them.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    if arena == "shared":
        options.add_session_config_entry("session.use_env_allocators", "1")
    elif arena == "none":
        options.enable_cpu_mem_arena = False
    return options


def _open(
    graph: Path,
    provider: Provider,
    options: Any,  # noqa: ANN401 - as above
    cuda_options: Mapping[str, str],
    replaced: Mapping[str, NDArray[Any]],
    oldest_onnxruntime: str | None,
) -> Any:  # noqa: ANN401 - as above
    ort = onnxruntime()
    # `add_initializer` would not do: the old values are folded before it replaces them. These values are copied.
    values = [ort.OrtValue.ortvalue_from_numpy(array) for array in replaced.values()]
    if values:
        options.add_external_initializers(list(replaced), values)
    if provider == "cuda":
        require_cuda()  # which loads NVIDIA's libraries; ONNX Runtime's own way prints what it misses
    providers = [(_CUDA, cuda_options), _CPU] if provider == "cuda" else [_CPU]
    try:
        # Without its fallback, which would say so on standard output, and compute on the CPU after a failure on CUDA.
        return ort.InferenceSession(os.fspath(graph), options, providers=providers, enable_fallback=0)
    except Exception as error:  # as above
        for pattern, what in _LACKING.items():
            if lacking := re.search(pattern, str(error)):
                raise OperatorUnavailableError(
                    f"{graph} uses {what.format(lacking[1])}, which ONNX Runtime {ort.__version__} lacks; the bundle "
                    f"needs version {oldest_onnxruntime or 'of its export'} or newer: update {' or '.join(FLAVOURS)}, "
                    "or export the bundle again"
                ) from None
        if _OUT_OF_MEMORY.search(str(error)):
            raise OutOfMemoryError(
                f"memory does not suffice to load {graph.name}; use --memory low, or free some memory"
            ) from None
        if failure := re.search(_CUDA_FAILURE, str(error)):
            raise ProviderUnavailableError(_does_not_start(failure[0])) from None
        raise BundleDamagedError(
            f"ONNX Runtime {ort.__version__} cannot load {graph}: {_first_line(error)}; "
            "`pocket-diffusion verify` tells whether the bundle is damaged"
        ) from None


def _check_session(session: Any, component: Component, provider: Provider) -> None:  # noqa: ANN401 - as above
    """Refuse a session that computes elsewhere, or another graph, than it should."""
    if provider == "cuda" and _CUDA not in session.get_providers():
        raise ProviderUnavailableError(_does_not_start(f"{_provider_fault()}; it needs CUDA {CUDA} and cuDNN {CUDNN}"))
    for kind, found, specs in (
        ("inputs", session.get_inputs(), component.inputs),
        ("outputs", session.get_outputs(), (*component.outputs, *component.outputs_on_request)),
    ):
        names = sorted(node.name for node in found)
        if names != sorted(spec.name for spec in specs):
            raise BundleDamagedError(
                f"{component.graph} has the {kind} {names}, not those of the manifest; export the bundle again"
            )


def _provider_fault() -> str:
    """Return why ONNX Runtime's library for CUDA, which it left out, does not load."""
    try:
        open_library(str(Path(str(onnxruntime().__file__)).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return str(error)
    return "it does not say why"


def _does_not_start(why: str) -> str:
    return (
        f"ONNX Runtime does not start CUDA, though driver, GPU and libraries were found ({why}); install "
        '"pocket-diffusion[cuda]" into a fresh environment, or use --provider cpu'
    )


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
