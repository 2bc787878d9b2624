"""A latent consistency model from its folder to a picture: recognised, exported, and drawn as it is meant to be."""

import numpy as np
import pytest
import torch
from diffusers import LatentConsistencyModelPipeline, LCMScheduler, StableDiffusionPipeline, UNet2DConditionModel

import reference
from against_diffusers import PIXEL_LEVELS, PROMPT
from exporting import export_unmeasured
from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import Bundle


@pytest.fixture(scope="module")
def theirs(tiny_pipeline: StableDiffusionPipeline) -> LatentConsistencyModelPipeline:
    torch.manual_seed(1)
    config = {**reference.UNET.to_diffusers(), "sample_size": 8, "time_cond_proj_dim": 32}
    pipeline = LatentConsistencyModelPipeline(
        **{
            **tiny_pipeline.components,
            "unet": UNet2DConditionModel.from_config(config).eval(),
            "scheduler": LCMScheduler.from_config(tiny_pipeline.scheduler.config),
        },
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def bundle(theirs: LatentConsistencyModelPipeline, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    place = tmp_path_factory.mktemp("lcm")
    theirs.save_pretrained(place / "folder")
    return export_unmeasured(place / "folder", place / "bundle", weights="fp32")


def test_its_family_is_recognised(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.guides_itself
    assert (manifest.defaults.steps, manifest.defaults.sampler, manifest.defaults.guidance_scale) == (4, "lcm", 8.5)
    assert "latent consistency model" in manifest.provenance.notes[-1]


def test_the_shortest_call_draws_what_diffusers_draws(bundle: Bundle, theirs: LatentConsistencyModelPipeline) -> None:
    ours = Pipeline.load(bundle.root).generate(PROMPT, seed=7)
    wanted = theirs(PROMPT, generator=torch.Generator("cpu").manual_seed(7), output_type="np").images[0]
    assert np.abs(np.asarray(ours.images[0], float) - wanted * 255).max() <= PIXEL_LEVELS
