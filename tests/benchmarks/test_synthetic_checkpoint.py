import math

import pytest
import torch

from synthetic_checkpoint import Sizes, compvis_shapes, synthetic_state_dict

SMALL = Sizes(
    unet_widths=(32, 64),
    unet_layers=1,
    unet_attention=(True, False),
    context=32,
    vae_widths=(32, 32),
    vae_layers=1,
    vocabulary=100,
    text_layers=1,
    text_inner=48,
)


@pytest.mark.parametrize(
    ("part", "parameters"),
    [
        ("cond_stage_model.", 123_060_480),
        ("model.diffusion_model.", 859_520_964),
        ("first_stage_model.", 83_653_863),
    ],
)
def test_full_size_has_the_published_number_of_parameters(part: str, parameters: int) -> None:
    shapes = [shape for name, shape in compvis_shapes(Sizes()) if name.startswith(part)]
    assert sum(map(math.prod, shapes)) == parameters


def test_every_name_is_there_once() -> None:
    names = [name for name, _ in compvis_shapes(Sizes())]
    assert len(names) == len(set(names)) == 196 + 686 + 248  # text encoder, U-Net, VAE


def test_one_seed_gives_one_checkpoint() -> None:
    first, again = synthetic_state_dict(SMALL, seed=3), synthetic_state_dict(SMALL, seed=3)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_another_seed_gives_other_weights() -> None:
    first, other = synthetic_state_dict(SMALL, seed=3), synthetic_state_dict(SMALL, seed=4)
    assert not any(torch.equal(first[name], other[name]) for name, _ in compvis_shapes(SMALL))


def test_weights_are_finite_of_the_layout_and_of_the_type_asked_for() -> None:
    state = synthetic_state_dict(SMALL, seed=0, dtype=torch.float16)
    for name, shape in compvis_shapes(SMALL):
        assert state[name].shape == shape
        assert state[name].dtype == torch.float16
        assert state[name].isfinite().all()
        assert state[name].std() > 0


def test_has_the_buffers_that_the_published_file_has() -> None:
    state = synthetic_state_dict(SMALL, seed=0)
    buffers = state.keys() - {name for name, _ in compvis_shapes(SMALL)}
    position_ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    assert buffers == {position_ids, "betas", "alphas_cumprod", "model_ema.decay", "model_ema.num_updates"}
    assert state[position_ids].tolist() == [list(range(77))]
    assert state["alphas_cumprod"][-1].item() == pytest.approx(0.00466, rel=1e-3)
