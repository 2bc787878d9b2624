"""Caches: which evaluations they leave out, and what stands in for those."""

from collections.abc import Callable, Hashable

import msgspec
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from pocket_diffusion import InvalidRequestError, Pipeline
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.drawing.caches import Cache, DeepFeatures, find_cache
from pocket_diffusion.drawing.caches.cache import Rhythm
from pocket_diffusion.drawing.caches.deep import DeepCache
from pocket_diffusion.drawing.caches.reuse import ReuseCache
from pocket_diffusion.drawing.metadata import parameters_text, settings
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.drawing.resolve import resolve as resolve_order
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.components import Arrays, Components, Network
from pocket_diffusion.order import Order
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_diffusion.server import create_app
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.server.orders import resolve_within

Resolve = Callable[..., Drawing]

SHAPE = (1, 4, 8, 8)
SMALL = {"width": 64, "height": 64, "steps": 10, "seed": 7}
IN_FULL = [0, 1, 2, 5, 8]
"""Of ten evaluations, with every third made in full."""


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


class Model:
    """Sees x_0 in latents by a given noise, and counts how often it is evaluated."""

    def __init__(self, noise: np.ndarray) -> None:
        self.noise, self.evaluations = noise, 0

    def see(self, cache: Cache, x: np.ndarray, sigma: float, under: Hashable = 0) -> np.ndarray:
        def evaluate() -> np.ndarray:
            self.evaluations += 1
            return x - np.float32(sigma) * self.noise

        return cache.x_0(x, sigma, under, evaluate)


def evaluated(cache: Cache, conditions: list[Hashable]) -> list[int]:
    """Return the numbers of the evaluations that are made."""
    model, made = Model(normal(0)), []
    for number, under in enumerate(conditions):
        before = model.evaluations
        model.see(cache, normal(number), 1.0, under)
        made += [number] * (model.evaluations - before)
    return made


def test_the_first_evaluations_are_made_and_then_every_third() -> None:
    assert evaluated(ReuseCache(Rhythm(3), adds_noise=False), [0] * 10) == IN_FULL


def test_other_contexts_are_evaluated_at_once_and_the_rhythm_begins_anew() -> None:
    under: list[Hashable] = [0] * 4 + [1] * 6
    assert evaluated(ReuseCache(Rhythm(3), adds_noise=False), under) == [0, 1, 2, 4, 7]


def test_on_a_straight_path_reusing_is_exact() -> None:
    model, cache = Model(normal(0)), ReuseCache(Rhythm(5), adds_noise=False)
    clean = normal(1)
    for sigma in (9.0, 7.0, 5.0, 3.0, 2.0, 1.0):
        found = model.see(cache, clean + np.float32(sigma) * model.noise, sigma)
        np.testing.assert_allclose(found, clean, atol=1e-5)
    assert model.evaluations == 3


def test_where_noise_is_added_the_clean_latents_stay() -> None:
    model, cache = Model(normal(0)), ReuseCache(Rhythm(5), adds_noise=True)
    found = [model.see(cache, normal(number), 1.0) for number in range(5)]
    np.testing.assert_array_equal(found[4], found[2])
    assert np.abs(found[2] - found[1]).max() > 0.1


def test_with_one_all_are_made() -> None:
    assert evaluated(ReuseCache(Rhythm(1), adds_noise=False), [0] * 6) == list(range(6))


