"""How a model was trained: its noise schedule, and what it predicts."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from pocket_diffusion.bundle import NoiseSchedule
from pocket_diffusion.checkpoint.key_mapping import UNET, has_open_clip
from pocket_diffusion.checkpoint.stored_tensor import StoredTensors
from pocket_diffusion.errors import CheckpointError, UnsupportedModelError
from pocket_diffusion.files import open_regular

Prediction = Literal["epsilon", "v_prediction"]

# diffusers' defaults for keys that a scheduler's config lacks, and where the classes have others. They are not Stable
# Diffusion's.
_SCHEDULE: dict[str, object] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "timestep_spacing": None,  # samplers have defaults of their own for this and the next
    "set_alpha_to_one": None,
}
_LIKE_STABLE_DIFFUSION: dict[str, object] = {"beta_start": 0.00085, "beta_end": 0.012}
_SCHEDULE_BY_CLASS: dict[str, dict[str, object]] = {
    "DPMSolverSDEScheduler": _LIKE_STABLE_DIFFUSION,
    "HeunDiscreteScheduler": _LIKE_STABLE_DIFFUSION,
    "KDPM2AncestralDiscreteScheduler": _LIKE_STABLE_DIFFUSION,
    "KDPM2DiscreteScheduler": _LIKE_STABLE_DIFFUSION,
    "LCMScheduler": _LIKE_STABLE_DIFFUSION | {"beta_schedule": "scaled_linear"},
    "TCDScheduler": _LIKE_STABLE_DIFFUSION | {"beta_schedule": "scaled_linear"},
}
# diffusers' Stable Diffusion pipelines correct every other value: both would spoil the pictures.
_CORRECTED: dict[str, object] = {"steps_offset": 1, "clip_sample": False}

# What single files say of it. A tensor of such a name marks the model; what it holds does not matter.
_V_MARKER, _ZERO_SNR_MARKER = "v_pred", "ztsnr"  # as A1111 and ComfyUI look for them
_METADATA = "modelspec.prediction_type"  # https://github.com/Stability-AI/ModelSpec
_SPELLINGS: dict[str, Literal["epsilon", "v_prediction", "sample"]] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "x0": "sample",
}
# Stable Diffusion 2 comes with either prediction, and most of its files do not say which. The training for velocity has
# spread this layer norm's biases. ComfyUI looks at it, too; A1111 evaluates the U-Net.
_TELLTALE = UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_SPREAD = 0.09
_MOST_BIASES = 2**16
_CONV_IN = UNET + "input_blocks.0.0.weight"
# The one line of CompVis' configs that matters here is looked for in the text: no YAML of a stranger's is parsed.
_LDM = "ldm.models.diffusion.ddpm."  # the classes of CompVis' configs; they predict noise by default
_YAML_LINE = re.compile(r"^[ \t]*parameterization[ \t]*:[ \t]*[\"']?(\w+)[\"']?[ \t]*(?:#.*)?\r?$", re.MULTILINE)
_MOST_YAML = 2**20  # bytes; Stable Diffusion's have 2 kB


def read_schedule(name: str, config: Mapping[str, Any]) -> NoiseSchedule:
    """Read a diffusers `scheduler/scheduler_config.json`: the schedule; the sampler it was saved with is not kept.

    Raises:
        UnsupportedModelError: it asks for what this version cannot do.
        msgspec.ValidationError: its numbers make no sense.

    """
    known = {
        "prediction_type": ("epsilon", "v_prediction", "sample"),
        "beta_schedule": ("linear", "scaled_linear"),
        "timestep_spacing": ("leading", "linspace", "trailing"),
    }
    for key, allowed in known.items():
        if config.get(key) is not None and config[key] not in allowed:
            choices = ", ".join(map(str, allowed))
            raise UnsupportedModelError(f"{name}: the scheduler has {key} {config[key]!r}; known are: {choices}")
    values = {**_SCHEDULE, **_SCHEDULE_BY_CLASS.get(config.get("_class_name", ""), {}), **config, **_CORRECTED}
    values["train_timesteps"] = values.pop("num_train_timesteps")
    schedule = {key: values[key] for key in NoiseSchedule.__struct_fields__ if key in values}
    return msgspec.convert(schedule, NoiseSchedule)


def recognise_schedule(
    path: Path, metadata: Mapping[str, str], tensors: StoredTensors, asked: Prediction | None
) -> tuple[NoiseSchedule, str]:
    """Return the schedule of a single file, which is Stable Diffusion's, and why it says what the model predicts.

    Where no prediction is asked for, a `.yaml` beside the file comes first, since a person has put it there; then the
    file's metadata; then the names of its tensors; and of Stable Diffusion 2, the numbers of one of them.

    Raises:
        CheckpointError: a prediction that is not known; or the file cannot be read any more.

    """
    schedule = NoiseSchedule(rescale_betas_zero_snr=_ZERO_SNR_MARKER in tensors)
    if asked is not None:
        return msgspec.structs.replace(schedule, prediction_type=asked), "as asked"
    yaml = path.with_suffix(".yaml")
    text = _read_text(yaml)
    line = _YAML_LINE.search(text)
    for said, why in ((line and line[1], f"by {yaml.name}"), (metadata.get(_METADATA), f"by its {_METADATA}")):
        if said is None:
            continue
        prediction = _SPELLINGS.get(said)
        if prediction is None:
            raise CheckpointError(
                f"{path} predicts {said[:100]!r} {why}; known are: {', '.join(_SPELLINGS)}; choose with --prediction"
            )
        return msgspec.structs.replace(schedule, prediction_type=prediction), why
    if _V_MARKER in tensors:
        return msgspec.structs.replace(schedule, prediction_type="v_prediction"), f"by its tensor {_V_MARKER!r}"
    spread = _spread(tensors) if has_open_clip(tensors) else None
    if spread is None:
        return schedule, "by default"
    if _LDM in text:
        return schedule, f"by {yaml.name}, which names no other"
    prediction = "v_prediction" if spread > _SPREAD else "epsilon"
    why = f"guessed by the spread of a norm's biases ({spread:.2g}); if pictures are noise, choose with --prediction"
    return msgspec.structs.replace(schedule, prediction_type=prediction), why


def _spread(tensors: StoredTensors) -> float | None:
    """Return the standard deviation of the telltale biases; None of a model that was never trained for velocity."""
    biases, first = tensors.get(_TELLTALE), tensors.get(_CONV_IN)
    if biases is None or not 0 < biases.size <= _MOST_BIASES or not biases.is_floating_point:
        return None
    if first is None or first.ndim < 2 or first.shape[1] != 4:  # inpainting and its like predict the noise
        return None
    return float(np.std(biases.read().astype(np.float64)))


def _read_text(path: Path) -> str:
    """Return the beginning of a text file, or nothing where there is none."""
    try:
        with open_regular(path) as file:
            return file.read(_MOST_YAML).decode("utf-8", "replace")
    except OSError:
        return ""
