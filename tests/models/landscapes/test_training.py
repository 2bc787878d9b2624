import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pocket_models.attention import AttentionProduct
from pocket_models.config import TextEncoderConfig, UNetConfig, VAEConfig
from pocket_models.landscapes import schedule
from pocket_models.landscapes.diffusing import Painter
from pocket_models.landscapes.pictures import training_pictures
from pocket_models.landscapes.products import PlainProduct, use_plain_products
from pocket_models.landscapes.stage import Budget, Stage
from pocket_models.landscapes.team import Team
from pocket_models.landscapes.train import FewSteps, Recipe, main, train


def _budget(steps: int, workers: int = 1) -> Budget:
    return Budget(minutes=1e9, workers=workers, save_every_minutes=0, max_steps=steps)


TINY = Recipe(
    vae=VAEConfig(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4),
    unet=UNetConfig(
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_levels=(False, True),
        attention_heads=(2, 2),
        cross_attention_dim=16,
        norm_num_groups=4,
    ),
    text_layers=1,
    pictures=12,
    batch=4,
    vae_budget=_budget(2),
    unet_budget=_budget(2),
    decoder_budget=_budget(2),
    few_steps=FewSteps(drawings=3, rank=2, budget=_budget(2)),
)


def _line(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(2, 1)


def _misfit(line: nn.Linear, seed: list[int], progress: float) -> Tensor:
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=(8, 2))).float()
    return (line(x) - 3 * x[:, :1]).square().mean()


class _PowerCutError(Exception):
    pass


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    def misfit_until_the_power_fails(line: nn.Linear, seed: list[int], progress: float) -> Tensor:
        if seed[0] == 4:
            raise _PowerCutError
        return _misfit(line, seed, progress)

    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = Stage("line", tmp_path / "whole", _line(), budget=_budget(7), peak_rate=0.1)
    whole.train(_misfit, show=lambda: None)

    cut = Stage("line", tmp_path / "cut", _line(), budget=_budget(7), peak_rate=0.1)
    with pytest.raises(_PowerCutError):
        cut.train(misfit_until_the_power_fails, show=lambda: None)
    resumed = Stage("line", tmp_path / "cut", _line(seed=1), budget=_budget(7), peak_rate=0.1)
    assert resumed.step == 4
    resumed.train(_misfit, show=lambda: None)

    assert resumed.step == whole.step == 7
    torch.testing.assert_close(resumed.module.state_dict(), whole.module.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.average.state_dict(), whole.average.state_dict(), rtol=0, atol=0)


def test_a_checkpoint_cut_off_while_being_written_is_never_read(tmp_path: Path) -> None:
    stage = Stage("line", tmp_path, _line(), budget=_budget(3), peak_rate=0.1)
    stage.train(_misfit, show=lambda: None)
    (tmp_path / "line.unfinished.pt").write_bytes(b"half a checkp")
    assert Stage("line", tmp_path, _line(), budget=_budget(3), peak_rate=0.1).step == 3


def test_a_team_of_two_finds_the_mean_of_both_gradients() -> None:
    line, alone = _line(), _line()
    with Team(line, _misfit, workers=2) as team:
        loss = team.gradients([5], 0.0)
    losses = [_misfit(alone, [5, number], 0.0) for number in (0, 1)]
    mean = (losses[0] + losses[1]) / 2
    mean.backward()
    assert loss == pytest.approx(mean.item())
    torch.testing.assert_close(line.weight.grad, alone.weight.grad)
    torch.testing.assert_close(line.bias.grad, alone.bias.grad)


def test_the_schedule_is_that_of_diffusers() -> None:
    from diffusers import DDPMScheduler

    reference = DDPMScheduler.from_config(schedule.SCHEDULER_CONFIG)
    torch.testing.assert_close(schedule.ALPHA_BARS, reference.alphas_cumprod, rtol=1e-4, atol=1e-6)

    def predict(latents: Tensor, timestep: int) -> Tensor:
        return latents * 0.5 + timestep / 5000

    start = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    ours = schedule.sample(predict, start, steps=6, generator=torch.Generator().manual_seed(2))
    reference.set_timesteps(6)
    generator, theirs = torch.Generator().manual_seed(2), start
    for timestep in reference.timesteps:
        theirs = reference.step(predict(theirs, int(timestep)), timestep, theirs, generator=generator).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "few_steps"),
    [([], None), (["--few-steps"], FewSteps()), (["--few-steps", "7"], FewSteps(drawings=7))],
)
def test_the_command_follows_the_recipe_of_the_shipped_model_and_distils_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], few_steps: FewSteps | None
) -> None:
    recipes: list[Recipe] = []
    monkeypatch.setattr("pocket_models.landscapes.train.train", lambda _, recipe: recipes.append(recipe))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    main([str(tmp_path), *options])
    assert recipes == [Recipe(few_steps=few_steps)]


