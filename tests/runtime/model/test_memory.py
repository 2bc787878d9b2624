"""Memory modes: what each needs, which one is chosen, and refusals before the work."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from pocket_diffusion import Cancelled, Pipeline, PocketDiffusionError
from pocket_diffusion.bundle import COMPONENTS, ComponentMemory, Manifest
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.machine.free_memory import own_anonymous_memory
from pocket_diffusion.model import budget as budgets
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.memory import _CUDA_CONTEXT, CUDA_MODES, MODES, Demand, needed_memory
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

MB = 10**6
SMALL = {"width": 64, "height": 64, "steps": 2, "guidance_scale": 4.0, "seed": 7}


@pytest.fixture
def measured(manifest: Manifest) -> Manifest:
    """The embedded manifest with round figures: a picture of 512x512 needs 2.0 GB, 0.8 GB or 0.4 GB."""
    figures = {
        "text_encoder": ComponentMemory(base=50 * MB, per_pixel=0, expanded_weights=200 * MB, least=0),
        "unet": ComponentMemory(base=100 * MB, per_pixel=1000, expanded_weights=1000 * MB, least=0),
        "vae_encoder": ComponentMemory(base=10 * MB, per_pixel=2000, expanded_weights=50 * MB, least=0),
        "vae_decoder": ComponentMemory(base=10 * MB, per_pixel=3000, expanded_weights=50 * MB, least=0),
    }
    components = {
        name: msgspec.structs.replace(manifest.component(name), memory=figure) for name, figure in figures.items()
    }
    return msgspec.structs.replace(manifest, **components)


def drawing(width: int = 512, height: int = 512, *, guided: bool = True, from_picture: bool = False) -> Demand:
    return Demand(width=width, height=height, guided=guided, from_picture=from_picture)


@pytest.fixture
def set_free(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_free(free: int | None, own: int = 0) -> None:
        monkeypatch.setattr(budgets, "free_memory", lambda: free)
        monkeypatch.setattr(budgets, "own_anonymous_memory", lambda: own)

    return set_free


def need(manifest: Manifest, mode: str, of: Demand) -> int:
    found = needed_memory(manifest, MODES[mode], of)
    assert found is not None
    return found


def test_components_take_turns_and_the_largest_counts(measured: Manifest) -> None:
    pixels = 512 * 512
    assert need(measured, "balanced", drawing()) == 10 * MB + (3000 + 60) * pixels
    assert need(measured, "low", drawing()) == 100 * MB + (1000 + 60) * pixels  # the decoder is in tiles


def test_expanded_weights_come_on_top(measured: Manifest) -> None:
    # They are expanded for the U-Net alone, and stay while the others run; so does a part of what the others shared.
    others = 50 * MB + 100 * MB + 2 * 1000 * 512 * 512
    assert need(measured, "fast", drawing()) == need(measured, "balanced", drawing()) + 1000 * MB + others // 4


def test_without_guidance_the_unet_needs_half(measured: Manifest) -> None:
    large = {"width": 1024, "height": 1024}  # where the decoder, in tiles, needs less
    difference = need(measured, "fast", drawing(**large)) - need(measured, "fast", drawing(**large, guided=False))
    assert difference == 1000 * 1024 * 1024


def test_pictures_add_up_when_they_are_finished(measured: Manifest) -> None:
    of_ten = Demand(width=512, height=256, guided=True, from_picture=False, count=10)
    assert need(measured, "low", of_ten) - need(measured, "low", drawing(512, 256)) == 9 * 4 * 512 * 256


def test_figures_as_large_as_can_be_are_refused_by_their_need(
    measured: Manifest, set_free: Callable[..., None]
) -> None:
    most = ComponentMemory(base=2**50, per_pixel=2**50, expanded_weights=2**50, least=0)
    huge = msgspec.structs.replace(measured, unet=msgspec.structs.replace(measured.unet, memory=most))
    set_free(8000 * MB)
    with pytest.raises(InvalidRequestError, match=r"512x512 needs \d{15} MB of memory in mode low"):
        MemoryBudget().choose(huge, drawing(), "cpu").check()


def test_a_bundle_without_figures_needs_who_knows(manifest: Manifest) -> None:
    silent = msgspec.structs.replace(manifest, unet=msgspec.structs.replace(manifest.unet, memory=None))
    assert all(needed_memory(silent, mode, drawing()) is None for mode in MODES.values())
    choice = MemoryBudget().choose(silent, drawing(), "cpu")
    choice.check()
    assert choice.mode.name == "balanced"


@pytest.mark.parametrize(
    ("free", "mode"), [(100_000, "fast"), (2000, "balanced"), (900, "low"), (1, "low"), (None, "balanced")]
)
def test_auto_takes_the_fastest_that_fits_with_some_reserve(
    measured: Manifest, set_free: Callable[..., None], free: int | None, mode: str
) -> None:
    set_free(None if free is None else free * MB)
    assert MemoryBudget().choose(measured, drawing(), "cpu").mode.name == mode


def test_auto_on_a_graphics_card_that_does_not_tell_keeps_everything(
    measured: Manifest, set_free: Callable[..., None]
) -> None:
    set_free(1)
    choice = MemoryBudget().choose(measured, drawing(), "cuda")
    choice.check()
    assert choice.mode.name == "fast"


def on_cuda(manifest: Manifest, mode: str, of: Demand) -> int:
    found = needed_memory(manifest, CUDA_MODES[mode], of, "cuda")
    assert found is not None
    return found - _CUDA_CONTEXT


def test_a_graphics_card_holds_weights_as_they_are_stored_and_what_is_used_again(measured: Manifest) -> None:
    weights = [measured.files[measured.component(name).weights].size for name in COMPONENTS]
    without_encoder = sum(weights) - measured.files[measured.vae_encoder.weights].size
    pixels = 1024 * 1024
    large = drawing(1024, 1024)
    assert (
        on_cuda(measured, "fast", large) == without_encoder + (2 * 1000 + 3000) * pixels
    )  # the decoder takes it whole
    assert on_cuda(measured, "balanced", large) == without_encoder + 2 * 1000 * pixels + 3000 * (72 * 8) ** 2
    assert on_cuda(measured, "low", large) == max(weights) + 1000 * pixels
    from_picture = drawing(1024, 1024, from_picture=True)
    assert on_cuda(measured, "fast", from_picture) - on_cuda(measured, "fast", large) == sum(weights) - without_encoder


def test_activations_in_float16_take_half(measured: Manifest) -> None:
    in_float16 = msgspec.structs.replace(measured, target="cuda", weights="fp16")
    weights = 2 * on_cuda(in_float16, "low", drawing()) - on_cuda(measured, "low", drawing())
    assert weights == measured.files[measured.unet.weights].size


@pytest.mark.parametrize(("free", "mode"), [(100_000, "fast"), (8000, "balanced"), (3000, "low"), (None, "fast")])
def test_auto_on_a_graphics_card_goes_by_what_it_has_free(
    measured: Manifest,
    set_free: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    free: int | None,
    mode: str,
) -> None:
    set_free(1)  # of the machine, which counts for nothing here
    monkeypatch.setattr(budgets, "free_device_memory", lambda: None if free is None else free * MB)
    choice = MemoryBudget().choose(measured, drawing(1536, 1024), "cuda")
    choice.check()
    assert choice.mode is CUDA_MODES[mode]


def test_what_a_graphics_card_has_no_room_for_is_refused(
    measured: Manifest, set_free: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_free(100_000)
    monkeypatch.setattr(budgets, "free_device_memory", lambda: 24_000 * MB)
    choice = MemoryBudget.parse("1GB").choose(measured, drawing(1024, 1024), "cuda")
    refusal = (
        r"1024x1024 needs \d+ MB of the GPU's memory in mode low, and 1000 MB are left of the limit; "
        r"a limit of \d+ MB would do, or the largest .* in mode low is \d+x\d+$"
    )
    with pytest.raises(InvalidRequestError, match=refusal):
        choice.check()


def test_a_limit_counts_what_the_process_has_already(measured: Manifest, set_free: Callable[..., None]) -> None:
    set_free(100_000 * MB, own=200 * MB)
    choice = MemoryBudget.parse("1500MB").choose(measured, drawing(), "cpu")
    assert (choice.free, choice.mode.name) == (1300 * MB, "balanced")
    set_free(None, own=200 * MB)
    assert MemoryBudget.parse("100MB").choose(measured, drawing(), "cpu").free == 0


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("auto", MemoryBudget("auto")),
        ("low", MemoryBudget("low")),
        ("1500MB", MemoryBudget(limit=1500 * MB)),
        ("1.5gb", MemoryBudget(limit=1500 * MB)),
        ("2 GiB", MemoryBudget(limit=2**31)),
    ],
)
def test_modes_and_limits_are_understood(text: str, budget: MemoryBudget) -> None:
    assert MemoryBudget.parse(text) == budget


@pytest.mark.parametrize(
    "text", ["", "lots", "Low", "1500", "-1GB", "1e3MB", "1TB", "nanGB", "9" * 400 + "GB", "٣GB", None, 5, []]
)
def test_what_is_neither_is_refused_with_what_is_allowed(text: object) -> None:
    with pytest.raises(
        InvalidRequestError, match="choose auto, fast, balanced, low, or a limit such as 1500MB or 2GiB"
    ) as caught:
        Pipeline.load(memory=text)
    assert len(str(caught.value)) < 200


def test_a_refusal_names_the_need_what_is_free_and_what_would_fit(
    measured: Manifest, set_free: Callable[..., None]
) -> None:
    set_free(250 * MB)
    with pytest.raises(InvalidRequestError) as caught:
        MemoryBudget().choose(measured, drawing(512, 768), "cpu").check()
    assert str(caught.value) == (
        "512x768 needs 517 MB of memory in mode low, and 250 MB are free; "
        "the largest of such proportions that fits in mode low is 224x344"
    )
    MemoryBudget().choose(measured, drawing(224, 344), "cpu").check()
    with pytest.raises(InvalidRequestError):
        MemoryBudget().choose(measured, drawing(232, 352), "cpu").check()


def test_a_mode_that_was_asked_for_is_not_left_but_another_is_named(
    measured: Manifest, set_free: Callable[..., None]
) -> None:
    set_free(1500 * MB)
    with pytest.raises(
        InvalidRequestError, match="in mode fast, and 1500 MB are free; use memory balanced, which needs"
    ):
        MemoryBudget("fast").choose(measured, drawing(), "cpu").check()


def test_a_size_that_does_not_fit_is_no_advice_where_another_mode_does(
    measured: Manifest, set_free: Callable[..., None]
) -> None:
    set_free(1000 * MB)
    with pytest.raises(InvalidRequestError, match=r"use memory balanced, which needs \d+ MB$"):
        MemoryBudget("fast").choose(measured, drawing(), "cpu").check()


@pytest.mark.parametrize("machine", [100_000, None])
def test_the_limit_that_is_advised_would_do(
    measured: Manifest, set_free: Callable[..., None], machine: int | None
) -> None:
    set_free(None if machine is None else machine * MB, own=200 * MB)
    with pytest.raises(InvalidRequestError) as caught:
        MemoryBudget.parse("450MB").choose(measured, drawing(512, 768), "cpu").check()
    assert str(caught.value) == (
        "512x768 needs 517 MB of memory in mode low, and 250 MB are left of the limit; a limit of 717 MB would do, "
        "or the largest of such proportions that fits in mode low is 224x344"
    )
    MemoryBudget.parse("717MB").choose(measured, drawing(512, 768), "cpu").check()


def test_no_limit_is_advised_that_the_machine_lacks_memory_for(
    measured: Manifest, set_free: Callable[..., None]
) -> None:
    set_free(90 * MB, own=200 * MB)
    with pytest.raises(InvalidRequestError, match="90 MB are free; no size fits in mode low; free some memory"):
        MemoryBudget.parse("2GB").choose(measured, drawing(), "cpu").check()


def test_where_nothing_fits_that_is_said(measured: Manifest, set_free: Callable[..., None]) -> None:
    set_free(50 * MB)
    with pytest.raises(InvalidRequestError, match="no size fits in mode low; free some memory"):
        MemoryBudget().choose(measured, drawing(), "cpu").check()


def test_a_refusal_comes_before_the_work(set_free: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(20 * MB)
    pipeline = Pipeline.load(provider="cpu", arithmetic="exact")
    monkeypatch.setattr(pipeline.components, "run", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(PocketDiffusionError, match="20 MB are free"):
        pipeline.generate("a lake", width=1024, height=1024)


def test_auto_steps_down_for_a_large_picture(set_free: Callable[..., None], manifest: Manifest) -> None:
    small, large = drawing(64, 64), drawing(256, 256)
    set_free(int(need(manifest, "fast", small) * 1.3))
    pipeline = Pipeline.load(provider="cpu", arithmetic="exact")
    pipeline.generate("a lake", **SMALL)
    assert pipeline.memory == "fast"
    assert need(manifest, "fast", large) > need(manifest, "fast", small) * 1.3 > need(manifest, "balanced", large)
    pipeline.generate("a lake", **{**SMALL, "width": large.width, "height": large.height})
    assert pipeline.memory in ("balanced", "low")
    pipeline.generate("a lake", **SMALL)
    assert pipeline.memory == "fast"


def test_memory_is_weighed_again_where_no_graph_is_kept(set_free: Callable[..., None]) -> None:
    pipeline = Pipeline.load(provider="cpu", memory="low", arithmetic="exact")
    pipeline.generate("a lake", **SMALL)
    set_free(1)
    with pytest.raises(InvalidRequestError, match="0 MB are free"):
        pipeline.generate("a lake", **SMALL)


def test_memory_is_weighed_again_after_closing(set_free: Callable[..., None]) -> None:
    pipeline = Pipeline.load(provider="cpu", memory="fast", arithmetic="exact")
    pipeline.generate("a lake", **SMALL)
    pipeline.close()
    set_free(1)
    with pytest.raises(InvalidRequestError, match="0 MB are free"):
        pipeline.generate("a lake", **SMALL)


def test_what_was_found_to_fit_is_not_weighed_again(set_free: Callable[..., None]) -> None:
    pipeline = Pipeline.load(provider="cpu", memory="fast", arithmetic="exact")
    pipeline.generate("a lake", **SMALL)
    sessions = dict(pipeline.components._loaded)
    set_free(1)  # the pipeline's own graphs have taken the rest
    pipeline.generate("a lake", **SMALL)
    assert pipeline.components._loaded == sessions


def test_graphs_are_kept_where_the_bundle_has_no_figures(
    bundle: Path, edit_manifest: Callable[..., None], set_free: Callable[..., None]
) -> None:
    edit_manifest(lambda data: data["unet"].update(memory=None))
    set_free(1)
    pipeline = Pipeline.load(bundle, provider="cpu", memory="fast", arithmetic="exact")
    pipeline.generate("a lake", **SMALL)
    sessions = dict(pipeline.components._loaded)
    pipeline.generate("a lake", **SMALL)
    assert pipeline.components._loaded == sessions


def test_a_cancelled_drawing_leaves_no_graph_loaded() -> None:
    def stop(*_: object) -> None:
        raise Cancelled

    pipeline = Pipeline.load(provider="cpu", memory="balanced", arithmetic="exact")
    with pytest.raises(Cancelled):
        pipeline.generate("a lake", **SMALL, on_step=stop)
    assert pipeline.components._loaded == {}


def test_all_modes_draw_the_same_picture() -> None:
    latents = {}
    for mode in MODES:
        pipeline = Pipeline.load(provider="cpu", memory=mode, arithmetic="exact")
        assert pipeline.memory == mode
        latents[mode] = pipeline.generate("a lake", **SMALL).latents
    for mode in MODES:
        np.testing.assert_allclose(latents[mode], latents["balanced"], atol=1e-4, err_msg=mode)


def test_one_graph_at_a_time_is_loaded_and_none_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline.load(provider="cpu", memory="balanced", arithmetic="exact")
    loaded, run = [], pipeline.components.run

    def watched(role: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        outputs = run(role, **inputs)
        loaded.append(list(pipeline.components._loaded))
        return outputs

    monkeypatch.setattr(pipeline.components, "run", watched)
    pipeline.generate("a lake", **SMALL)
    assert loaded == [["text_encoder"], ["text_encoder"], ["unet"], ["unet"], ["vae_decoder"]]
    assert pipeline.components._loaded == {}


def test_fast_keeps_its_graphs_until_it_is_closed() -> None:
    pipeline = Pipeline.load(provider="cpu", memory="fast", arithmetic="exact")
    pipeline.generate("a lake", **SMALL)
    assert sorted(pipeline.components._loaded) == ["text_encoder", "unet", "vae_decoder"]
    pipeline.close()
    assert pipeline.components._loaded == {}
    assert len(pipeline.generate("a lake", **SMALL).images) == 1


@pytest.mark.parametrize(("mode", "batches"), [("balanced", [2, 2]), ("low", [1, 1, 1, 1])])
def test_low_guides_in_two_runs(monkeypatch: pytest.MonkeyPatch, mode: str, batches: list[int]) -> None:
    pipeline = Pipeline.load(provider="cpu", memory=mode, arithmetic="exact")
    seen, predict = [], pipeline._predict
    monkeypatch.setattr(pipeline, "_predict", lambda *inputs: (seen.append(len(inputs[2])), predict(*inputs))[1])
    pipeline.generate("a lake", **SMALL)
    assert seen == batches


_PEAK = """
import sys, threading
from pocket_diffusion import Pipeline
from pocket_diffusion.machine.free_memory import own_anonymous_memory

