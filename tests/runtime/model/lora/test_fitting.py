"""LoRA files against the layers of a model: which are meant, and what is refused."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from loras import Numbers, table
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.model.lora.adapter_settings import AdapterSettings, settings_of_diffusers
from pocket_diffusion.model.lora.fitting import Changes, read_changes

RESNET = {
    f"down_blocks__{level}__resnets__{layer}__conv1__weight": (32, 32, 3, 3) for level in (0, 1) for layer in (0, 1)
}
TABLES = {
    # two layers a level, as in Stable Diffusion 1
    "unet": table(
        conv_in__weight=(32, 4, 3, 3),
        conv_in__bias=(32,),
        time_embedding__linear_1__weight=(64, 32),
        down_blocks__1__attentions__0__proj_in__weight=(32, 32, 1, 1),
        down_blocks__1__attentions__0__transformer_blocks__0__attn2__to_k__weight=(32, 48),
        down_blocks__1__attentions__0__transformer_blocks__0__attn1__to_out__0__weight=(32, 32),
        down_blocks__1__attentions__0__transformer_blocks__0__attn1__to_out__0__bias=(32,),
        down_blocks__1__downsamplers__0__conv__weight=(32, 32, 3, 3),
        mid_block__resnets__1__time_emb_proj__weight=(32, 64),
        up_blocks__0__upsamplers__0__conv__weight=(32, 32, 3, 3),
        up_blocks__1__attentions__2__proj_out__weight=(32, 32, 1, 1),
        up_blocks__1__upsamplers__0__conv__weight=(32, 32, 3, 3),
        up_blocks__1__resnets__2__conv_shortcut__weight=(32, 64, 1, 1),
        **RESNET,
    ),
    "text_encoder": table(
        text_model__encoder__layers__0__self_attn__q_proj__weight=(48, 48),
        text_model__encoder__layers__0__self_attn__out_proj__weight=(48, 48),
        text_model__encoder__layers__0__mlp__fc1__weight=(96, 48),
    ),
}
TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight"
TO_OUT = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0.weight"
Q_PROJ = "text_model.encoder.layers.0.self_attn.q_proj.weight"
OUT_PROJ = "text_model.encoder.layers.0.self_attn.out_proj.weight"
UP, DOWN = "lora_up.weight", "lora_down.weight"
PEFT = {"up": ".lora_B.weight", "down": ".lora_A.weight"}


SD2_TABLES = {
    "unet": table(down_blocks__1__attentions__0__transformer_blocks__0__attn2__to_k__weight=(32, 1024)),
    "text_encoder": table(),
}


def ones(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


def read(tensors: Mapping[str, NDArray[Any]], settings: Mapping[str, AdapterSettings] | None = None) -> Changes:
    return read_changes("style", {name: Numbers(array) for name, array in tensors.items()}, TABLES, settings)


def pair(module: str, outputs: int, inputs: int, rank: int = 2, **names: str) -> dict[str, NDArray[np.float32]]:
    """Return a LoRA of one layer."""
    up, down = names.get("up", f".{UP}"), names.get("down", f".{DOWN}")
    return {module + down: ones(rank, inputs), module + up: ones(outputs, rank)}


@pytest.mark.parametrize(
    ("tensors", "component", "published"),
    [
        (pair("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k", 32, 48), "unet", TO_K),
        (pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 32, 48), "unet", TO_K),
        (pair("diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k", 32, 48), "unet", TO_K),
        (pair("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 48, 48), "text_encoder", Q_PROJ),
        (
            pair(f"unet.{TO_OUT}".replace("to_out.0.weight", "processor.to_out"), 32, 32,
                 up="_lora.up.weight", down="_lora.down.weight"),
            "unet", TO_OUT,
        ),
        (
            pair(TO_OUT.replace("to_out.0.weight", "processor.to_out"), 32, 32,
                 up="_lora.up.weight", down="_lora.down.weight"),
            "unet", TO_OUT,
        ),
        (
            pair("text_encoder.text_model.encoder.layers.0.self_attn.to_out", 48, 48,
                 up="_lora.up.weight", down="_lora.down.weight"),
            "text_encoder", OUT_PROJ,
        ),
        (
            pair(f"unet.{TO_OUT}".removesuffix(".weight"), 32, 32, up=".lora.up.weight", down=".lora.down.weight"),
            "unet", TO_OUT,
        ),
        (
            pair(f"text_encoder.{OUT_PROJ}".removesuffix(".weight"), 48, 48,
                 up=".lora_linear_layer.up.weight", down=".lora_linear_layer.down.weight"),
            "text_encoder", OUT_PROJ,
        ),
        (pair(f"unet.{TO_K}".removesuffix(".weight"), 32, 48, **PEFT), "unet", TO_K),
        (
            pair(f"base_model.model.{TO_K}".removesuffix(".weight"), 32, 48,
                 up=".lora_B.default.weight", down=".lora_A.default.weight"),
            "unet", TO_K,
        ),
        (
            pair(f"base_model.model.{Q_PROJ}".removesuffix(".weight"), 48, 48, **PEFT),
            "text_encoder", Q_PROJ,
        ),
        (
            pair("text_encoder.encoder.layers.0.self_attn.q_proj", 48, 48, **PEFT),
            "text_encoder", Q_PROJ,
        ),
    ],
)  # fmt: skip
def test_finds_the_layer_in_each_style(tensors: dict[str, NDArray[np.float32]], component: str, published: str) -> None:
    changes = read(tensors)
    assert {name: list(found) for name, found in changes.items()} == {component: [published]}
    assert changes[component][published].method.name == "LoRA"
    assert changes[component][published].factor == 1  # without alpha, it is the rank


@pytest.mark.parametrize(
    ("compvis", "published"),
    [  # as Stable Diffusion 1's configs number them
        ("input_blocks_0_0", "conv_in"),
        ("input_blocks_2_0_in_layers_2", "down_blocks.0.resnets.1.conv1"),
        ("input_blocks_4_0_in_layers_2", "down_blocks.1.resnets.0.conv1"),
        ("input_blocks_4_1_proj_in", "down_blocks.1.attentions.0.proj_in"),
        ("input_blocks_6_0_op", "down_blocks.1.downsamplers.0.conv"),
        ("middle_block_2_emb_layers_1", "mid_block.resnets.1.time_emb_proj"),
        ("output_blocks_2_1_conv", "up_blocks.0.upsamplers.0.conv"),
        ("output_blocks_5_1_proj_out", "up_blocks.1.attentions.2.proj_out"),
        ("output_blocks_5_2_conv", "up_blocks.1.upsamplers.0.conv"),
        ("output_blocks_5_0_skip_connection", "up_blocks.1.resnets.2.conv_shortcut"),
        ("time_embed_0", "time_embedding.linear_1"),
    ],
)
def test_finds_the_layer_by_compvis_names(compvis: str, published: str) -> None:
    shape = TABLES["unet"].layers[f"{published}.weight"].shape
    changes = read({f"lora_unet_{compvis}.diff": ones(*shape)})
    assert list(changes["unet"]) == [f"{published}.weight"]


def test_alpha_is_divided_by_the_rank() -> None:
    key = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    changes = read(pair(key, 96, 48, rank=4) | {f"{key}.alpha": np.array(1.0)})
    (change,) = changes["text_encoder"].values()
    assert change.factor == 0.25
    (result,) = {float(x) for x in change.apply(np.zeros((96, 48), np.float32), 2).flat}
    assert result == 4 * 0.25 * 2


def test_alpha_is_found_in_what_diffusers_and_peft_write_beside_the_tensors() -> None:
    metadata = {
        "lora_adapter_metadata": '{"unet.lora_alpha": 8, "unet.r": 4, "unet.alpha_pattern": {"attn2.to_k": 2}, '
        '"text_encoder.lora_alpha": 4, "text_encoder.use_rslora": true}'
    }
    settings = settings_of_diffusers(metadata)
    tensors = (
        pair(f"unet.{TO_K}".removesuffix(".weight"), 32, 48, 4, **PEFT)
        | pair(f"unet.{TO_OUT}".removesuffix(".weight"), 32, 32, 4, **PEFT)
        | pair(f"text_encoder.{Q_PROJ}".removesuffix(".weight"), 48, 48, 4, **PEFT)
    )
    changes = read(tensors, settings)
    assert {name: change.factor for name, change in changes["unet"].items()} == {TO_K: 0.5, TO_OUT: 2}
    assert changes["text_encoder"][Q_PROJ].factor == 2  # alpha / √rank


def test_peft_has_a_magnitude_an_output_however_it_lies() -> None:
    """Of a square layer, nothing else tells it from one an input."""
    key = "unet.down_blocks.0.resnets.0.conv1"
    generator = np.random.default_rng(0)
    wanted = np.abs(generator.normal(size=(1, 32, 1, 1))) + 1
    weight = generator.normal(size=(32, 32, 3, 3)).astype(np.float32)
    tensors = {
        f"{key}.lora_A.weight": ones(2, 32, 3, 3),
        f"{key}.lora_B.weight": ones(32, 2, 1, 1),
        f"{key}.lora_magnitude_vector": wanted,
    }
    (change,) = read(tensors)["unet"].values()
    found = np.sqrt((change.apply(weight, 1).astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
    np.testing.assert_allclose(found, wanted.reshape(-1), rtol=1e-5)


def test_biases_have_differences_of_their_own() -> None:
    changes = read({"lora_unet_conv_in.diff": ones(32, 4, 3, 3), "lora_unet_conv_in.diff_b": ones(32)})
    assert set(changes["unet"]) == {"conv_in.weight", "conv_in.bias"}


KEY = "lora_te_text_model_encoder_layers_0_mlp_fc1"
GOOD = pair(KEY, 96, 48)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({}, "it has none of a LoRA's tensors, but nothing at all; fetch it again"),
        ({"a": ones(1), "b": ones(1)}, "it has none of a LoRA's tensors, but a, b; fetch it again"),
        (
            {"model.diffusion_model.out.2.weight": ones(1)},
            "it is a whole checkpoint; make a bundle of it with `pocket-diffusion import`",
        ),
        ({"emb_params": ones(2, 48)}, "it is an embedding (textual inversion); give it with --embedding"),
        ({"string_to_param.*": ones(2, 48)}, "it is an embedding (textual inversion); give it with --embedding"),
        (
            {"lora_unet_conv_in.oft_blocks": ones(1)},
            "its kind, OFT, is not known; known are LoRA, LoHa, LoKr and DoRA",
        ),
        (
            {"lora_unet_conv_in.on_input": ones(1), "lora_unet_conv_in.weight": ones(1)},
            "its kind, IA3, is not known; known are LoRA, LoHa, LoKr and DoRA",
        ),
        (
            GOOD | pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", 96, 48),
            "it was made for Stable Diffusion XL, and this is Stable Diffusion 1; choose one made for that",
        ),
        (
            pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 32, 2048),
            "it was made for Stable Diffusion XL, and this is Stable Diffusion 1; choose one made for that",
        ),
        (
            pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 32, 1024),
            "it was made for Stable Diffusion 2, and this is Stable Diffusion 1; choose one made for that",
        ),
        (
            pair("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 1024, 1024),
            "it was made for Stable Diffusion 2, and this is Stable Diffusion 1; choose one made for that",
        ),
        (
            pair("lora_unet_double_blocks_0_img_attn_proj", 32, 32),
            "it was made for Flux, and this is Stable Diffusion 1; choose one made for that",
        ),
        (
            {f"lora_unet_what_{i}.{UP}": ones(1, 1) for i in range(5)},
            f"this model has no layer for lora_unet_what_0.{UP}, lora_unet_what_1.{UP}, lora_unet_what_2.{UP} "
            "and 2 more; choose one made for it",
        ),
        (
            pair(KEY, 96, 40),
            "it does not fit this model: text_model.encoder.layers.0.mlp.fc1.weight: the change is [96, 40], the layer "
            "[96, 48]; choose one made for it",
        ),
        (
            {f"{KEY}.{DOWN}": ones(2, 48), f"{KEY}.{UP}": ones(96, 3)},
            "it does not fit this model: text_model.encoder.layers.0.mlp.fc1.weight: [96, 3] and [2, 48] have no "
            "product: their ranks differ; choose one made for it",
        ),
        (
            {f"{KEY}.{DOWN}": ones(2, 48)},
            "it does not fit this model: text_model.encoder.layers.0.mlp.fc1.weight: down alone make no change; "
            "choose one made for it",
        ),
        (
            GOOD | {f"{KEY}.dora_scale": ones(95, 1)},
            "it does not fit this model: text_model.encoder.layers.0.mlp.fc1.weight: magnitudes [95, 1] for a layer "
            "[96, 48]; choose one made for it",
        ),
        (
            GOOD | {f"{KEY}.lora_magnitude_vector": ones(1)},
            "it does not fit this model: text_model.encoder.layers.0.mlp.fc1.weight: 1 magnitudes for 96 outputs; "
            "choose one made for it",
        ),
        (
            GOOD | {f"{KEY}.lora_magnitude_vector": ones(96), f"{KEY}.dora_scale": ones(96, 1)},
            f"{KEY}.dora_scale is there in two spellings; fetch it again",
        ),
        (
            pair(KEY, 96, 48, rank=0),
            "it does not fit this model: text_model.encoder.layers.0.mlp.fc1.weight: down [0, 48] is empty; choose one "
            "made for it",
        ),
        (
            {f"{KEY}.hada_w1_a": ones(96, 2), f"{KEY}.hada_w1_b": ones(2, 48), f"{KEY}.hada_w2_a": ones(96, 0),
             f"{KEY}.hada_w2_b": ones(0, 48)},
            "it does not fit this model: text_model.encoder.layers.0.mlp.fc1.weight: w2_a [96, 0] is empty; choose one "
            "made for it",
        ),
        (
            GOOD | {f"{KEY}.alpha": np.array(1e9)},
            "text_model.encoder.layers.0.mlp.fc1 is changed 5e+08 times as much as it was trained (alpha 1e+09, rank "
            "2); at most 1000 makes sense; fetch it again",
        ),
        (
            GOOD | {f"{KEY}.alpha": np.array(np.nan)},
            "text_model.encoder.layers.0.mlp.fc1 is changed nan times as much as it was trained (alpha nan, rank 2); "
            "at most 1000 makes sense; fetch it again",
        ),
        (
            GOOD | {f"{KEY}.alpha": ones(3)},
            "alpha of text_model.encoder.layers.0.mlp.fc1 has the shape [3], but is one number; fetch it again",
        ),
        (
            {f"{KEY}.{DOWN}": np.full((2, 48), np.nan, np.float32), f"{KEY}.{UP}": ones(96, 2)},
            f"{KEY}.{DOWN} holds NaN or infinity; its training failed, or the file is damaged",
        ),
        (
            {f"{KEY}.{DOWN}": ones(2, 48) > 0, f"{KEY}.{UP}": ones(96, 2)},
            f"{KEY}.{DOWN} holds bool, and no numbers to compute with; fetch it again",
        ),
        (
            GOOD | pair("text_encoder.text_model.encoder.layers.0.mlp.fc1", 96, 48),
            f"text_encoder.text_model.encoder.layers.0.mlp.fc1.{DOWN} is there in two spellings; fetch it again",
        ),
    ],
)  # fmt: skip
def test_refuses_with_what_is_wrong(tensors: dict[str, NDArray[Any]], why: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read(tensors)
    assert str(refused.value) == f"LoRA style: {why}"


@pytest.mark.parametrize(("width", "model"), [(768, "Stable Diffusion 1"), (2048, "Stable Diffusion XL")])
def test_a_model_of_stable_diffusion_2_refuses_others(width: int, model: str) -> None:
    tensors = pair(f"unet.{TO_K.removesuffix('.weight')}", 32, width)
    with pytest.raises(InvalidRequestError) as refused:
        read_changes("style", {name: Numbers(array) for name, array in tensors.items()}, SD2_TABLES)
    assert str(refused.value) == (
        f"LoRA style: it was made for {model}, and this is Stable Diffusion 2; choose one made for that"
    )


def test_keys_that_are_not_printable_are_shown_so() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        read({f"\n\x1b{'x' * 1000}.alpha": ones(1)})
    assert "\\n\\x1bxxx" in str(refused.value)
    assert len(str(refused.value)) < 250
