"""What ComfyUI tells of its nodes, by which clients build their menus."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from pocket_diffusion.server.comfyui.nodes import ENDS, Node
from pocket_diffusion.server.comfyui.values import LINK_TYPES

Choices = Mapping[str, Sequence[str]]
"""By the name that a setting's type has for them."""


def object_info(node: Node, choices: Choices) -> dict[str, Any]:
    """Return what is told of one node."""
    links = {name: [LINK_TYPES[kind]] for name, kind in node.links.items()}
    settings = {field.name: _setting(field, choices) for field in _fields(node.settings)}
    is_end = node.name in ENDS
    outputs = [] if is_end else [LINK_TYPES[kind] for kind in node.gives]
    return {
        "input": {"required": {**links, **settings}},
        "input_order": {"required": [*links, *settings]},
        "output": outputs,
        "output_is_list": [False] * len(outputs),
        "output_name": outputs,
        "name": node.name,
        "display_name": node.name,
        "description": (node.run.__doc__ or "").partition("\n")[0],
        "python_module": "nodes",
        "category": node.category,
        "output_node": is_end,
    }


def _fields(settings: type[msgspec.Struct]) -> Sequence[inspect.Field]:
    kind = inspect.type_info(settings)
    return kind.fields if isinstance(kind, inspect.StructType) else ()


def _setting(field: inspect.Field, choices: Choices) -> list[Any]:
    """Return a setting's type, or its choices, and what else an editor wants to know."""
    about = {} if field.required else {"default": field.default}
    kind = field.type
    if isinstance(kind, inspect.Metadata):
        return [list(choices[(kind.extra or {})["choices"]]), about]
    if isinstance(kind, inspect.LiteralType):
        return [list(kind.values), about]
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        bounds = {name: value for name, value in (("min", kind.ge), ("max", kind.le)) if value is not None}
        return ["INT" if isinstance(kind, inspect.IntType) else "FLOAT", {**about, **bounds}]
    return ["STRING", {**about, "multiline": True}]
