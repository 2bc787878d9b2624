"""The names that people script against."""

import inspect

import pytest

import pocket_diffusion
from pocket_diffusion import Pipeline, errors


def test_public_names() -> None:
    assert {"Cancellation", "Cancelled", "Order", "Pipeline", "PocketDiffusionError", "Result", "Step"} < set(
        pocket_diffusion.__all__
    )
    assert all(getattr(pocket_diffusion, name) for name in pocket_diffusion.__all__)
    assert dir(pocket_diffusion) == pocket_diffusion.__all__
    with pytest.raises(AttributeError, match="Pipelin"):
        _ = pocket_diffusion.Pipelin


def test_options_of_generate() -> None:
    options = inspect.signature(Pipeline.generate).parameters
    assert list(options) == [
        "self", "prompt", "negative_prompt", "width", "height", "steps", "sampler", "scheduler", "eta", "s_noise",
        "guidance_scale", "guidance_rescale", "guidance_interval", "image_guidance_scale", "clip_skip", "loras",
        "token_downsampling", "cache", "seed", "count", "variation_seed", "variation_strength", "image", "mask",
        "mask_feather", "strength", "on_step",
    ]  # fmt: skip
    assert list(options)[1:-1] == list(pocket_diffusion.Order.__struct_fields__)
    assert all(option.kind is option.KEYWORD_ONLY for option in list(options.values())[2:])


def test_every_error_is_one_of_ours_and_knows_its_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert len(kinds) > 10
    for kind in kinds:
        assert issubclass(kind, errors.PocketDiffusionError)
        assert kind.exit_code in (1, 2)
        assert kind.__name__ in (errors.__doc__ or "")


def test_all_errors_that_drawing_may_raise_are_at_the_top_of_the_package() -> None:
    kinds = {
        kind.__name__
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, Exception) and not issubclass(kind, errors.ExportError)
    }
    assert kinds <= set(pocket_diffusion.__all__)