def test_the_command_trains_the_shipped_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path), "--minutes", "0.001", "--pictures", "8", "--batch", "8", "--workers", "1"])
    assert capsys.readouterr().out.endswith(f"the model is in {tmp_path / 'landscapes'}\n")
    unet = json.loads((tmp_path / "landscapes" / "unet" / "config.json").read_text())
    assert unet["block_out_channels"] == list(Recipe().unet.block_out_channels)
    assert not list(tmp_path.glob("*distilled*")) and not (tmp_path / "few-steps.safetensors").exists()


@pytest.mark.filterwarnings("ignore")  # diffusers and transformers warn about their own affairs while loading
def test_training_writes_a_folder_that_diffusers_loads_and_a_rerun_changes_nothing(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    model = train(tmp_path, TINY)
    weights = (model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    few_steps = (tmp_path / "few-steps.safetensors").read_bytes()
    assert train(tmp_path, TINY) == model
    assert (model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    assert (tmp_path / "few-steps.safetensors").read_bytes() == few_steps
    for part in ("vae", "unet", "decoder", "distilled-*/distilled"):
        (curve,) = tmp_path.glob(f"{part}_loss.csv")
        assert curve.read_text().count("\n") == 1 + 2

    # The VAE stays as it was when it encoded the pictures, whatever its budget; the U-Net goes on, distilled anew.
    longer = dataclasses.replace(TINY, vae_budget=_budget(3), unet_budget=_budget(3))
    train(tmp_path, longer)
    assert (tmp_path / "vae_loss.csv").read_text().count("\n") == 1 + 2
    assert (model / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() != weights
    assert (tmp_path / "unet_loss.csv").read_text().count("\n") == 1 + 3
    assert len(list(tmp_path.glob("distilled-*/distilled_loss.csv"))) == 2

    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline("a lake at night", num_inference_steps=2, output_type="np").images
    assert pictures.shape == (1, 128, 128, 3)
    assert np.isfinite(pictures).all()


@pytest.mark.parametrize("causal", [False, True])
def test_plain_attention_is_the_fused_one_and_so_are_its_gradients(causal: bool) -> None:
    inputs = [torch.randn((2, 7, 12), dtype=torch.float64, requires_grad=True) for _ in range(3)]
    fused, plain = AttentionProduct(3, causal=causal), PlainProduct(3, causal=causal)
    expected, found = fused(*inputs), plain(*inputs)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction)
    )


def test_training_replaces_every_attention_product_and_no_weight() -> None:
    text = TextEncoderConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    painter = Painter(text, dataclasses.replace(TINY.unet, cross_attention_dim=8))
    names, ids = list(painter.state_dict()), torch.arange(9)[None]
    before = painter.text_encoder(ids)
    use_plain_products(painter)
    assert not any(isinstance(module, AttentionProduct) for module in painter.modules())
    assert list(painter.state_dict()) == names
    torch.testing.assert_close(painter.text_encoder(ids), before)


def test_pictures_of_another_painter_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pictures.npy"
    pictures = training_pictures(path, 3)
    assert len(pictures) == 3
    with pytest.raises(ValueError, match="does not hold the 4 pictures"):
        training_pictures(path, 4)
    np.save(path, 255 - np.asarray(pictures))
    with pytest.raises(ValueError, match="train into another folder"):
        training_pictures(path, 3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [(["--batch", "1"], "--batch is 1, must be an even"), (["--minutes", "0"], "--minutes must be more than 0")],
)
def test_refuses_options_that_train_nothing(
    options: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), *options])
    assert complaint in capsys.readouterr().err
