"""From a LoRA file's tensors to changes of a bundle's layers, or to the reason why they do not fit."""

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.layers import LayerTable
from pocket_diffusion.model.lora.adapter_settings import AdapterSettings
from pocket_diffusion.model.lora.changes import (
    LARGEST_FACTOR,
    METHODS,
    Change,
    OutputMagnitudes,
    Shape,
    Tensor,
    magnitude_shape,
)
from pocket_diffusion.model.lora.keys import Keys, is_part, other_method

_NAMED = 3  # how many layers or keys a message names
_SHOWN = 80  # and how much of a key

_SDXL, _SD2, _SD1 = "Stable Diffusion XL", "Stable Diffusion 2", "Stable Diffusion 1"
_FOREIGN_KEYS = (
    (r"^lora_te[12]_|(^|\.)text_encoder_2\.|_transformer_blocks_[1-9]|\.transformer_blocks\.[1-9]", _SDXL),
    (r"double_blocks|single_blocks|single_transformer_blocks", "Flux"),
    (r"joint_blocks|^lora_te3_|^transformer\.", "Stable Diffusion 3 or another transformer"),
)
# What tells other models by their size: cross-attention's inputs, and the width of the text encoder.
_FOREIGN_WIDTHS = {
    "unet": (r"\.attn2\.to_[kv]$", {768: _SD1, 1024: _SD2, 2048: _SDXL}),
    "text_encoder": (r"\.([qkv]_proj|fc1)$", {768: _SD1, 1024: _SD2, 1280: _SDXL}),
}
_CHECKPOINT = re.compile(r"^(model\.diffusion_model|first_stage_model|cond_stage_model|model_ema)\.")
_EMBEDDING = re.compile(r"^(emb_params|clip_[lg]|string_to_(param|token)(\..*)?)$")

Changes = Mapping[str, Mapping[str, Change]]
"""By component and published name."""


class _FaultError(Exception):
    """Why a file is refused."""


def read_changes(
    name: str,
    tensors: Mapping[str, Tensor],
    tables: Mapping[str, LayerTable],
    settings: Mapping[str, AdapterSettings] | None = None,
) -> Changes:
    """Return what a LoRA file's tensors change, all of it checked: names, shapes, scales and numbers.

    Args:
        name: the file's, for messages.
        tensors: by key; read one by one.
        tables: the layers of the networks, by component.
        settings: where alpha is not among the tensors, by component; without either it is the rank.

    Raises:
        InvalidRequestError: the file is no LoRA, or one for another model, or of an unknown kind; keys match nothing;
            shapes do not fit; alpha makes no sense; numbers are not finite.

    """
    try:
        _check_kind(tensors)
        parts, unmatched = _by_layer(tensors, tables)
        changes, misfits, foreign = _fit(parts, tables, settings or {})
        foreign, ours = _foreign_by_keys(unmatched) or foreign, _model_of(tables)
        if foreign and foreign != ours:
            raise _FaultError(f"it was made for {foreign}, and this is {ours}; choose one made for that")
        if unmatched:
            raise _FaultError(f"this model has no layer for {_listed(unmatched)}; choose one made for it")
        if misfits:
            more = f" and {len(misfits) - _NAMED} more" if len(misfits) > _NAMED else ""
            raise _FaultError(
                f"it does not fit this model: {'; '.join(misfits[:_NAMED])}{more}; choose one made for it"
            )
        _check_numbers(tensors)
    except _FaultError as fault:
        raise InvalidRequestError(f"LoRA {name}: {fault}") from None
    return changes


def _check_kind(tensors: Mapping[str, Tensor]) -> None:
    """Refuse files that are no LoRA."""
    if any(_CHECKPOINT.match(key) for key in tensors):
        raise _FaultError("it is a whole checkpoint; make a bundle of it with `pocket-diffusion import`")
    if tensors and all(_EMBEDDING.match(key) for key in tensors):
        raise _FaultError("it is an embedding (textual inversion); give it with --embedding")
    other = next(filter(None, map(other_method, (key for key in tensors if not is_part(key)))), None)
    if other:
        raise _FaultError(
            f"its kind, {other}, is not known; known are {', '.join(m.name for m in METHODS[:-1])} and DoRA"
        )
    if not any(map(is_part, tensors)):
        raise _FaultError(
            f"it has none of a LoRA's tensors, but {_listed(tensors) or 'nothing at all'}; fetch it again"
        )


Parts = dict[tuple[str, str], dict[str, Tensor]]
"""By component and published name: tensors by their part in a formula, and `alpha`, and `magnitudes`."""


