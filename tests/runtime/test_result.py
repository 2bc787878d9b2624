"""Steps on the way, and the pictures at the end."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocket_diffusion import Cancelled, Order, OutputError, Pipeline, Result
from pocket_diffusion import result as result_module

SMALL = {"width": 64, "height": 64, "steps": 3, "guidance_scale": 4.0, "seed": 7}


@pytest.fixture(scope="module")
def two(pipeline: Pipeline) -> Result:
    return pipeline.generate("a lake", **SMALL, count=2)


def test_several_pictures_are_saved_into_a_folder_by_their_seeds(two: Result, tmp_path: Path) -> None:
    assert two.save(tmp_path / "lakes") == [tmp_path / "lakes" / "7.png", tmp_path / "lakes" / "8.png"]
    with Image.open(tmp_path / "lakes" / "8.png") as image:
        assert image.tobytes() == two.images[1].tobytes()
        assert "Seed: 8" in image.text["parameters"]


def test_several_pictures_are_saved_under_a_files_name_with_numbers(two: Result, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    assert two.save(tmp_path / "lake.png") == [tmp_path / "lake-1.png", tmp_path / "lake-2.png"]
    assert two.save(tmp_path / "folder.png") == [tmp_path / "folder.png" / "7.png", tmp_path / "folder.png" / "8.png"]


def test_one_of_several_is_saved_by_its_index(two: Result, tmp_path: Path) -> None:
    assert two.save(tmp_path / "a.png", 1) == [tmp_path / "a.png"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.tobytes() == two.images[1].tobytes()


def test_a_folder_that_cannot_be_made_is_told(two: Result, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        two.save(tmp_path / "file" / "folder")


def test_it_is_short_in_words_and_a_picture_in_a_notebook(two: Result) -> None:
    assert repr(two).startswith("<Result: 2 pictures of 64x64, seeds 7, 8, ")
    assert len(repr(two)) < 80
    with Image.open(BytesIO(two._repr_png_())) as image:
        assert image.size == (64 + 4 + 64, 64)


def test_an_order_draws_a_picture_again(two: Result, pipeline: Pipeline) -> None:
    again = pipeline.steps(two.order(1)).result
    assert again.images[0].tobytes() == two.images[1].tobytes()


def test_steps_can_be_looked_at_one_by_one(two: Result, pipeline: Pipeline) -> None:
    walk = pipeline.steps(Order(prompt="a lake", **SMALL, count=2))
    steps = list(walk)
    assert [(step.number, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert steps[0].latents.shape == steps[0].predicted.shape == two.latents.shape
    np.testing.assert_array_equal(steps[-1].latents, two.latents)
    assert walk.result.images[1].tobytes() == two.images[1].tobytes()


def test_a_preview_shows_what_the_model_expects_and_so_the_picture_early(pipeline: Pipeline) -> None:
    walk = pipeline.steps(Order(prompt="a lake under snowy mountains at noon", seed=3, steps=10))
    step = next(walk)
    preview = np.asarray(step.preview(), float)
    picture = walk.result.images[0]
    small = np.asarray(picture.resize(step.preview().size, Image.Resampling.BOX), float)
    noisy = np.asarray(pipeline.previewer.picture(step.latents), float)
    assert preview.shape == (16, 16, 3)
    assert np.corrcoef(preview.ravel(), small.ravel())[0, 1] > 0.5
    assert np.abs(preview - small).mean() < 0.7 * np.abs(noisy - small).mean()


def test_the_result_takes_the_steps_that_are_left(two: Result, pipeline: Pipeline) -> None:
    walk = pipeline.steps(Order(prompt="a lake", **SMALL))
    next(walk)
    assert walk.result.images[0].tobytes() == two.images[0].tobytes()


def test_steps_that_were_closed_have_no_result() -> None:
    pipeline = Pipeline.load(provider="cpu", memory="balanced")
    walk = pipeline.steps(Order(prompt="a lake", **SMALL))
    next(walk)
    walk.close()
    assert pipeline.components._loaded == {}
    with pytest.raises(Cancelled, match="closed before its last step"):
        _ = walk.result


def test_a_fault_on_the_way_is_told_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline.load(provider="cpu")

    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline.vae, "decode", fail)
    walk = pipeline.steps(Order(prompt="a lake", **SMALL))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            _ = walk.result


def test_the_callers_own_time_is_not_the_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(result_module.time, "perf_counter", lambda: now[0])
    walk = Pipeline.load(provider="cpu").steps(Order(prompt="a lake", **SMALL))
    for _ in walk:
        now[0] += 100
    assert walk.result.timings["total"] == 0


def test_previews_are_prepared_before_the_drawing() -> None:
    pipeline = Pipeline.load(provider="cpu", memory="balanced")
    roles: list[str] = []
    run = pipeline.components.run

    def watched(role: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        roles.append(role)
        return run(role, **inputs)

    pipeline.components.run = watched
    for step in pipeline.steps(Order(prompt="a lake", **SMALL), previews=True):
        step.preview()
    assert roles == ["vae_encoder", "text_encoder", "text_encoder", "unet", "unet", "unet", "vae_decoder"]


def test_a_list_of_prompts_gives_their_pictures_in_order(two: Result, pipeline: Pipeline) -> None:
    calls = []
    both = pipeline.generate(
        ["a lake", "a desert"], **SMALL, on_step=lambda done, total, _: calls.append((done, total))
    )
    assert both.seeds == [7, 8]
    assert both.images[0].tobytes() == two.images[0].tobytes()
    assert both.images[1].tobytes() == pipeline.generate("a desert", **{**SMALL, "seed": 8}).images[0].tobytes()
    assert calls == [(i, 6) for i in range(1, 7)]
    assert both.order(1).prompt == "a desert"
    assert set(both.timings) == set(two.timings)


def test_a_with_statement_gives_the_memory_back() -> None:
    with Pipeline.load(provider="cpu", memory="fast") as pipeline:
        pipeline.generate("a lake", **SMALL)
        assert pipeline.components._loaded
    assert pipeline.components._loaded == {}
