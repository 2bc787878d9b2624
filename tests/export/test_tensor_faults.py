"""Tensors that do not fit: named, before any work, with nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pocket_diffusion.errors import TensorMismatchError
from pocket_export.checkpoint import read_checkpoint
from pocket_export.export import export
from pocket_export.parts import check_tensors

Tensors = dict[str, torch.Tensor]

WEIGHT = "model.diffusion_model.middle_block.0.in_layers.2.weight"
UNET, VAE = "model.diffusion_model.", "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."
OURS = "mid_block.resnets.0.conv1.weight"


def fault(state: Tensors, place: Path) -> str:
    """Export, and return what is said against it."""
    save_file(state, place / "model.safetensors")
    steps: list[str] = []
    with pytest.raises(TensorMismatchError) as caught:
        export(place / "model.safetensors", place / "out", on_progress=lambda what, _: steps.append(what))
    assert steps == []
    assert {path.name for path in place.iterdir()} == {"model.safetensors", "vocab.json", "merges.txt"}
    assert str(caught.value).isprintable()
    return str(caught.value)


def replaced(state: Tensors, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    return state | {WEIGHT: change(state[WEIGHT].clone())}


def with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[17] = value
        return tensor

    return change


def test_refuses_a_checkpoint_with_a_missing_tensor(place: Path, mini_state: Tensors) -> None:
    del mini_state[WEIGHT]
    message = fault(mini_state, place)
    assert f"model.safetensors does not fit UNet: {OURS} is missing; fetch it again" in message


def test_refuses_a_checkpoint_with_an_extra_tensor(place: Path, mini_state: Tensors) -> None:
    mini_state["first_stage_model.decoder.ghost\n.weight"] = torch.zeros(1)
    assert r"does not fit VAE: 'decoder.ghost\n.weight' belongs nowhere" in fault(mini_state, place)


def test_refuses_a_checkpoint_with_a_misshapen_tensor(place: Path, mini_state: Tensors) -> None:
    message = fault(replaced(mini_state, lambda t: t[:, :-1].contiguous()), place)
    assert f"{OURS} is [64, 63, 3, 3], not [64, 64, 3, 3]" in message


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (UNET + "input_blocks.0.0.weight", "conv_in.weight"),
        (UNET + "input_blocks.1.0.in_layers.2.weight", "down_blocks.0.resnets.0.conv1.weight"),
        (UNET + "input_blocks.1.1.proj_in.weight", "down_blocks.0.attentions.0.proj_in.weight"),
        (
            UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight",
        ),
        (UNET + "out.2.weight", "conv_out.weight"),
        (VAE + "encoder.down.0.block.0.conv1.weight", "encoder.down_blocks.0.resnets.0.conv1.weight"),
        (VAE + "post_quant_conv.weight", "post_quant_conv.weight"),
        (TEXT + "encoder.layers.0.mlp.fc1.weight", "encoder.layers.0.mlp.fc1.weight"),
        (TEXT + "encoder.layers.0.layer_norm1.weight", "encoder.layers.0.layer_norm1.weight"),
    ],
)
def test_names_also_the_tensors_that_sizes_are_inferred_from(
    place: Path, mini_state: Tensors, theirs: str, ours: str
) -> None:
    tensor = mini_state.pop(theirs)
    assert f"{ours} is missing" in fault(mini_state, place)
    longer = torch.cat([tensor, tensor[:1]])
    message = fault(mini_state | {theirs: longer}, place)
    assert f"{ours} is {list(longer.shape)}, not {list(tensor.shape)}" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_refuses_a_checkpoint_with_a_number_that_is_none(
    place: Path, mini_state: Tensors, value: float, dtype: torch.dtype
) -> None:
    message = fault(replaced(mini_state, lambda t: with_value(value)(t.to(dtype))), place)
    assert f"{OURS} holds NaN or infinity" in message


def test_names_the_first_faults_and_counts_the_others(place: Path, mini_state: Tensors) -> None:
    for name in [n for n in mini_state if "middle_block.0" in n]:
        del mini_state[name]
    message = fault(mini_state, place)
    assert message.count("is missing") == 3
    assert "and 7 more" in message


def test_refuses_whole_numbers_where_weights_belong(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    path.unlink()
    save_file(tensors | {OURS: tensors[OURS].to(torch.int32)}, path)
    with pytest.raises(TensorMismatchError, match="holds int32, not floating-point numbers"):
        check_tensors(read_checkpoint(str(folder)))


def test_accepts_the_tensors_that_the_refused_were_made_of(place: Path, mini_state: Tensors) -> None:
    save_file(mini_state, place / "model.safetensors")
    check_tensors(read_checkpoint(str(place / "model.safetensors")))
