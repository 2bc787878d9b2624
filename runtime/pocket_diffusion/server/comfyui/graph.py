"""A graph in ComfyUI's API format → what is to be drawn, by following the links back from its end."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.server.comfyui.nodes import ENDS, NODES, Node
from pocket_diffusion.server.comfyui.values import LINK_TYPES, Drawn
from pocket_diffusion.text import one_line

_SHOWN = 60
_MOST_NODES = 200
_MOST_ENDS = 4
_DEEPEST = 50
"""Links one after another."""

Name = Annotated[str, msgspec.Meta(max_length=100)]


class GraphNode(msgspec.Struct, frozen=True):
    """A node as it is sent; what else is sent with it is the editor's own."""

    class_type: Name
    inputs: dict[Name, Any] = {}


Graph = Annotated[dict[Name, GraphNode], msgspec.Meta(max_length=_MOST_NODES)]


def read_graph(graph: Mapping[str, GraphNode]) -> tuple[list[str], Drawn]:
    """Return the graph's ends, by their names in the graph, and what is to be drawn.

    Raises:
        InvalidRequestError: names the node, and what is wrong with it.

    """
    unknown = sorted({one.class_type for one in graph.values()} - NODES.keys())
    if unknown:
        names = ", ".join(one_line(name, _SHOWN) for name in unknown[:5])
        raise InvalidRequestError(f"these nodes cannot be had here: {names}; there are {', '.join(NODES)}")
    ends = [name for name, one in graph.items() if one.class_type in ENDS]
    if not 0 < len(ends) <= _MOST_ENDS:
        raise InvalidRequestError(f"a graph must have 1 to {_MOST_ENDS} {' or '.join(ENDS)} here, not {len(ends)}")
    reading = _Reading(graph)
    drawn: list[Drawn] = [reading.output(name, 0, 0) for name in ends]
    if any(other != drawn[0] for other in drawn):
        raise InvalidRequestError("a graph draws once here; send the others as graphs of their own")
    return ends, drawn[0]


class _Reading:
    """What the nodes of one graph give, each asked once."""

    def __init__(self, graph: Mapping[str, GraphNode]) -> None:
        self._graph = graph
        self._given: dict[str, tuple[Any, ...]] = {}

    def output(self, name: str, slot: int, depth: int) -> Any:  # noqa: ANN401 - any value of a graph
        """Return what a node gives."""
        if name not in self._graph:
            raise InvalidRequestError(f"there is no node {one_line(name, _SHOWN)!r} in the graph")
        if depth > _DEEPEST:
            raise InvalidRequestError(f"the graph goes in a circle, or more than {_DEEPEST} links deep")
        if name not in self._given:
            self._given[name] = self._run(name, depth)
        given = self._given[name]
        if not 0 <= slot < len(given):
            raise InvalidRequestError(f"{self._title(name)} has no output {slot}")
        return given[slot]

    def _run(self, name: str, depth: int) -> tuple[Any, ...]:
        sent, kind = self._graph[name], NODES[self._graph[name].class_type]
        linked = {key: self._linked(name, key, kind, depth) for key in kind.links}
        try:
            known = {key: value for key, value in sent.inputs.items() if key not in kind.links}
            settings = msgspec.convert(known, kind.settings, strict=False)  # clients send some numbers as text
            given = kind.run(**linked, **msgspec.structs.asdict(settings))
        except (msgspec.ValidationError, InvalidRequestError) as error:
            raise InvalidRequestError(f"{self._title(name)}: {error}") from None
        return given if isinstance(given, tuple) else (given,)

    def _linked(self, name: str, key: str, kind: Node, depth: int) -> Any:  # noqa: ANN401 - as above
        wanted = kind.links[key]
        match self._graph[name].inputs.get(key):
            case [str(source), int(slot)]:
                value = self.output(source, slot, depth + 1)
                if isinstance(value, wanted):
                    return value
        raise InvalidRequestError(f"{self._title(name)}: {key} must be a link to an output {LINK_TYPES[wanted]}")

    def _title(self, name: str) -> str:
        return f"node {one_line(name, _SHOWN)} ({self._graph[name].class_type})"
