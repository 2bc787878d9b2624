"""A bundle's networks by role: loaded when they are needed, and no more of them at once than memory allows."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import SHALLOW_UNET, Bundle
from pocket_diffusion.errors import BundleDamagedError, NotFiniteError, OperatorUnavailableError, OutOfMemoryError
from pocket_diffusion.machine.session import GraphSession, Provider, renew_shared_arena
from pocket_diffusion.machine.turns import Cancellation, Turns
from pocket_diffusion.model.arithmetic import ArithmeticChoice
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.lora import CHANGEABLE, Lora
from pocket_diffusion.model.memory import Demand, MemoryMode, needed_memory, runs_often
from pocket_diffusion.model.weights import ChangedWeights, changed_arrays, changed_memory

Arrays = dict[str, NDArray[np.float32]]

_STAGES = {
    "text_encoder": "context",
    "vae_encoder": "start",
    "unet": "steps",
    SHALLOW_UNET: "steps",
    "vae_decoder": "picture",
}
"""By role: the stage that needs the network. Networks of one stage may be loaded together."""

_EXACT = ArithmeticChoice()
_log = logging.getLogger(__name__)


class Network(Protocol):
    """A loaded network."""

    def run(self, *more: str, **inputs: NDArray[Any]) -> Arrays:
        """Compute the outputs, by name; `more` names those that are returned on request alone."""

    def close(self) -> None:
        """Give the memory back."""


OpenNetwork = Callable[[str], Network]
"""Loads a network by its role."""


class Components:
    """The networks of a bundle. Threads that use them take turns."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        provider: Provider,
        threads: int | None,
        budget: MemoryBudget,
        arithmetic: ArithmeticChoice = _EXACT,
        open_network: OpenNetwork | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            bundle: whose networks.
            provider: what computes them.
            threads: on a CPU; None for one a core.
            budget: the memory that they may take.
            arithmetic: which of them compute in 8 bits.
            open_network: loads a network in place of ONNX Runtime: for other engines, and for watching what is run.

        """
        self.bundle = Bundle(bundle.root, bundle.manifest.in_int8(arithmetic.int8))
        """The bundle as it is drawn with: a network that computes in 8 bits has its 8-bit graph there."""
        self.arithmetic = arithmetic
        self.provider: Provider = provider
        self.threads = threads
        self.mode: MemoryMode = budget.choose(self.bundle.manifest, Demand.usual(bundle.manifest), provider).mode
        self.turns = Turns()
        """Who takes a turn has the networks, their weights and the memory mode to itself for as long."""
        self.seconds_loading = 0.0
        self.loras: tuple[Lora, ...] = ()
        """What changes the weights, in this order."""
        self._changed: dict[str, ChangedWeights] = {}
        """By role, the memory of the weights that are changed."""
        self._budget = budget
        self._granted: int | None = None
        """Bytes that a picture may take while networks stay loaded: a picture of that size was found to fit."""
        self._open = open_network or self.open_session
        self._loaded: dict[str, Network] = {}
        self._coming: dict[str, Future[Network]] = {}
        """Networks that are being loaded in a thread."""
        self._shares_arena = False
        self._in_float32: dict[str, Network] = {}
        """What computes in the place of networks that left float16's range in this drawing."""

    def run(self, role: str, *more: str, **inputs: NDArray[Any]) -> Arrays:
        """Run a network, loading it first where it is not loaded; arrays go in and come out by name.

        `more` names outputs that are returned on request alone.

        Raises:
            InvalidRequestError: an input is missing, unknown, or of a shape that does not fit.
            OutOfMemoryError: memory did not suffice; all networks were closed, which gives theirs back.
            NotFiniteError: a network that computes in float16 left its range, and float32 does not help.
            InferenceError: ONNX Runtime failed in another way.
            BundleDamagedError, OperatorUnavailableError, ProviderUnavailableError: see `GraphSession`.
            PocketDiffusionError: it was cancelled; the reason.

        """
        with self.turns.turn():
            self.turns.cancellation.check()
            try:
                if role not in self._loaded:
                    self._load(role)
                network = self._in_float32.get(role, self._loaded[role])
                outputs = network.run(*more, **inputs)
                if self.bundle.manifest.computes_in_float16 and not _are_finite(outputs):
                    outputs = self._run_in_float32(role, *more, **inputs)
            except OutOfMemoryError:
                self.close()
                raise
            return outputs

    def expect(self, role: str) -> None:
        """Begin to load a network that will be needed soon, beside what is computed until then.

        Only where networks stay loaded; elsewhere, the memory is for one stage at a time.
        """
        if self.mode.keep_sessions and role not in self._loaded and role not in self._coming:
            self._prepare_arena()  # for this network and those that are loaded beside it
            loader = ThreadPoolExecutor(1, "loading")
            self._coming[role] = loader.submit(self._open, role)
            loader.shutdown(wait=False)

    def use_loras(self, loras: Sequence[Lora]) -> frozenset[str]:
        """Have these LoRAs change the weights, and no others; return the roles of the networks that are affected.

        Only those are closed; they are loaded again when they are needed.

        Raises:
            BundleFormatError, BundleDamagedError: see `Bundle.layers`.

        """
        roles = CHANGEABLE if self.bundle.manifest.unet.shallow is None else (*CHANGEABLE, SHALLOW_UNET)
        affected = frozenset(role for role in roles if _effects(loras, role) != _effects(self.loras, role))
        changed = self._changed | {role: changed_memory(self.bundle, role, loras) for role in affected}
        more = sum(one.size for one in changed.values()) - sum(one.size for one in self._changed.values())
        if self.provider == "cuda":  # where they lie in the place of the bundle's own
            more = 0
        for role in affected:
            self._give_up(role)
        if self._granted is not None:  # else the next picture is weighed with all its networks closed
            # Asked before the networks are closed, since they take what they hold again when they are loaded.
            self._granted = self._granted + more if more <= 0 or self._budget.has_room(more) else None
        for role in affected & self._loaded.keys():
            self._loaded.pop(role).close()
        self._close_float32(affected)
        self.loras, self._changed = tuple(loras), changed
        return affected

    @property
    def is_loaded(self) -> bool:
        """Whether there are networks in memory."""
        return bool(self._loaded or self._coming)

    def is_comfortable(self, demand: Demand) -> bool:
        """Whether a picture can be drawn in the fastest mode that was asked for, beside all that this process holds."""
        with self.turns.turn():
            demand = replace(demand, changed_weights=self._changed)
            if self._granted is not None and self._need(demand) <= self._granted:
                return True
            self.close()  # as `room_for` does
            return self._budget.choose(self.bundle.manifest, demand, self.provider).is_comfortable

    @contextmanager
    def room_for(self, demand: Demand) -> Iterator[None]:
        """Settle the memory mode for a picture, and leave no more loaded afterwards than that mode keeps.

        Raises:
            InvalidRequestError: the picture does not fit; names what would.

        """
        demand = replace(demand, changed_weights=self._changed)
        need = self._need(demand)
        if self._granted is None or need > self._granted:
            self.close()  # what the loaded networks hold counts as free
            choice = self._budget.choose(self.bundle.manifest, demand, self.provider)
            _log.info("%s", choice)
            choice.check()
            self.mode = choice.mode
            self._granted = self._need(demand)
        try:
            yield
        finally:
            if not self.mode.keep_sessions:
                self.close()
            self._close_float32(self._in_float32)

    def close(self) -> None:
        """Give back the memory of all loaded networks; they are loaded again when they are needed."""
        with self.turns.turn():
            self._granted = None
            self._close_float32(self._in_float32)
            for role in list(self._coming):
                self._give_up(role)
            if not self._loaded:
                return
            while self._loaded:
                self._loaded.popitem()[1].close()
            if self._shares_arena:
                renew_shared_arena()  # which gives the last one back
                self._shares_arena = False

    def open_session(self, role: str, provider: Provider | None = None) -> GraphSession:
        """Load a network anew, as the memory mode has it; on another provider than that of the others, if given."""
        manifest = self.bundle.manifest
        provider = provider or self.provider
        component = manifest.component(role).on(provider)
        self.bundle.check_files(component.graph, component.weights)
        self._prepare_arena()
        # Where networks stay loaded, one that a cancelled drawing began to load is there for the next drawing.
        cancellation = Cancellation() if self.mode.keep_sessions else self.turns.cancellation
        return GraphSession(
            self.bundle.root,
            role,
            component,
            provider,
            self.threads,
            expand_weights=self.mode.expands(role),
            arena=self.mode.arena,
            runs_often=runs_often(role),
            device_memory=self._budget.limit,
            replaced=changed_arrays(self.bundle, role, self.loras, cancellation.check),
            oldest_onnxruntime=manifest.onnxruntime,
            turns=self.turns,
        )

    def _run_in_float32(self, role: str, *more: str, **inputs: NDArray[Any]) -> Arrays:
        """Run a network that left float16's range on the CPU, for which ONNX Runtime computes in float32.

        Raises:
            NotFiniteError: that does not help, or cannot be.

        """
        if self.provider != "cpu" and role not in self._in_float32:
            try:
                self._in_float32[role] = self.open_session(role, "cpu")
            except (BundleDamagedError, OperatorUnavailableError) as error:  # as of nodes that are for GPUs alone
                _log.warning("%s cannot be computed on the CPU: %s", role, error)
            else:
                _log.warning("%s left the range of float16: it is computed on the CPU until the drawing ends", role)
                outputs = self._in_float32[role].run(*more, **inputs)
                if _are_finite(outputs):
                    return outputs
        raise NotFiniteError(
            f"{role} left the range of float16, whose largest number is 65,504, and there is no picture; "
            "export the bundle again with --weights fp32, or draw with a lower guidance scale"
        )

    def _close_float32(self, roles: Iterable[str]) -> None:
        for role in list(roles):
            if role in self._in_float32:
                self._in_float32.pop(role).close()

    def _load(self, role: str) -> None:
        if not self.mode.keep_sessions and any(_STAGES[other] != _STAGES[role] for other in self._loaded):
            self.close()
        start = time.perf_counter()
        self.expect(role)
        if role in self._coming:
            self.turns.cancellation.wait_for(self._coming[role])
            self._settle(role)
        else:
            self._loaded[role] = self._open(role)
        self.seconds_loading += time.perf_counter() - start

    def _settle(self, role: str) -> None:
        """Wait for a network that is being loaded, if it is."""
        coming = self._coming.pop(role, None)
        if coming is not None:
            self._loaded[role] = coming.result()

    def _give_up(self, role: str) -> None:
        """Wait for a network that is being loaded, if it is, and is not needed as it is: it need not load."""
        if role in self._coming:
            self.turns.cancellation.wait_for(self._coming[role])
        with suppress(Exception):
            self._settle(role)

    def _prepare_arena(self) -> None:
        """Give the networks that share an arena one of their own."""
        if self.mode.arena == "shared" and self.provider == "cpu" and not self._shares_arena:
            renew_shared_arena()
            self._shares_arena = True

    def _need(self, demand: Demand) -> int:
        """Return the bytes that are weighed: none where the bundle has no figures."""
        return needed_memory(self.bundle.manifest, self.mode, demand, self.provider) or 0


def _are_finite(arrays: Arrays) -> bool:
    return all(np.isfinite(array).all() for array in arrays.values())


def _effects(loras: Sequence[Lora], role: str) -> list[tuple[str, float]]:
    """Return what the weights of a network depend on."""
    return [(lora.file.hash.sha256, lora.strength(role)) for lora in loras if lora.changes(role)]
