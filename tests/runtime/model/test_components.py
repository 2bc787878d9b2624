"""Networks by role and stage, and the seam through which other networks take their place."""

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from loras import random_lora, write_safetensors
from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.errors import BundleDamagedError, NotFiniteError, OperatorUnavailableError, OutOfMemoryError
from pocket_diffusion.model import budget as budgets
from pocket_diffusion.model import components as module
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.components import Arrays, Components, OpenNetwork
from pocket_diffusion.model.lora import CHANGEABLE, Lora, read_lora
from pocket_diffusion.model.memory import Demand
from pocket_diffusion.model.weights import changed_memory
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

SMALL = {"width": 64, "height": 64, "steps": 2, "seed": 7, "sampler": "ddpm"}


class FakeNetwork:
    """Answers with what it is asked, and notes that it is closed."""

    def __init__(self, role: str, open_now: list[str]) -> None:
        self._role, self._open_now = role, open_now
        open_now.append(role)

    def run(self, *_: str, **inputs: np.ndarray) -> Arrays:
        return inputs

    def close(self) -> None:
        self._open_now.remove(self._role)


def make(memory: str, open_network: OpenNetwork | None = None) -> Components:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    budget = MemoryBudget.parse(memory)
    return Components(bundle, provider="cpu", threads=None, budget=budget, open_network=open_network)


def test_where_no_more_than_a_stage_is_kept_the_networks_of_one_stage_are_loaded_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(module._STAGES, "controlnet", module._STAGES["unet"])
    open_now: list[str] = []
    components = make("balanced", lambda role: FakeNetwork(role, open_now))
    components.run("text_encoder")
    components.run("unet")
    assert open_now == ["unet"]
    components.run("controlnet")
    components.run("unet")
    assert open_now == ["unet", "controlnet"]
    components.run("vae_decoder")
    assert open_now == ["vae_decoder"]


def test_where_networks_are_kept_each_is_opened_once() -> None:
    open_now: list[str] = []
    components = make("fast", lambda role: FakeNetwork(role, open_now))
    for _ in range(2):
        for role in ("text_encoder", "unet", "vae_decoder"):
            components.run(role)
    assert open_now == ["text_encoder", "unet", "vae_decoder"]
    components.close()
    assert open_now == []


def test_all_outputs_come_by_name() -> None:
    found = make("fast", lambda role: FakeNetwork(role, [])).run("unet", a=np.ones(1), b=np.zeros(2))
    assert sorted(found) == ["a", "b"]


def test_a_pipeline_draws_with_other_networks_in_the_place_of_its_own(pipeline: Pipeline) -> None:
    ran: list[str] = []

    class Watched:
        def __init__(self, role: str) -> None:
            self.role, self.session = role, components.open_session(role)

        def run(self, *more: str, **inputs: np.ndarray) -> Arrays:
            ran.append(self.role)
            return self.session.run(*more, **inputs)

        def close(self) -> None:
            self.session.close()

    components = make("fast", Watched)
    found = Pipeline(components).generate("a lake", **SMALL)
    np.testing.assert_allclose(found.latents, pipeline.generate("a lake", **SMALL).latents, atol=1e-4)
    assert ran == ["text_encoder", "text_encoder", "unet", "unet", "vae_decoder"]


def test_loading_is_timed(pipeline: Pipeline) -> None:
    components = make("fast")
    components.run("text_encoder", ids=pipeline.tokenizer.frame([]))
    loading = components.seconds_loading
    assert loading > 0
    components.run("text_encoder", ids=pipeline.tokenizer.frame([]))
    assert components.seconds_loading == loading


def test_what_is_expected_is_loaded_beside_the_work() -> None:
    """And is there once, whoever asks first."""
    open_now: list[str] = []
    may_load = threading.Event()

    def open_network(role: str) -> FakeNetwork:
        if role == "unet":
            assert may_load.wait(60)
        return FakeNetwork(role, open_now)

    components = make("fast", open_network)
    components.expect("unet")
    components.expect("unet")
    components.run("text_encoder")
    assert open_now == ["text_encoder"]
    may_load.set()
    components.run("unet")
    components.expect("unet")
    components.expect("vae_decoder")
    components.close()
    assert open_now == []


