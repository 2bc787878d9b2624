import torch
from diffusers import StableDiffusionPipeline

from prepare_peers import calibration_inputs


def test_calibration_sees_many_timesteps_and_several_prompts(tiny_pipeline: StableDiffusionPipeline) -> None:
    inputs = calibration_inputs(tiny_pipeline)
    assert len(inputs) == 40
    timesteps = [float(one["timestep"][0]) for one in inputs]
    assert min(timesteps) < 100 < 900 < max(timesteps)
    assert {tuple(one["latents"].shape) for one in inputs} == {(2, 4, 4, 4)}  # half of the pipeline's size
    empty, prompt = inputs[0]["context"]
    assert not torch.equal(empty, prompt)
    assert not torch.equal(prompt, inputs[-1]["context"][1])
    assert not tiny_pipeline.unet._forward_pre_hooks
