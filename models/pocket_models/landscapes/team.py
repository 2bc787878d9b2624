"""Processes that compute gradients of one shared module, each on data of its own.

Two processes of one thread get more out of two cores than one process of two threads: small layers leave no
waiting at the end of every operation, and a core that something else is busy on holds up a step, not every layer.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

Module = TypeVar("Module", bound=nn.Module)

Loss = Callable[[Module, list[int], float], torch.Tensor]
"""Draws a batch and returns its loss: from the module, a seed that is new each time, and the progress 0..1."""


class Team(Generic[Module]):
    """``workers`` processes, this one among them, that share the parameters of ``module``.

    Leaving the context ends the others; they also end by themselves when this process is killed.
    """

    def __init__(self, module: Module, loss: Loss[Module], workers: int) -> None:
        """Fork the other processes; ``workers`` above 1 needs a module on the CPU."""
        self._module = module
        self._loss = loss
        self._connections: list[Connection] = []
        self._processes = []
        if workers == 1:
            return
        module.share_memory()
        size = sum(parameter.numel() for parameter in module.parameters())
        self._gradients = torch.zeros(workers - 1, size)
        self._gradients.share_memory_()  # type: ignore[no-untyped-call]  # torch's annotation is missing
        context = multiprocessing.get_context("fork")
        for number in range(1, workers):
            ours, theirs = context.Pipe()
            self._connections.append(ours)
            process = context.Process(target=self._work, args=(number, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)

    def __enter__(self) -> Team[Module]:
        """Return the team itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the other processes."""
        for process in self._processes:
            process.terminate()
            process.join()

    def gradients(self, seed: list[int], progress: float) -> float:
        """Leave the mean gradient over all workers in the module's parameters and return the mean loss."""
        for connection in self._connections:
            connection.send((seed, progress))
        losses: list[float] = [self._differentiate([*seed, 0], progress)]
        losses += [connection.recv() for connection in self._connections]
        if self._connections:
            start = 0
            for parameter in self._module.parameters():
                if parameter.grad is None:
                    raise ValueError("a parameter takes no part in the loss")
                stop = start + parameter.numel()
                parameter.grad += self._gradients[:, start:stop].sum(dim=0).view_as(parameter)
                parameter.grad /= len(losses)
                start = stop
        return sum(losses) / len(losses)

    def _differentiate(self, seed: list[int], progress: float) -> float:
        self._module.zero_grad(set_to_none=True)
        loss = self._loss(self._module, seed, progress)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's annotation is missing
        return float(loss.detach())

    def _work(self, number: int, connection: Connection) -> None:
        # Copies of the other ends came along with the fork; held open, they would hide the death of their owner.
        for inherited in self._connections:
            inherited.close()
        with contextlib.suppress(EOFError, BrokenPipeError):
            while True:
                seed, progress = connection.recv()
                loss = self._differentiate([*seed, number], progress)
                gradients = [parameter.grad for parameter in self._module.parameters() if parameter.grad is not None]
                self._gradients[number - 1] = parameters_to_vector(gradients)
                connection.send(loss)