def test_where_one_stage_is_kept_nothing_is_loaded_before_it_is_needed() -> None:
    open_now: list[str] = []
    components = make("balanced", lambda role: FakeNetwork(role, open_now))
    components.expect("unet")
    components.run("text_encoder")
    assert open_now == ["text_encoder"]


def test_what_cannot_be_loaded_is_told_when_it_is_needed() -> None:
    def open_network(role: str) -> FakeNetwork:
        raise BundleDamagedError(f"{role} is damaged")

    components = make("fast", open_network)
    for use in (lambda: components.run("unet"), components.close):
        components.expect("unet")
        with pytest.raises(BundleDamagedError, match="unet is damaged") if use != components.close else nullcontext():
            use()


@pytest.fixture
def lora(tmp_path: Path) -> Lora:
    bundle = Bundle.open(DEFAULT_BUNDLE)
    return Lora(read_lora(write_safetensors(tmp_path / "style.safetensors", random_lora(bundle)), bundle))


@pytest.mark.parametrize("error", [BundleDamagedError("with the LoRA"), OSError("the disk failed"), MemoryError()])
def test_what_a_lora_breaks_does_not_break_what_comes_after_it(lora: Lora, error: Exception) -> None:
    open_now: list[str] = []

    def open_network(role: str) -> FakeNetwork:
        if components.loras and role in CHANGEABLE:
            raise error
        return FakeNetwork(role, open_now)

    components = make("fast", open_network)
    components.use_loras([lora])
    components.expect("unet")
    with pytest.raises(type(error)):
        components.run("text_encoder")  # fails first, so that nobody asks for the U-Net
    components.use_loras([])
    components.run("unet")
    assert open_now == ["unet"]
    components.use_loras([lora])
    components.expect("unet")
    components.run("vae_decoder")
    components.close()
    assert open_now == []


@pytest.mark.parametrize(("left", "stays"), [(2, True), (0.5, False)])
def test_networks_stay_loaded_where_changed_weights_fit_beside_them(
    monkeypatch: pytest.MonkeyPatch, lora: Lora, left: float, stays: bool
) -> None:
    """What the networks hold that are loaded anew is no room: they take it again."""
    open_now: list[str] = []
    components = make("10GB", lambda role: FakeNetwork(role, open_now))
    demand = Demand.usual(components.bundle.manifest)
    monkeypatch.setattr(budgets, "free_memory", lambda: None)
    monkeypatch.setattr(budgets, "own_anonymous_memory", lambda: 0)
    with components.room_for(demand):
        for role in ("text_encoder", "unet", "vae_decoder"):
            components.run(role)
    more = sum(changed_memory(components.bundle, role, [lora]).size for role in CHANGEABLE)
    limit = 10**10
    monkeypatch.setattr(budgets, "own_anonymous_memory", lambda: int(limit - left * more) if "unet" in open_now else 0)
    components.use_loras([lora])
    assert open_now == ["vae_decoder"]  # the others have other weights now
    with components.room_for(demand):
        assert open_now == (["vae_decoder"] if stays else [])


class InFloat16:
    """A network as a GPU computes it that leaves float16's range: every number is multiplied by 1,000, twice."""

    def __init__(self, output: str) -> None:
        self.output = output
        self.runs = 0

    def run(self, *_: str, **inputs: np.ndarray) -> Arrays:
        self.runs += 1
        first = next(iter(inputs.values())).astype(np.float16)
        with np.errstate(over="ignore"):
            return {self.output: (first * np.float16(1000) * np.float16(1000)).astype(np.float32)}

    def close(self) -> None:
        pass


