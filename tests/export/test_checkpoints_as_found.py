"""Checkpoints as model-sharing sites have them: averaged, merged, without a VAE, trained to predict velocity."""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocket_diffusion.bundle import read_manifest
from pocket_diffusion.checkpoint.architecture import TextEncoderSpec, UNetSpec, VAESpec
from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.errors import CheckpointError, CheckpointNotFoundError, TensorMismatchError, UnsupportedModelError
from pocket_export.checkpoint import Checkpoint, read_checkpoint
from pocket_export.mapped_tensors import map_tensors
from pocket_export.parts import check_tensors
from pocket_models import TextEncoderConfig, UNetConfig, VAEConfig

if TYPE_CHECKING:
    from synthetic_checkpoint import Sizes

Tensors = dict[str, torch.Tensor]
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."


def read(path: Path, *, vae: Path | None = None, prediction: str | None = None) -> Checkpoint:
    """Read and check: nothing missing, nothing left over."""
    checkpoint = read_checkpoint(str(path), vae=vae, prediction=prediction)  # type: ignore[arg-type] # tests know
    check_tensors(checkpoint)
    return checkpoint


def assert_same_tensors(ours: Tensors, theirs: Tensors) -> None:
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


def assert_same_model(ours: Checkpoint, theirs: Checkpoint) -> None:
    for part in ("text_encoder", "unet", "vae"):
        assert_same_tensors(getattr(ours, part), getattr(theirs, part))
        assert getattr(ours, f"{part}_config") == getattr(theirs, f"{part}_config")


def below(prefix: str, state: Tensors) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def without(prefix: str, state: Tensors) -> Tensors:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}


def averaged(state: Tensors) -> Tensors:
    """The U-Net's tensors as `LitEma` names them."""
    return {f"model_ema.diffusion_model{n.replace('.', '')}": t.clone() for n, t in below(UNET, state).items()}


@pytest.fixture
def plain(place: Path, mini_state: Tensors) -> Checkpoint:
    save_file(mini_state, place / "plain.safetensors")
    return read(place / "plain.safetensors")


# Sizes


@pytest.mark.parametrize(
    ("ours", "theirs"), [(TextEncoderSpec, TextEncoderConfig), (UNetSpec, UNetConfig), (VAESpec, VAEConfig)]
)
def test_the_readers_sizes_are_the_models(ours: type, theirs: type) -> None:
    """Two halves that may not import each other: what one says, the other takes, with the same defaults."""
    assert set(ours.__struct_fields__) == set(theirs.__dataclass_fields__)  # type: ignore[attr-defined]
    by_default = {name: getattr(theirs(), name) for name in ours.__struct_fields__}  # type: ignore[attr-defined]
    required = {name: by_default[name] for name in ours.__struct_fields__[: -len(ours.__struct_defaults__)]}  # type: ignore[attr-defined]
    assert {name: getattr(ours(**required), name) for name in by_default} == by_default


# Averaged weights, merges, precisions


def test_reads_averaged_weights_where_there_are_no_others(place: Path, mini_state: Tensors, plain: Checkpoint) -> None:
    save_file(without(UNET, mini_state) | averaged(mini_state), place / "ema.safetensors")
    found = read(place / "ema.safetensors")
    assert_same_model(found, plain)
    assert "averaged weights of the U-Net (EMA): the file has no others" in found.source.notes


def test_reads_averaged_weights_of_the_true_layout(place: Path) -> None:
    """Ten and more blocks, whose numbers have two digits."""
    from dataclasses import replace

    from synthetic_checkpoint import Sizes, compvis_shapes

    sizes = replace(Sizes(), unet_widths=(32,) * 4, vae_widths=(32,) * 4, context=64, text_layers=1, text_inner=64)
    state = {name: torch.full(shape, 0.5) for name, shape in compvis_shapes(sizes)}
    for number, name in enumerate(state):
        state[name].view(-1)[0] = number
    save_file(state, place / "plain.safetensors")
    save_file(without(UNET, state) | averaged(state), place / "ema.safetensors")
    assert_same_model(read(place / "ema.safetensors"), read(place / "plain.safetensors"))