class UNet:
    """Keeps which deep features each of its runs was given, and makes those that are missing."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, object]] = []

    def __call__(self, name: str, deep: DeepFeatures) -> np.ndarray:
        self.runs.append((name, None if deep.kept is None else deep.kept.item()))
        if deep.kept is None:
            deep.kept = np.float32(len(self.runs))
        return normal(0)


def test_deep_features_are_kept_for_each_run_of_an_evaluation() -> None:
    cache, unet = DeepCache(Rhythm(2, first=1)), UNet()

    def evaluate() -> np.ndarray:
        cache.run(unet, "negative")
        return cache.run(unet, "prompt")

    for _ in range(3):
        cache.x_0(normal(0), 1.0, 0, evaluate)
    in_full, shallow = [("negative", None), ("prompt", None)], [("negative", 1), ("prompt", 2)]
    assert unet.runs == in_full + shallow + in_full
    cache.x_0(normal(0), 1.0, 1, evaluate)
    assert unet.runs[-2:] == in_full  # under other contexts


@pytest.mark.parametrize(
    ("text", "found"),
    [("reuse", "reuse:3"), ("deep:5", "deep:5"), ("Deep:1", "deep:1"), ("none", None), (" NONE", None)],
)
def test_a_cache_is_a_method_and_a_number(text: str, found: str | None) -> None:
    setting = find_cache(text)
    assert (setting if setting is None else str(setting)) == found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("teacache", "cache 'teacache' is not known; choose one of none, reuse, deep, or with a number such as deep:3"),
        ("none:2", "cache 'none:2' is not known"),
        ("reuse:0", "cache 'reuse:0': the number is from 1, which leaves nothing out, to 10; such as reuse:3"),
        ("reuse:11", "to 10"),
        ("reuse:", "to 10"),
        ("deep:٣", "to 10"),
        ("deep:1.5", "to 10"),
        ("x" * 1000, "is not known"),
    ],
)
def test_refuses_another_method_or_number(text: str, why: str) -> None:
    with pytest.raises(InvalidRequestError) as error:
        find_cache(text)
    assert why in str(error.value)
    assert len(str(error.value)) < 200


@pytest.fixture
def resolve(pipeline: Pipeline) -> Resolve:
    """Resolve an order for the embedded model, without a shallow graph."""

    def resolved(**options: object) -> Drawing:
        unet = msgspec.structs.replace(pipeline.bundle.manifest.unet, shallow=None)
        manifest = msgspec.structs.replace(pipeline.bundle.manifest, unet=unet)
        return resolve_order(Order(prompt="a lake", **options), manifest)

    return resolved


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"sampler": "lcm"}, "cache reuse:3 cannot be had: LCM takes few steps, none of which can be left out"),
        ({"sampler": "tcd"}, "TCD takes few steps"),
        ({"sampler": "heun"}, "Heun evaluates the model twice a step, to correct the first answer by the second"),
        ({"steps": 7}, "7 evaluations of the model are too few to leave any out; .* draw at least 8 steps"),
        ({"steps": 20, "image": Image.new("RGB", (64, 64)), "strength": 0.35}, "7 evaluations of the model"),
        (
            {"cache": "deep"},
            "cache deep:3 cannot be had: this bundle has no shallow graph of its U-Net; take",
        ),
        ({"cache": 3}, "cache 3 is not known"),
    ],
)
def test_refuses_a_cache_where_it_makes_no_sense(resolve: Resolve, options: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidRequestError, match=why):
        resolve(**{"cache": "reuse", **options})


def test_a_server_has_its_usual_cache_where_an_order_can_have_it(pipeline: Pipeline) -> None:
    def cache_of(**options: object) -> str | None:
        order = Order(prompt="a lake", **options)
        return resolve_within(order, pipeline.bundle.manifest, Limits(), find_cache("reuse:2")).cache

    assert cache_of() == "reuse:2"
    assert cache_of(cache="reuse:4") == "reuse:4"
    assert cache_of(cache="none") == "none"
    assert cache_of(sampler="lcm", steps=4) is None


class Counted:
    """A network that notes its runs."""

    def __init__(self, network: Network, runs: list[Network]) -> None:
        self._network, self._runs = network, runs

    def run(self, *more: str, **inputs: np.ndarray) -> Arrays:
        self._runs.append(self._network)
        return self._network.run(*more, **inputs)

    def close(self) -> None:
        self._network.close()


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_a"])
def test_a_cached_picture_takes_fewer_runs_and_has_a_cache_of_its_own(pipeline: Pipeline, sampler: str) -> None:
    options = {**SMALL, "sampler": sampler}
    exact = pipeline.generate("a lake", **options)
    every = pipeline.generate("a lake", cache="reuse:1", **options)
    np.testing.assert_array_equal(every.latents, exact.latents)

    runs: list[Network] = []
    components = Components(
        pipeline.bundle,
        provider="cpu",
        threads=None,
        budget=MemoryBudget.parse("fast"),
        open_network=lambda role: Counted(components.open_session(role), runs if role == "unet" else []),
    )
    with Pipeline(components) as counted:
        cached = counted.generate("a lake", cache="reuse", count=2, **options)
    assert len(runs) == 2 * len(IN_FULL)
    assert np.abs(cached.latents[:1] - exact.latents).max() > 1e-3
    second = pipeline.generate("a lake", cache="reuse", **{**options, "seed": 8})
    np.testing.assert_allclose(cached.latents[1:], second.latents, atol=1e-4)  # pictures do not share a cache


def test_a_picture_says_what_cache_it_was_drawn_with(resolve: Resolve) -> None:
    drawing = resolve(cache="reuse")
    assert settings(drawing, 0, "model")["cache"] == "reuse:3"
    assert "Cache: reuse:3" in parameters_text(drawing, 0, "model")
    without = resolve(cache="none")
    assert without.cache_setting is None
    assert settings(without, 0, "model")["cache"] == "none"  # else a server with a cache would draw another picture
    assert "Cache" not in parameters_text(without, 0, "model")
    assert "cache" not in settings(resolve(), 0, "model")


def test_a_cache_makes_the_work_less(pipeline: Pipeline) -> None:
    def work(**options: object) -> float:
        return resolve_order(Order(prompt="a lake", **{**SMALL, **options}), pipeline.bundle.manifest).work

    whole = work()
    assert whole == 2 * SMALL["steps"]
    assert work(cache="none") == work(cache="reuse:1") == whole
    assert work(cache="reuse") == 2 * len(IN_FULL)
    deep = find_cache("deep")
    assert deep and len(IN_FULL) / SMALL["steps"] < deep.share(SMALL["steps"]) < 1
    assert deep.share(1) == 1


def test_a_server_refuses_a_cache_that_its_bundle_cannot_have(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = msgspec.structs.replace(Bundle.open(DEFAULT_BUNDLE).manifest.unet, shallow=None)
    loaded = Pipeline.load(provider="cpu")
    manifest = msgspec.structs.replace(loaded.bundle.manifest, unet=unet)
    monkeypatch.setattr(loaded, "bundle", Bundle(loaded.bundle.root, manifest))
    with pytest.raises(InvalidRequestError, match="cache deep:3 cannot be had: this bundle has no shallow graph"):
        create_app(loaded, cache="deep")
    with TestClient(create_app(loaded, cache="reuse:2")) as client:
        model = client.get("/api/model").json()
    assert (model["caches"], model["cache"]) == (["reuse"], "reuse:2")
