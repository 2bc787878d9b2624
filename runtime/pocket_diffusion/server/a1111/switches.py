"""What clients of AUTOMATIC1111's send that is switched off: most send all that they know, whatever is wanted."""

from typing import Any

import msgspec

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server.answers import decode_json

_FEATURES = (
    "restore_faces", "tiling", "styles", "script_name", "refiner_checkpoint", "controlnet_units",
)  # fmt: skip
"""What changes the picture and cannot be done here, so that asking for it is refused."""
_SWITCHES = ("enabled", "ad_model")
"""The keys by which arguments of scripts say that they are off: of a ControlNet unit, and of an ADetailer model."""
_OF_THE_PAGE = ("sampler", "seed")
"""Scripts that are the web UI's own controls: its API takes their values from the settings, and not from these."""
_MOST_BYTES = 10_000
"""What is longer is asked for, whatever it is."""


def check_features(sent: dict[str, msgspec.Raw]) -> None:
    """Refuse what would change the picture and cannot be done.

    Raises:
        InvalidRequestError: names it.

    """
    wanted = [name for name in _FEATURES if name in sent and not is_off(_decoded(sent[name]))]
    scripts = _decoded(sent["alwayson_scripts"]) if "alwayson_scripts" in sent else {}
    if isinstance(scripts, dict):
        wanted += [
            name for name, script in scripts.items() if name.lower() not in _OF_THE_PAGE and not _is_script_off(script)
        ]
    elif not is_off(scripts):
        wanted.append("alwayson_scripts")
    if wanted:
        raise InvalidRequestError(f"{', '.join(map(str, wanted))}: not supported here; leave it out, or switch it off")


def is_off(value: object) -> bool:
    """Whether a value is one that switches its setting off."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "none", "false")
    if isinstance(value, list):
        return all(map(is_off, value))
    if isinstance(value, dict):
        return not value or any(name in value and is_off(value[name]) for name in _SWITCHES)
    return not value


def _is_script_off(script: object) -> bool:
    arguments: Any = script.get("args", []) if isinstance(script, dict) else script
    if isinstance(arguments, list) and arguments and arguments[0] is False:  # as ADetailer's first, whatever follows
        return True
    units = [one for one in arguments if isinstance(one, dict)] if isinstance(arguments, list) else []
    return is_off(units or arguments)  # an ADetailer without models draws nothing, even if it is switched on


def _decoded(value: msgspec.Raw) -> object:
    return decode_json(bytes(value), object) if len(bytes(value)) <= _MOST_BYTES else True