def test_prefers_the_plain_weights_and_says_so(place: Path, mini_state: Tensors, plain: Checkpoint) -> None:
    other = {name: tensor + 1 for name, tensor in averaged(mini_state).items()}
    save_file(mini_state | other, place / "both.safetensors")
    found = read(place / "both.safetensors")
    assert_same_model(found, plain)
    assert "plain weights of the U-Net, though the file has averaged ones (EMA) too" in found.source.notes
    assert not any("EMA" in note for note in plain.source.notes)


def test_names_what_is_missing_of_averaged_weights(place: Path, mini_state: Tensors) -> None:
    ema = averaged(mini_state)
    del ema["model_ema.diffusion_modelout2weight"]
    ema["model_ema.diffusion_modelghost"] = torch.zeros(1)
    save_file(without(UNET, mini_state) | ema, place / "ema.safetensors")
    with pytest.raises(TensorMismatchError, match=r"'ghost' belongs nowhere; conv_out\.weight is missing"):
        read(place / "ema.safetensors")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float16, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["merge.safetensors", "merge.ckpt"])
def test_ignores_what_merges_leave(
    place: Path, mini_state: Tensors, plain: Checkpoint, dtype: torch.dtype, name: str
) -> None:
    from synthetic_checkpoint import save_checkpoint

    more = {
        TEXT + "text_model.embeddings.position_ids": torch.arange(77)[None].to(dtype),
        "cond_stage_model.logit_scale": torch.zeros(()),
        "cond_stage_model.text_projection": torch.zeros(3, 3),
        TEXT + "text_projection.weight": torch.zeros(3, 3),
        TEXT + "logit_scale": torch.zeros(()),
        "denoiser.sigmas": torch.zeros(1000),
        "denoiser.log_sigmas": torch.zeros(1000, dtype=torch.float64),
        "alphas_cumprod": torch.zeros(1000),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(3, dtype=torch.int32),
        VAE + "loss.logvar": torch.zeros(()),
        VAE + "loss.discriminator.main.0.weight": torch.zeros(3),
    }
    save_checkpoint(mini_state | more, place / name)
    assert_same_model(read(place / name), plain)


def test_reads_a_text_encoder_under_its_old_names(place: Path, mini_state: Tensors, plain: Checkpoint) -> None:
    old = {name.replace(TEXT + "text_model.", TEXT): tensor for name, tensor in mini_state.items()}
    save_file(old, place / "old.safetensors")
    assert_same_model(read(place / "old.safetensors"), plain)


def test_reads_a_merge_of_several_precisions(place: Path, mini_state: Tensors, plain: Checkpoint) -> None:
    mixed = {name: t.half() if name.startswith(UNET) and "attn" in name else t for name, t in mini_state.items()}
    mixed = {name: t.bfloat16() if name.startswith(VAE) else t for name, t in mixed.items()}
    save_file(mixed, place / "mixed.safetensors")
    found = read(place / "mixed.safetensors")
    assert {t.dtype for t in found.unet.values()} == {torch.float16, torch.float32}
    assert all(torch.equal(found.vae[name], plain.vae[name].bfloat16()) for name in plain.vae)


def test_refuses_one_tensor_under_two_names(place: Path, mini_state: Tensors) -> None:
    twice = {UNET + "conv_in.weight": mini_state[UNET + "input_blocks.0.0.weight"].clone()}
    save_file(mini_state | twice, place / "twice.safetensors")
    with pytest.raises(CheckpointError, match=r"holds one tensor under two names, '.*conv_in.*' and '.*input_blocks"):
        read(place / "twice.safetensors")


