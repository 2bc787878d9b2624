from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from differences import EVALUATIONS, Evaluation, Recording, compare_networks, compare_pictures, record
from pocket_diffusion.bundle import COMPONENTS
from report import IDENTICAL_PSNR, relative_error
from stages import Workload


def recording(role: str, *outputs: Any) -> Recording:  # noqa: ANN401 - arrays of one network
    evaluations = [
        Evaluation({"number": np.array(i)}, {"output": np.asarray(output, np.float32), "other": np.zeros(1)})
        for i, output in enumerate(outputs)
    ]
    return Recording(Image.new("RGB", (8, 8)), {role: evaluations})


def pipeline(answer: Any) -> Any:  # noqa: ANN401 - what answers for all networks
    run = lambda role, number: {"output": np.asarray(answer(int(number)), np.float32)}  # noqa: E731
    return SimpleNamespace(components=SimpleNamespace(run=run))


def test_what_is_recorded_comes_out_again() -> None:
    workload = Workload(
        bundle=None,
        width=64,
        height=72,
        steps=7,
        provider="cpu",
        threads=None,
        memory="balanced",
        arithmetic="exact",
    )
    recorded = record(workload)
    assert recorded.picture.size == (64, 72)
    assert [len(recorded.evaluations[role]) for role in ("unet", "vae_encoder", "vae_decoder")] == [7, 1, 1]
    with workload.load_pipeline() as same:
        found = compare_networks(recorded, same, COMPONENTS)
    assert list(found) == list(COMPONENTS)
    for figures in found.values():
        assert figures["largest_error"] == 0
        assert figures["psnr_db"] == IDENTICAL_PSNR
    assert len(found["unet"]["errors"]) == EVALUATIONS


def test_the_first_the_last_and_some_between_are_compared() -> None:
    asked: list[int] = []

    def answer(number: int) -> list[float]:
        asked.append(number)
        return [1 + number / 10, 0]

    found = compare_networks(recording("unet", *([1.0, 0.0] for _ in range(9))), pipeline(answer), ["unet"])
    assert asked == [0, 2, 4, 6, 8]
    assert found["unet"]["errors"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert found["unet"]["relative_error"] == pytest.approx(0.4)
    assert found["unet"]["largest_error"] == pytest.approx(0.8)


def test_the_psnr_is_relative_to_the_outputs_range() -> None:
    found = compare_networks(recording("unet", [-5.0, 5.0]), pipeline(lambda _: [-4.0, 6.0]), ["unet"])
    assert found["unet"]["psnr_db"] == pytest.approx(20)


@pytest.mark.parametrize(("role", "error"), [("vae_encoder", 0), ("vae_decoder", 1)])
def test_of_an_encoder_the_mean_counts_alone(role: str, error: float) -> None:
    moments = np.ones((1, 8, 2, 2))
    moments[..., 0] = -1
    other = np.concatenate([moments[:, :4], moments[:, 4:] + np.sqrt(2)], axis=1)
    found = compare_networks(recording(role, moments), pipeline(lambda _: other), [role])
    assert found[role]["relative_error"] == pytest.approx(error)


def test_pictures_are_compared_in_pairs() -> None:
    black, grey = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (1, 1, 1))
    assert compare_pictures([black, grey], [black, black]) == pytest.approx([IDENTICAL_PSNR, 48.13], abs=0.01)


def test_errors_are_relative_to_the_reference() -> None:
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 3.0])) == pytest.approx(0.2)