def in_float16(provider: Any, open_network: OpenNetwork | None = None) -> Components:  # noqa: ANN401 - a literal
    """The embedded bundle, as if it had been exported to compute in float16."""
    bundle = Bundle.open(DEFAULT_BUNDLE)
    manifest = msgspec.structs.replace(bundle.manifest, target="cuda", weights="fp16")
    budget = MemoryBudget.parse("fast")
    bundle = Bundle(bundle.root, manifest)
    return Components(bundle, provider=provider, threads=None, budget=budget, open_network=open_network)


LATENTS = np.full((1, 4, 8, 8), 2, np.float32)


def test_what_leaves_the_range_of_float16_is_computed_in_float32(
    pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    decoder = InFloat16("picture")
    components = in_float16("cuda", lambda _: decoder)
    expected = pipeline.components.run("vae_decoder", latents=LATENTS)["picture"]
    with components.room_for(Demand.usual(components.bundle.manifest)):
        for _ in range(2):
            found = components.run("vae_decoder", latents=LATENTS)["picture"]
            np.testing.assert_allclose(found, expected, atol=1e-4)
    assert decoder.runs == 1  # the second went to float32 at once
    assert "vae_decoder left the range of float16" in caplog.text
    with components.room_for(Demand.usual(components.bundle.manifest)):
        components.run("vae_decoder", latents=np.zeros_like(LATENTS))  # which float16 can compute
    assert decoder.runs == 2


def test_what_float32_does_not_help_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = "vae_decoder left the range of float16, .* there is no picture; export the bundle again with --weights"
    on_gpu = in_float16("cuda", lambda _: InFloat16("picture"))
    with pytest.raises(NotFiniteError, match=refused):
        on_gpu.run("vae_decoder", latents=np.full_like(LATENTS, np.nan))
    with pytest.raises(NotFiniteError, match=refused):
        in_float16("cpu").run("vae_decoder", latents=np.full_like(LATENTS, np.nan))

    def fail(*_: object) -> None:
        raise OperatorUnavailableError("NhwcConv is for GPUs")

    monkeypatch.setattr(on_gpu, "open_session", fail)
    on_gpu.close()
    with pytest.raises(NotFiniteError, match=refused):
        on_gpu.run("vae_decoder", latents=LATENTS)


def test_no_picture_is_better_than_a_black_one() -> None:
    components = in_float16("cpu", lambda role: InFloat16("picture") if role == "vae_decoder" else real(role))
    real = components.open_session
    with pytest.raises(NotFiniteError):
        Pipeline(components).generate("a lake", **SMALL)


def test_where_memory_runs_out_all_is_given_back_and_the_next_picture_is_drawn() -> None:
    open_now: list[str] = []
    failing = True

    class Large(FakeNetwork):
        def run(self, *more: str, **inputs: np.ndarray) -> Arrays:
            if failing and self._role == "vae_decoder":
                raise OutOfMemoryError("vae_decoder failed")
            return super().run(*more, **inputs)

    components = make("fast", lambda role: Large(role, open_now))
    demand = Demand.usual(components.bundle.manifest)
    with pytest.raises(OutOfMemoryError), components.room_for(demand):
        for role in ("text_encoder", "unet", "vae_decoder"):
            components.run(role)
    assert open_now == []
    failing = False
    with components.room_for(demand):
        for role in ("text_encoder", "unet", "vae_decoder"):
            components.run(role)
    assert open_now == ["text_encoder", "unet", "vae_decoder"]


def test_where_memory_does_not_suffice_to_load_a_network_the_others_are_closed_too() -> None:
    open_now: list[str] = []

    def open_network(role: str) -> FakeNetwork:
        if role == "vae_decoder":
            raise OutOfMemoryError("memory does not suffice to load vae_decoder")
        return FakeNetwork(role, open_now)

    components = make("fast", open_network)
    components.run("unet")
    with pytest.raises(OutOfMemoryError):
        components.run("vae_decoder")
    assert open_now == []