@pytest.mark.parametrize(
    "name", ["input_blocks.op.0.op.weight", "input_blocks.0.0.op.weight", "output_blocks." + "9" * 5000 + ".0.x"]
)
def test_names_of_no_block_belong_nowhere(place: Path, mini_state: Tensors, name: str) -> None:
    save_file(mini_state | {UNET + name: torch.zeros(1)}, place / "odd.safetensors")
    with pytest.raises(TensorMismatchError, match="belongs nowhere"):
        read(place / "odd.safetensors")


def test_refuses_numbers_of_8_bits(place: Path, mini_state: Tensors) -> None:
    state = {name: t.to(torch.float8_e4m3fn) if name.startswith(UNET) else t for name, t in mini_state.items()}
    save_file(state, place / "fp8.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"is stored as F8_E4M3.*get the float16 or bfloat16 file"):
        read(place / "fp8.safetensors")
    torch.save(state, place / "fp8.ckpt")
    with pytest.raises(UnsupportedModelError, match=r"such as float8; get the float16 or bfloat16 file"):
        read(place / "fp8.ckpt")


def test_maps_tensors_that_lie_between_the_machines_words(place: Path, mini_state: Tensors, plain: Checkpoint) -> None:
    save_file(mini_state, place / "odd.safetensors")
    content = (place / "odd.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length] + b" ", content[8 + length :]
    (place / "odd.safetensors").write_bytes((length + 1).to_bytes(8, "little") + header + data)
    assert_same_model(read(place / "odd.safetensors"), plain)


# Another VAE


@pytest.fixture
def other_vae(mini_sizes: "Sizes") -> Tensors:
    """A VAE of the same sizes and other weights, under CompVis' names without a prefix."""
    from synthetic_checkpoint import synthetic_state_dict

    return below(VAE, synthetic_state_dict(mini_sizes, seed=7))


@pytest.fixture
def baked(place: Path, mini_state: Tensors, other_vae: Tensors) -> Checkpoint:
    """A checkpoint that was saved with that VAE."""
    save_file(without(VAE, mini_state) | {VAE + n: t for n, t in other_vae.items()}, place / "baked.safetensors")
    return read(place / "baked.safetensors")


@pytest.mark.parametrize("prefix", ["", VAE])
@pytest.mark.parametrize("name", ["vae.safetensors", "vae.ckpt", "vae.pt"])
@pytest.mark.parametrize("has_one", [True, False], ids=["replaced", "missing"])
def test_takes_the_vae_of_another_file(
    place: Path, mini_state: Tensors, other_vae: Tensors, baked: Checkpoint, prefix: str, name: str, has_one: bool
) -> None:
    from synthetic_checkpoint import save_checkpoint

    save_checkpoint({prefix + n: t for n, t in other_vae.items()} | {"loss.logvar": torch.zeros(())}, place / name)
    save_file(mini_state if has_one else without(VAE, mini_state), place / "model.safetensors")
    found = read(place / "model.safetensors", vae=place / name)
    assert_same_model(found, baked)
    assert found.source.files == {"model.safetensors": place / "model.safetensors", f"vae/{name}": place / name}
    assert f"VAE of {name}, as asked" in found.source.notes


def test_takes_the_vae_of_a_whole_checkpoint(place: Path, mini_state: Tensors, baked: Checkpoint) -> None:
    save_file(mini_state, place / "model.safetensors")
    assert_same_model(read(place / "model.safetensors", vae=place / "baked.safetensors"), baked)


def test_takes_a_vae_in_diffusers_form(place: Path, mini_state: Tensors, baked: Checkpoint) -> None:
    save_file(baked.vae, place / "vae.safetensors")
    save_file(mini_state, place / "model.safetensors")
    assert_same_model(read(place / "model.safetensors", vae=place / "vae.safetensors"), baked)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
def test_takes_a_diffusers_folder_of_a_vae(
    place: Path, mini_state: Tensors, baked: Checkpoint, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "vae-ft"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(baked.vae_config.to_diffusers()))
    if name.endswith(".bin"):
        torch.save(baked.vae, folder / name)
    else:
        save_file(baked.vae, folder / name)
    save_file(mini_state, place / "model.safetensors")
    found = read(place / "model.safetensors", vae=folder)
    assert_same_model(found, baked)
    assert found.source.files[f"vae/{name}"] == folder / name


def test_a_folder_takes_another_vae(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder / "vae", tmp_path / "other")
    weights = other / "diffusion_pytorch_model.safetensors"
    tensors = {name: tensor * 2 for name, tensor in load_file(weights).items()}
    save_file(tensors, weights)
    found = read(folder, vae=other)
    assert_same_tensors(found.vae, tensors)
    assert found.source.files["vae/diffusion_pytorch_model.safetensors"] == weights
    assert len(found.source.files) == 3
    shutil.rmtree(folder / "vae")
    assert_same_tensors(read(folder, vae=other).vae, tensors)


def test_says_that_a_checkpoint_without_a_vae_can_have_one(place: Path, mini_state: Tensors) -> None:
    save_file(without(VAE, mini_state), place / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"has no VAE in it; .*or name a file that has a VAE with --vae"):
        read(place / "model.safetensors")


def test_refuses_what_is_no_vae(place: Path, mini_state: Tensors, other_vae: Tensors, tmp_path: Path) -> None:
    save_file(mini_state, place / "model.safetensors")

    def refusal(state: Tensors, error: type[Exception] = UnsupportedModelError) -> str:
        save_file(state, tmp_path / "vae.safetensors")
        with pytest.raises(error) as caught:
            read(place / "model.safetensors", vae=tmp_path / "vae.safetensors")
        return str(caught.value)

    assert "vae.safetensors holds no VAE of Stable Diffusion (it has 'lora_" in refusal({"lora_a": torch.zeros(1)})
    assert "holds no VAE of Stable Diffusion" in refusal(without("quant_conv", other_vae))
    assert "vae.safetensors is a tiny VAE" in refusal({"decoder.layers.0.weight": torch.zeros(1)})
    weight = "decoder.conv_in.weight"
    message = refusal(other_vae | {weight: torch.zeros(64, 16, 3, 3)}, TensorMismatchError)
    assert f"vae.safetensors does not fit VAE: {weight} is [64, 16, 3, 3], not [64, 4, 3, 3]" in message
    with pytest.raises(CheckpointNotFoundError, match="nothing cannot be read: No such file"):
        read(place / "model.safetensors", vae=tmp_path / "nothing")
    with pytest.raises(CheckpointNotFoundError, match="is no diffusers folder of a VAE: there is no"):
        read(place / "model.safetensors", vae=tmp_path)


def test_refuses_the_vae_of_another_family(place: Path, mini_state: Tensors, baked: Checkpoint, tmp_path: Path) -> None:
    save_file(baked.vae, tmp_path / "diffusion_pytorch_model.safetensors")
    save_file(mini_state, place / "model.safetensors")
    config = baked.vae_config.to_diffusers()
    (tmp_path / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.13025}))
    with pytest.raises(UnsupportedModelError, match=r"scales latents by 0\.13025, model\.safetensors by 0\.18215"):
        read(place / "model.safetensors", vae=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"latent_channels": 16}))
    with pytest.raises(UnsupportedModelError, match=r"makes latents of 16 channels, the U-Net of .* takes 4"):
        read(place / "model.safetensors", vae=tmp_path)


