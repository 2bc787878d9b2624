"""One pipeline, several threads: drawings that take turns, and drawings that are cancelled wherever they are."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pocket_diffusion import Cancellation, Cancelled, Order, Pipeline
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.components import Arrays, Components
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

SMALL = {"width": 64, "height": 64, "steps": 2, "sampler": "ddpm"}


class Watched:
    """A network of the bundle that tells of itself before it runs, and notes how that ended."""

    def __init__(self, watch: "Watch", role: str) -> None:
        watch.on_load(role)
        self._watch, self._role = watch, role
        self._network = watch.components.open_session(role)

    def run(self, *more: str, **inputs: np.ndarray) -> Arrays:
        self._watch.runs.append(self._role)
        self._watch.on_run(self._role)
        outputs = self._network.run(*more, **inputs)
        while self._role == self._watch.endless:
            self._network.run(*more, **inputs)
        self._watch.finished.append(self._role)
        return outputs

    def close(self) -> None:
        self._network.close()


class Watch:
    """A pipeline whose networks are watched."""

    def __init__(self, memory: str) -> None:
        self.runs: list[str] = []
        self.finished: list[str] = []
        self.loaded: list[str] = []
        self.endless = ""
        """The network whose run ends with its cancellation alone."""
        self.on_run: Callable[[str], object] = lambda role: None
        self.on_load: Callable[[str], object] = self.loaded.append
        self.components = Components(
            Bundle.open(DEFAULT_BUNDLE),
            provider="cpu",
            threads=None,
            budget=MemoryBudget.parse(memory),
            open_network=lambda role: Watched(self, role),
        )
        self.pipeline = Pipeline(self.components)


@pytest.mark.parametrize("role", ["unet", "vae_decoder"])
def test_a_drawing_is_cancelled_within_a_run(role: str) -> None:
    watch, cancellation = Watch("balanced"), Cancellation()

    def cancel_soon(running: str) -> None:
        if running == role:
            threading.Timer(0.02, cancellation.cancel).start()

    watch.on_run, watch.endless = cancel_soon, role
    order = Order(prompt="a lake", steps=1, seed=1, width=512, height=512, guidance_scale=1)
    steps = watch.pipeline.steps(order, cancellation=cancellation)
    with pytest.raises(Cancelled):
        list(steps)
    assert watch.runs[-1] == role
    assert role not in watch.finished
    with pytest.raises(Cancelled):
        _ = steps.result
    watch.on_run, watch.endless = lambda role: None, ""
    assert watch.pipeline.generate("a lake", **SMALL, seed=1).images  # the pipeline goes on


@pytest.mark.parametrize(("role", "runs"), [("unet", 2), ("vae_decoder", 2)])
def test_a_drawing_is_cancelled_between_the_pictures_of_a_batch_and_between_tiles(role: str, runs: int) -> None:
    watch, cancellation = Watch("low"), Cancellation()

    def count(_: str) -> None:
        if watch.runs.count(role) == runs:
            cancellation.cancel()

    watch.on_run = count
    order = Order(prompt="a lake", steps=1, seed=1, width=384, height=64, count=3, guidance_scale=1)
    with pytest.raises(Cancelled):
        list(watch.pipeline.steps(order, cancellation=cancellation))
    assert watch.runs.count(role) == runs


def test_a_drawing_is_cancelled_while_it_loads_and_the_next_finds_what_was_begun() -> None:
    watch, cancellation, may_load = Watch("fast"), Cancellation(), threading.Event()

    def load(role: str) -> None:
        watch.loaded.append(role)
        if role == "unet":
            cancellation.cancel()
            assert may_load.wait(60)

    watch.on_load = load
    with pytest.raises(Cancelled):
        list(watch.pipeline.steps(Order(prompt="a lake", **SMALL), cancellation=cancellation))
    assert "unet" not in watch.runs
    may_load.set()
    assert watch.pipeline.generate("a lake", **SMALL).images
    assert watch.loaded.count("unet") == 1


def test_previews_are_not_given_up_where_their_preparation_is_cancelled() -> None:
    watch, cancellation = Watch("balanced"), Cancellation()
    cancellation.cancel()
    with pytest.raises(Cancelled):
        watch.pipeline.steps(Order(prompt="a lake", **SMALL), previews=True, cancellation=cancellation)
    watch.pipeline.prepare_previews()
    assert watch.pipeline.previewer.is_ready


def test_threads_that_share_a_pipeline_draw_what_each_would_alone() -> None:
    pipeline = Pipeline.load(provider="cpu", memory="balanced", arithmetic="exact")  # where networks make room

    def draw(seed: int) -> np.ndarray:
        if seed % 2:
            return pipeline.generate(f"a lake {seed}", **SMALL, seed=seed).latents
        return pipeline.steps(Order(prompt=f"a lake {seed}", **SMALL, seed=seed)).result.latents

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(draw, range(3)))
    for seed, latents in enumerate(together):
        np.testing.assert_array_equal(latents, draw(seed))


def test_two_drawings_may_take_turns_in_one_thread() -> None:
    pipeline = Pipeline.load(provider="cpu", memory="balanced", arithmetic="exact")
    orders = [Order(prompt="a lake", **SMALL, seed=seed) for seed in (1, 2)]
    first, second = (pipeline.steps(order) for order in orders)
    for _ in range(2):
        next(first)
        next(second)
    for steps, order in ((second, orders[1]), (first, orders[0])):
        np.testing.assert_array_equal(steps.result.latents, pipeline.steps(order).result.latents)


def test_a_drawing_that_is_dropped_in_its_midst_leaves_the_turn_to_others() -> None:
    pipeline = Pipeline.load(provider="cpu", memory="balanced", arithmetic="exact")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: next(pipeline.steps(Order(prompt="a lake", **SMALL)))).result(60)
    assert pipeline.generate("a lake", **SMALL).images
