"""What all trainings share: a wall-clock budget, moving averages, and a checkpoint that survives kill -9."""

from __future__ import annotations

import copy
import csv
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from pocket_models.landscapes.files import written_whole
from pocket_models.landscapes.team import Loss, Module, Team

matplotlib.use("Agg")

from matplotlib import pyplot


@dataclass(frozen=True)
class Budget:
    """How long a stage trains and how often it stops to save and to report.

    ``minutes`` counts over all runs, with what saving and samples take; ``max_steps`` ends a stage earlier.
    ``workers`` processes share each step.
    """

    minutes: float
    workers: int = 1
    save_every_minutes: float = 3.0
    report_every_minutes: float = 0.5
    max_steps: int | None = None


class Stage(Generic[Module]):
    """One resumable training: a module, its moving average, its optimiser, its place in the schedule.

    Everything that decides what comes next is in the checkpoint, so a rerun goes on where the last save was.
    """

    def __init__(self, name: str, folder: Path, module: Module, *, budget: Budget, peak_rate: float) -> None:
        """Prepare to train ``module``; go on from ``folder``/``name``.pt if that exists."""
        self.name = name
        self.module = module
        self.step = 0
        self._folder = folder
        self._budget = budget
        self._peak_rate = peak_rate
        self._seconds = 0.0
        self._losses: list[tuple[int, float, float]] = []
        self._optimiser = torch.optim.AdamW(
            module.parameters(), peak_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.average = copy.deepcopy(module).requires_grad_(False).eval()
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        """Where this stage's state is kept."""
        return self._folder / f"{self.name}.pt"

    @property
    def progress(self) -> float:
        """Share of the budget spent, 0 to 1 and a little beyond."""
        by_time = self._seconds / (self._budget.minutes * 60)
        return by_time if self._budget.max_steps is None else max(by_time, self.step / self._budget.max_steps)

    def train(self, loss: Loss[Module], show: Callable[[], None]) -> None:
        """Train until the budget is spent, if it is not already; save, report and ``show`` in between."""
        if self.progress >= 1:
            return
        started = saved = reported = time.monotonic()
        spent_before = self._seconds
        with Team(self.module, loss, self._budget.workers) as team:
            while self.progress < 1:
                # A seed a step, so that an interrupted run draws what an uninterrupted one would have drawn.
                self._descend(team.gradients([self.step, *self.name.encode()], self.progress))
                now = time.monotonic()
                self._seconds = spent_before + now - started
                if now - reported > self._budget.report_every_minutes * 60:
                    self._report()
                    reported = now
                if now - saved > self._budget.save_every_minutes * 60:
                    self.save()
                    show()
                    saved = now
        self.save()
        show()

    def _descend(self, loss: float) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        if math.isfinite(loss) and math.isfinite(float(norm)):
            self._optimiser.step()
        self.step += 1
        # Short memory at first, so that the average does not remember the random start.
        keep = min(0.999, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.module.parameters(), strict=True):
                mean.lerp_(new, 1 - keep)
        self._losses.append((self.step, self._seconds, loss))

    def save(self) -> None:
        """Write checkpoint and loss curve; a reader sees the old or the new, never half of one."""
        state: dict[str, Any] = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "step": self.step,
            "seconds": self._seconds,
            "losses": self._losses,
        }
        with written_whole(self.checkpoint) as path:
            torch.save(state, path)
        self._write_curve()

    def _resume(self) -> None:
        device = next(self.module.parameters()).device
        state = torch.load(self.checkpoint, map_location=device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.step, self._seconds, self._losses = state["step"], state["seconds"], state["losses"]
        sys.stdout.write(f"{self.name}: goes on at step {self.step}, {self._seconds / 60:.1f} min trained\n")

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / 100)
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))
        return self._peak_rate * warm * (0.02 + 0.98 * fall)

    def _report(self) -> None:
        recent = np.mean([loss for _, _, loss in self._losses[-200:]])
        left = self._seconds * (1 / max(self.progress, 1e-6) - 1)
        pace = self.step / max(self._seconds, 1e-6)
        sys.stdout.write(
            f"{self.name}: step {self.step}, loss {recent:.4f}, {pace:.2f} steps/s, "
            f"{self._seconds / 60:.1f} min done, {left / 60:.1f} min to go\n"
        )
        sys.stdout.flush()

    def _write_curve(self) -> None:
        with (self._folder / f"{self.name}_loss.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("step", "seconds", "loss"))
            writer.writerows((step, f"{seconds:.1f}", f"{loss:.5f}") for step, seconds, loss in self._losses)
        if len(self._losses) < 2:
            return
        losses = np.array([loss for _, _, loss in self._losses])
        window = min(100, len(losses))
        smooth = np.convolve(losses, np.ones(window) / window, "valid")
        figure, axes = pyplot.subplots(figsize=(7, 4))
        axes.plot(losses, linewidth=0.3, alpha=0.4)
        axes.plot(np.arange(len(smooth)) + window // 2, smooth)
        axes.set(xlabel="step", ylabel="loss", title=self.name, yscale="log")
        figure.savefig(self._folder / f"{self.name}_loss.png", dpi=100)
        pyplot.close(figure)


def save_grid(pictures: NDArray[np.uint8], columns: int, path: Path) -> None:
    """Write uint8 [count, height, width, 3] as one PNG, row after row."""
    count, height, width, _ = pictures.shape
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (columns * width, rows * height))
    for index, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (index % columns * width, index // columns * height))
    sheet.save(path)