def _by_layer(tensors: Mapping[str, Tensor], tables: Mapping[str, LayerTable]) -> tuple[Parts, list[str]]:
    """Return the tensors by layer, and the keys that name none."""
    keys = Keys({component: table.layers for component, table in tables.items()})
    parts: Parts = {}
    unmatched = []
    for text, tensor in tensors.items():
        key = keys.read(text)
        if key is None:
            unmatched.append(text)
            continue
        part = key.part
        published = f"{key.module}.{'bias' if part == 'bias' else 'weight'}"
        if published not in tables[key.component].layers:
            unmatched.append(text)
            continue
        if part == "bias":
            part = "diff"
        elif part == "output_magnitudes":
            part, tensor = "magnitudes", OutputMagnitudes(tensor)
        there = parts.setdefault((key.component, published), {})
        if there.setdefault(part, tensor) is not tensor:
            raise _FaultError(f"{_short(text)} is there in two spellings; fetch it again")
    return parts, unmatched


def _fit(
    parts: Parts, tables: Mapping[str, LayerTable], settings: Mapping[str, AdapterSettings]
) -> tuple[Changes, list[str], str | None]:
    """Return the changes, what is wrong with which layer, and the model for which it would be right."""
    changes: dict[str, dict[str, Change]] = {}
    misfits: list[str] = []
    foreign: str | None = None
    for (component, published), there in parts.items():
        shape, module = tables[component].layers[published].shape, published.rpartition(".")[0]
        try:
            change = _change(module, there, shape, settings.get(component))
        except ValueError as error:
            misfits.append(f"{published}: {error}")
            foreign = foreign or _foreign_by_width(component, module, there)
        else:
            changes.setdefault(component, {})[published] = change
    return changes, misfits, foreign


def _change(module: str, there: Mapping[str, Tensor], layer: Shape, settings: AdapterSettings | None) -> Change:
    """Return the change of a layer.

    Raises:
        ValueError: the tensors do not go together, or do not fit the layer.

    """
    tensors = {part: tensor for part, tensor in there.items() if part not in ("alpha", "magnitudes")}
    method = next((method for method in METHODS if frozenset(tensors) in method.forms), None)
    if method is None:
        raise ValueError(f"{', '.join(sorted(there))} alone make no change")
    shapes = {part: tensor.shape for part, tensor in tensors.items()}
    empty = next((part for part, shape in shapes.items() if 0 in shape), None)
    if empty is not None:  # of rank 0, too
        raise ValueError(f"{empty} {list(shapes[empty])} is empty")
    found = method.shape(shapes)
    if found[:1] != layer[:1] or math.prod(found) != math.prod(layer):
        raise ValueError(f"the change is {list(found)}, the layer {list(layer)}")
    magnitudes = there.get("magnitudes")
    if magnitudes is not None:
        magnitude_shape(magnitudes.shape, layer)
    rank = method.rank(shapes)
    factor = 1.0
    if rank is not None:
        alpha = float(rank)
        if "alpha" in there:
            alpha = _number(module, there["alpha"])
        elif settings is not None:
            alpha = settings.alpha(module, rank)
        factor = alpha / rank
        if not abs(factor) <= LARGEST_FACTOR:  # NaN, too
            raise _FaultError(
                f"{module} is changed {factor:g} times as much as it was trained (alpha {alpha:g}, rank {rank}); "
                f"at most {LARGEST_FACTOR:g} makes sense; fetch it again"
            )
    return Change(method, tensors, layer, factor, magnitudes)


def _number(module: str, tensor: Tensor) -> float:
    if math.prod(tensor.shape) != 1:
        raise _FaultError(f"alpha of {module} has the shape {list(tensor.shape)}, but is one number; fetch it again")
    return float(tensor.read().reshape(()))


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        numbers = tensor.read()
        if numbers.dtype.kind not in "fiu":
            raise _FaultError(f"{_short(key)} holds {numbers.dtype}, and no numbers to compute with; fetch it again")
        if not np.isfinite(numbers).all():
            raise _FaultError(f"{_short(key)} holds NaN or infinity; its training failed, or the file is damaged")


def _model_of(tables: Mapping[str, LayerTable]) -> str:
    """Return the model that the layers are of; small ones of other widths count as Stable Diffusion 1."""
    widths = (layer.shape[1:] for name, layer in tables["unet"].layers.items() if name.endswith(".attn2.to_k.weight"))
    return _SD2 if next(widths, ()) == (1024,) else _SD1


def _foreign_by_keys(unmatched: Iterable[str]) -> str | None:
    """Return the model that has layers of these names."""
    return next((model for pattern, model in _FOREIGN_KEYS if any(re.search(pattern, key) for key in unmatched)), None)


def _foreign_by_width(component: str, module: str, there: Mapping[str, Tensor]) -> str | None:
    """Return the model in which a layer has as many inputs as a change."""
    pattern, models = _FOREIGN_WIDTHS[component]
    shape = next((there[part].shape for part in ("down", "w1_b", "diff") if part in there), ())
    return models.get(shape[1]) if len(shape) > 1 and re.search(pattern, module) else None


def _listed(names: Iterable[str]) -> str:
    """Return the first few of some names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(_short(name) for name in names[:_NAMED]) + more


def _short(name: str) -> str:
    return ascii(name)[1:-1] if len(name) <= _SHOWN else ascii(name[:_SHOWN])[1:-1] + "…"