mode, width, height = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pipeline = Pipeline.load(provider="cpu", memory=mode, arithmetic="exact")
before = peak = own_anonymous_memory()
done = threading.Event()

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, own_anonymous_memory())

watcher = threading.Thread(target=watch)
watcher.start()
pipeline.generate("a lake", width=width, height=height, steps=1, guidance_scale=4.0, seed=7)
done.set()
watcher.join()
print(peak - before)
"""


@pytest.mark.skipif(not own_anonymous_memory(), reason="the system does not tell how much memory a process has")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tiled", ["square", "elongated"])
def test_no_more_is_taken_than_was_foretold(manifest: Manifest, mode: str, tiled: str) -> None:
    width, height = {
        ("low", "square"): (320, 320), ("low", "elongated"): (1024, 104),
    }.get((mode, tiled), (640, 640) if tiled == "square" else (2048, 200))  # fmt: skip
    arguments = [sys.executable, "-c", _PEAK, mode, str(width), str(height)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    foretold = need(manifest, mode, drawing(width, height))
    assert foretold / 4 < int(done.stdout) <= foretold


_KEPT = """
import gc
from pocket_diffusion import Pipeline
from pocket_diffusion.machine.free_memory import own_anonymous_memory

pipeline = Pipeline.load(provider="cpu", memory="fast", arithmetic="exact")
pipeline.generate("a lake", width=64, height=64, steps=1)
pipeline.close()
before = own_anonymous_memory()
pipeline.generate("a lake", width=640, height=640, steps=1)
while_open = own_anonymous_memory()
pipeline.close()
gc.collect()
print(while_open - before, own_anonymous_memory() - before)
"""


@pytest.mark.skipif(not own_anonymous_memory(), reason="the system does not tell how much memory a process has")
def test_closing_gives_back_what_graphs_and_their_activations_took() -> None:
    done = subprocess.run([sys.executable, "-c", _KEPT], capture_output=True, text=True, check=True)
    while_open, kept = map(int, done.stdout.split())
    assert while_open > 100 * MB
    assert kept < 20 * MB


RunCli = Callable[..., SimpleNamespace]
OPTIONS = ("--width", 64, "--height", 64, "--steps", 1, "--provider", "cpu", "--seed", 7)


def test_verbose_says_what_was_chosen_and_why_and_how_long_it_took(run_cli: RunCli) -> None:
    lines = run_cli("generate", "a lake", *OPTIONS, "--verbose", "--threads", 1).err.splitlines()
    assert lines[0].startswith("memory mode fast, chosen by auto: 64x64 needs fast ")
    assert " balanced " in lines[0]
    assert lines[0].endswith("MB are free")
    assert lines[1] == "provider cpu, threads 1"
    assert lines[-1].startswith("load ")
    assert ", total " in lines[-1]


def test_without_verbose_none_of_it_is_said(run_cli: RunCli) -> None:
    run_cli("generate", "a lake", *OPTIONS, "--verbose")
    assert "memory mode" not in run_cli("generate", "a lake", *OPTIONS).err


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("huge", "'huge' is not known; choose auto, fast"),
        ("1MB", "0 MB are left of the limit"),
        ("0GB", "a limit of "),
    ],
)
def test_a_limit_that_cannot_be_met_is_one_line(run_cli: RunCli, tmp_path: Path, value: str, why: str) -> None:
    outcome = run_cli("generate", "a lake", *OPTIONS, "--memory", value)
    assert (outcome.code, outcome.out) == (2, "")
    assert why in outcome.error
    assert list((tmp_path / "cwd").iterdir()) == []


def test_a_mode_is_taken_from_the_command_line(run_cli: RunCli) -> None:
    outcome = run_cli("generate", "a lake", *OPTIONS, "--memory", "low", "--verbose")
    assert outcome.code == 0
    assert outcome.err.startswith("memory mode low, asked for: ")


def test_figures_below_nothing_are_refused(bundle: Path, edit_manifest: Callable[..., None]) -> None:
    edit_manifest(lambda data: data["unet"]["memory"].update(base=-1))
    with pytest.raises(PocketDiffusionError, match=r"memory\.base"):
        Pipeline.load(bundle)


def test_the_figures_are_shown_to_programs(run_cli: RunCli, manifest: Manifest) -> None:
    shown: dict[str, Any] = json.loads(run_cli("inspect", DEFAULT_BUNDLE, "--json").out)
    assert manifest.unet.memory is not None
    assert shown["unet"]["memory"]["base"] == manifest.unet.memory.base