# What the model predicts


def prediction_of(path: Path, asked: str | None = None) -> tuple[str, bool, str]:
    source = read(path, prediction=asked).source
    return source.schedule.prediction_type, source.schedule.rescale_betas_zero_snr, source.notes[0]


def test_a_file_that_says_nothing_predicts_noise(plain: Checkpoint) -> None:
    assert plain.source.schedule.prediction_type == "epsilon"
    assert plain.source.notes == ("prediction type epsilon, by default",)


@pytest.mark.parametrize(("said", "prediction"), [("v", "v_prediction"), ("epsilon", "epsilon")])
def test_the_metadata_say_what_is_predicted(place: Path, mini_state: Tensors, said: str, prediction: str) -> None:
    path = place / "model.safetensors"
    save_file(mini_state, path, {"modelspec.prediction_type": said})
    assert prediction_of(path) == (prediction, False, f"prediction type {prediction}, by its modelspec.prediction_type")


@pytest.mark.parametrize("shape", [(0,), (), (1, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_marker_tensors_say_what_is_predicted(
    place: Path, mini_state: Tensors, shape: tuple[int, ...], dtype: torch.dtype, name: str
) -> None:
    from synthetic_checkpoint import save_checkpoint

    marker = torch.zeros(shape, dtype=dtype)
    save_checkpoint(mini_state | {"v_pred": marker}, place / name)
    assert prediction_of(place / name) == (
        "v_prediction",
        False,
        "prediction type v_prediction, by its tensor 'v_pred'",
    )
    save_checkpoint(mini_state | {"v_pred": marker, "ztsnr": marker.clone()}, place / name)
    note = "prediction type v_prediction, by its tensor 'v_pred', with zero terminal SNR"
    assert prediction_of(place / name) == ("v_prediction", True, note)


@pytest.mark.parametrize(
    ("text", "prediction"),
    [
        ('model:\n  params:\n    parameterization: "v"\n    linear_start: 0.00085\n', "v_prediction"),
        ("model:\n  params:\n    parameterization: v  # velocity\n", "v_prediction"),
        ("    parameterization: 'eps'\r\n", "epsilon"),
        ("  parameterization: x0\n", "sample"),
    ],
)
def test_a_config_beside_the_file_says_what_is_predicted(
    place: Path, mini_state: Tensors, text: str, prediction: str
) -> None:
    save_file(mini_state, place / "model.safetensors", {"modelspec.prediction_type": "epsilon"})
    (place / "model.yaml").write_bytes(text.encode())
    note = f"prediction type {prediction}, by model.yaml"
    assert prediction_of(place / "model.safetensors") == (prediction, False, note)


def test_a_config_that_says_nothing_of_it_is_passed_over(place: Path, mini_state: Tensors) -> None:
    save_file(mini_state, place / "model.safetensors", {"modelspec.prediction_type": "v"})
    (place / "model.yaml").write_bytes(b"\xff\xfe# parameterization: x0\nmodel:\n  reparameterization: eps\n")
    assert prediction_of(place / "model.safetensors")[0] == "v_prediction"


@pytest.mark.parametrize("beside", [True, False])
def test_refuses_a_prediction_that_is_not_known_unless_told(place: Path, mini_state: Tensors, beside: bool) -> None:
    path = place / "model.safetensors"
    save_file(mini_state, path, None if beside else {"modelspec.prediction_type": "flow"})
    if beside:
        path.with_suffix(".yaml").write_text("parameterization: flow\n")
    with pytest.raises(
        CheckpointError, match=r"predicts 'flow' by .*; known are: epsilon, .*; choose with --prediction"
    ):
        read(path)
    assert prediction_of(path, "v_prediction") == ("v_prediction", False, "prediction type v_prediction, as asked")


def test_the_scheduler_of_a_folder_says_what_is_predicted(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}))
    note = "prediction type v_prediction, by its scheduler's config, with zero terminal SNR"
    assert prediction_of(folder) == ("v_prediction", True, note)
    assert prediction_of(folder, "epsilon")[::2] == (
        "epsilon",
        "prediction type epsilon, as asked, with zero terminal SNR",
    )


# What is kept of it


def test_a_bundle_keeps_what_was_chosen(tiny_bundle_fp32: Path) -> None:
    notes = read_manifest(tiny_bundle_fp32).provenance.notes
    assert notes == ("prediction type epsilon, by its scheduler's config",)


def test_a_file_that_shrank_before_it_is_mapped_is_an_error(place: Path, mini_state: Tensors) -> None:
    path = place / "model.safetensors"
    save_file(mini_state, path)
    tensors = read_tensor_file(path).tensors
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read: .*; fetch it again"):
        map_tensors(tensors)
