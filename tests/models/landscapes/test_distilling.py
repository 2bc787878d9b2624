"""The few-step model: what it learns from, and that the runtime draws with it as its training does."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedulers import make_levels
from pocket_diffusion.layers import read_array, restore
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from pocket_models.config import TextEncoderConfig, UNetConfig
from pocket_models.landscapes import schedule
from pocket_models.landscapes.diffusing import Painter
from pocket_models.landscapes.distilling import LowRank, Student, distil, save_lora
from pocket_models.landscapes.stage import Budget
from pocket_models.landscapes.train import Recipe
from pocket_models.landscapes.trajectories import TIMESTEPS, Trajectories, walk_trajectories
from pocket_models.landscapes.vocabulary import Vocabulary
from pocket_models.vae import VAE

SCALING_FACTOR = Bundle.open(DEFAULT_BUNDLE).manifest.latents.scaling_factor


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As training does: threads of layers as small as these mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """The embedded model's."""
    return Vocabulary(DEFAULT_BUNDLE / "tokenizer")


@pytest.fixture(scope="module")
def tiny_painter(vocabulary: Vocabulary) -> Painter:
    """A painter with random weights."""
    torch.manual_seed(0)
    text = TextEncoderConfig(
        vocab_size=vocabulary.size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    unet = UNetConfig(
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_levels=(False, True),
        attention_heads=(2, 2),
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    return Painter(text, unet).requires_grad_(False)


@pytest.fixture(scope="module")
def embedded(vocabulary: Vocabulary) -> tuple[Painter, VAE]:
    """The embedded model's networks, with the bundle's weights."""
    painter, vae = Painter(Recipe().text_encoder(vocabulary), Recipe().unet), VAE(Recipe().vae)
    painter.unet.load_state_dict(bundled_weights("unet"))
    painter.text_encoder.load_state_dict(bundled_weights("text_encoder"))
    vae.load_state_dict(bundled_weights("vae_encoder") | bundled_weights("vae_decoder"))
    return painter.requires_grad_(False), vae.requires_grad_(False)


def bundled_weights(component: str) -> dict[str, Tensor]:
    """Return a network's weights as they are published."""
    bundle = Bundle.open(DEFAULT_BUNDLE)
    file = bundle.path(bundle.manifest.component(component).weights)
    layers = bundle.layers(component).layers
    return {name: torch.from_numpy(restore(layer, partial(read_array, file, layer))) for name, layer in layers.items()}


def changes_of(painter: Painter, size: float) -> LowRank:
    """Return random changes, about as large as `size` beside the weights."""
    torch.manual_seed(1)
    changes = LowRank(painter.unet, 2)
    for up in changes.ups:
        torch.nn.init.normal_(up, std=size / (2 * up[0].numel()) ** 0.5)
    return changes.requires_grad_(False)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own affair with NumPy
def test_the_teacher_walks_as_diffusers_second_order_solver() -> None:
    from diffusers import DPMSolverMultistepScheduler

    def predict(latents: Tensor, timestep: int) -> Tensor:
        return (latents * (1 + timestep / 500)).sin()

    reference = DPMSolverMultistepScheduler.from_config(schedule.SCHEDULER_CONFIG, final_sigmas_type="zero")
    reference.set_timesteps(timesteps=list(TIMESTEPS))
    theirs = start = torch.randn((2, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    points, end = schedule.walk(predict, start, TIMESTEPS)
    for point, timestep in zip(points, reference.timesteps, strict=True):
        torch.testing.assert_close(point, theirs, rtol=1e-3, atol=1e-3)
        theirs = reference.step(predict(theirs, int(timestep)), timestep, theirs).prev_sample
    torch.testing.assert_close(end, theirs, rtol=1e-3, atol=1e-3)


def test_every_timestep_of_the_sampler_in_four_steps_is_among_the_examples() -> None:
    noise_schedule = Bundle.open(DEFAULT_BUNDLE).manifest.schedule
    for steps in (1, 2, 4, 8):
        levels = make_levels(noise_schedule, "trailing", steps, SAMPLERS["lcm"].family)
        assert schedule.consistency_timesteps(steps) == list(levels.timesteps)
    assert set(schedule.consistency_timesteps(4)) <= set(TIMESTEPS)


def test_trajectories_lead_from_their_points_to_their_ends(
    tiny_painter: Painter, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    walked = walk_trajectories(tmp_path, tiny_painter, vocabulary, 70)  # in two files
    assert walked.contexts.shape == (70, 77, 16)
    assert len(walked.points) == len(walked.ends) == len(walked.timesteps) == len(walked.captions)
    from_noise = walked.timesteps == TIMESTEPS[0]
    assert sorted(walked.captions[from_noise]) == list(range(70))
    assert {int(timestep) for timestep in walked.timesteps} == set(TIMESTEPS)

    # From the last point, one evaluation of the guided model is the end; its bfloat16 leaves a percent.
    last = np.flatnonzero(walked.timesteps == TIMESTEPS[-1])[-5:]
    points = torch.from_numpy(walked.points[last]).float()
    timesteps = torch.from_numpy(walked.timesteps[last])
    with torch.no_grad():
        told = tiny_painter.unet(points, timesteps, torch.from_numpy(walked.contexts[walked.captions[last]]).float())
        empty = tiny_painter.text_encoder(torch.from_numpy(vocabulary.encode([""]))).expand(5, -1, -1)
        without = tiny_painter.unet(points, timesteps, empty)
    alpha_bar = schedule.ALPHA_BARS[TIMESTEPS[-1]]
    clean = (points - (1 - alpha_bar).sqrt() * (without + 7 * (told - without))) / alpha_bar.sqrt()
    torch.testing.assert_close(torch.from_numpy(walked.ends[last]).float(), clean, rtol=0.05, atol=0.05)


def test_trajectories_of_an_earlier_run_are_read(tiny_painter: Painter, vocabulary: Vocabulary, tmp_path: Path) -> None:
    first = walk_trajectories(tmp_path, tiny_painter, vocabulary, 3)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = walk_trajectories(tmp_path, tiny_painter, vocabulary, 3)
    np.testing.assert_array_equal(first.points, again.points)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def error_from_noise(changes: LowRank, painter: Painter, walked: Trajectories) -> float:
    """Return how far pure noise leads from where the teacher arrived, as a mean of absolute differences."""
    chosen = walked.timesteps == TIMESTEPS[0]
    points, ends, contexts = (
        torch.from_numpy(values).float()
        for values in (walked.points[chosen], walked.ends[chosen], walked.contexts[walked.captions[chosen]])
    )
    with torch.no_grad():
        clean = Student(painter, changes)(points, torch.from_numpy(walked.timesteps[chosen]), contexts)
    return float(functional.l1_loss(clean, ends))


def test_distilling_brings_noise_nearer_to_where_the_teacher_arrives_and_goes_on_after_an_interruption(
    tiny_painter: Painter, embedded: tuple[Painter, VAE], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    walked = walk_trajectories(tmp_path, tiny_painter, vocabulary, 6)
    weights = {name: weight.clone() for name, weight in tiny_painter.state_dict().items()}

    def distilled(steps: int) -> LowRank:
        budget = Budget(minutes=1e9, save_every_minutes=1e9, max_steps=steps)
        args = (tmp_path, tiny_painter, walked, vocabulary, embedded[1], SCALING_FACTOR)
        return distil(*args, rank=4, budget=budget, batch=8)

    untrained = error_from_noise(LowRank(tiny_painter.unet, 4), tiny_painter, walked)
    distilled(10)
    trained = error_from_noise(distilled(40), tiny_painter, walked)
    assert trained < 0.95 * untrained
    assert (tmp_path / "distilled_loss.csv").read_text().count("\n") == 1 + 40
    with Image.open(tmp_path / "distilled.png") as sheet:
        assert sheet.size == (4 * 128, 3 * 128)
    torch.testing.assert_close(tiny_painter.state_dict(), weights, rtol=0, atol=0)


def test_the_runtime_draws_with_the_published_lora_what_the_student_paints(
    embedded: tuple[Painter, VAE], vocabulary: Vocabulary, tmp_path: Path
) -> None:
    painter, vae = embedded
    changes = changes_of(painter, 0.2)
    save_lora(tmp_path / "few.safetensors", changes)
    pipeline = Pipeline.load(loras=[tmp_path / "few.safetensors"], arithmetic="exact")
    prompt, settings = "a lake at night", {"sampler": "lcm", "guidance_scale": 1.0, "seed": 5}
    plain = Pipeline.load(arithmetic="exact").generate(prompt, steps=2, **settings).images[0]
    for steps in (1, 2):
        drawn = np.asarray(pipeline.generate(prompt, steps=steps, **settings).images[0], np.float64)
        student = Student(painter, changes).paint(vocabulary, vae, SCALING_FACTOR, [prompt], steps=steps, seed=5)
        # The runtime rounds the changed weights to 8 bits again, which the student's were only before.
        assert np.abs(drawn - student[0]).mean() < 3
    assert np.abs(drawn - np.asarray(plain, np.float64)).mean() > 6
