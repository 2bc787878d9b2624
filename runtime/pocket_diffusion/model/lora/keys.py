"""Which layer, and which part of its change, a key of a LoRA file names: the trainers' styles.

    lora_unet_down_blocks_0_…_attn1_to_q.lora_down.weight       kohya, LyCORIS; also with CompVis' names of blocks
    unet.down_blocks.0.….attn1.processor.to_q_lora.down.weight  diffusers, at first
    unet.down_blocks.0.….attn1.to_q.lora.down.weight            diffusers, later
    unet.down_blocks.0.….attn1.to_q.lora_A.weight               diffusers, today
    base_model.model.down_blocks.0.….attn1.to_q.lora_A.weight   PEFT

Underscores cannot be told from dots, so that every spelling is made from the layers' own names and looked up.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

_SUFFIXES = {
    **dict.fromkeys((".lora_down.weight", ".lora.down.weight", "_lora.down.weight"), "down"),
    **dict.fromkeys((".lora_linear_layer.down.weight", ".lora_A.weight", ".lora_A.default.weight"), "down"),
    **dict.fromkeys((".lora_up.weight", ".lora.up.weight", "_lora.up.weight"), "up"),
    **dict.fromkeys((".lora_linear_layer.up.weight", ".lora_B.weight", ".lora_B.default.weight"), "up"),
    ".lora_mid.weight": "mid",
    **dict.fromkeys((".alpha", "_lora.alpha", ".lora.alpha", ".lora_linear_layer.alpha"), "alpha"),
    ".dora_scale": "magnitudes",
    **dict.fromkeys((".lora_magnitude_vector", ".lora_magnitude_vector.weight"), "output_magnitudes"),
    ".lora_magnitude_vector.default.weight": "output_magnitudes",
    **{f".hada_{part}": part for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f".lokr_{part}": part for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **dict.fromkeys((".diff", ".w_norm"), "diff"),
    **dict.fromkeys((".diff_b", ".b_norm"), "bias"),
}
_LONGEST_FIRST = sorted(_SUFFIXES, key=len, reverse=True)

_OTHER_METHODS = {
    r"\.(oft|boft)_|\.oft_R\.": "OFT",
    r"\.on_input$": "IA3",
    r"\.(a1|a2|b1|b2|c1)\.weight$": "GLoRA",
    r"\.(hada|lokr|lora)_": "another kind of LoRA",
    r"\.(glora|vera_lambda|loha|adalora|lora_E)\b": "another kind of LoRA",
}

_ATTENTION_OF_OLD = {
    # diffusers at first named the text encoder's projections after the U-Net's
    "q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out",
}  # fmt: skip


class Key(NamedTuple):
    """What a key says."""

    component: str
    module: str
    """The layer's published name, without `.weight` or `.bias`."""
    part: str
    """`alpha`, `magnitudes`, `output_magnitudes`, `bias`, or a part of a `Method`'s formula."""


class Keys:
    """The spellings of all layers of a bundle's networks."""

    def __init__(self, names: Mapping[str, Iterable[str]]) -> None:
        """Take the published names of the weights and biases, by component."""
        self._modules: dict[str, tuple[str, str]] = {}
        for component, published in names.items():
            modules = {name.rpartition(".")[0] for name in published}
            spell = _spell_unet if component == "unet" else _spell_text_encoder
            for spelling, module in spell(modules):
                self._modules.setdefault(spelling, (component, module))

    def read(self, key: str) -> Key | None:
        """Return what a key says, or None where it names no layer or no part that is known."""
        suffix = next((suffix for suffix in _LONGEST_FIRST if key.endswith(suffix)), None)
        if suffix is None:
            return None
        found = self._modules.get(key.removesuffix(suffix))
        return None if found is None else Key(*found, _SUFFIXES[suffix])


def is_part(key: str) -> bool:
    """Tell whether a key ends as one of a LoRA does, whatever layer it names."""
    return key.endswith(tuple(_SUFFIXES))


def other_method(key: str) -> str | None:
    """Return the name of a method that is not known here, if a key is of one."""
    return next((name for pattern, name in _OTHER_METHODS.items() if re.search(pattern, key)), None)


def _spell_unet(modules: set[str]) -> Iterable[tuple[str, str]]:
    layers = len({name.split(".")[3] for name in modules if name.startswith("down_blocks.0.resnets.")})
    with_attention = {name.split(".")[1] for name in modules if re.match(r"up_blocks\.\d+\.attentions\.", name)}
    for module in modules:
        old = re.sub(r"\.to_out\.0$", ".to_out", module)
        processor, _, projection = old.rpartition(".")
        for dotted in (module, old, f"{processor}.processor.{projection}"):
            for prefix in ("unet.", "base_model.model.", "base_model.model.unet.", ""):
                yield prefix + dotted, module
        compvis = _compvis_unet(module, layers, with_attention)
        yield f"diffusion_model.{compvis}", module
        for name in (module, compvis):
            yield f"lora_unet_{name.replace('.', '_')}", module


def _spell_text_encoder(modules: set[str]) -> Iterable[tuple[str, str]]:
    for module in modules:
        attention, _, projection = module.rpartition(".")
        for dotted in (module, f"{attention}.{_ATTENTION_OF_OLD.get(projection, projection)}"):
            for name in (dotted, dotted.removeprefix("text_model.")):
                for prefix in ("text_encoder.", "base_model.model.", "base_model.model.text_encoder."):
                    yield prefix + name, module
        yield f"lora_te_{module.replace('.', '_')}", module


def _compvis_unet(module: str, layers: int, with_attention: set[str]) -> str:
    """Return CompVis' name of a layer of a U-Net: its blocks stand in one row, and a level has `layers` of them."""

    def down(match: re.Match[str]) -> str:
        level, kind, layer = int(match[1]), match[2], int(match[3])
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
        return f"input_blocks.{level * (layers + 1) + layer + 1}.{int(kind == 'attentions')}"

    def up(match: re.Match[str]) -> str:
        level, kind, layer = int(match[1]), match[2], int(match[3])
        if kind == "upsamplers":
            return f"output_blocks.{level * (layers + 1) + layers}.{1 + (match[1] in with_attention)}.conv"
        return f"output_blocks.{level * (layers + 1) + layer}.{int(kind == 'attentions')}"

    name = re.sub(r"^down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)(\.conv$)?", down, module)
    name = re.sub(r"^up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)(\.conv$)?", up, name)
    for ours, theirs in _COMPVIS:
        name = re.sub(ours, theirs, name)
    return name


_BLOCK = r"^((?:in|out)put_blocks\.\d+\.0|middle_block\.[02])"
_COMPVIS = (
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
    (r"^conv_in$", "input_blocks.0.0"),
    (r"^time_embedding\.linear_1$", "time_embed.0"),
    (r"^time_embedding\.linear_2$", "time_embed.2"),
    (r"^conv_norm_out$", "out.0"),
    (r"^conv_out$", "out.2"),
    (rf"{_BLOCK}\.norm1$", r"\1.in_layers.0"),
    (rf"{_BLOCK}\.conv1$", r"\1.in_layers.2"),
    (rf"{_BLOCK}\.time_emb_proj$", r"\1.emb_layers.1"),
    (rf"{_BLOCK}\.norm2$", r"\1.out_layers.0"),
    (rf"{_BLOCK}\.conv2$", r"\1.out_layers.3"),
    (rf"{_BLOCK}\.conv_shortcut$", r"\1.skip_connection"),
)
