"""Room on a Ray cluster: what each process that draws asks for, and which nodes have that."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType

from pocket_diffusion.batch.artist import Studio
from pocket_diffusion.bundle import Manifest
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.memory import MODES, Demand, needed_memory
from pocket_diffusion.pipeline import Pipeline

_PROCESS = 250 * 2**20
"""Bytes that Python and its libraries take, beside what a picture needs."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Need:
    """What each process that draws needs of its node."""

    resources: Mapping[str, float]
    """As Ray names them; the memory is that of the batch's usual picture."""
    manifest: Manifest
    mode: str | None
    """The memory mode; None where memory has a limit of its own, or is that of a graphics card."""

    @classmethod
    def of(cls, pipeline: Pipeline, studio: Studio) -> "Need":
        """Return what a process like this one needs."""
        manifest, memory, is_cuda = pipeline.bundle.manifest, studio.machine["memory"], pipeline.provider == "cuda"
        limit = MemoryBudget.parse(memory).limit
        mode = memory if limit is None and not is_cuda else None
        demand = Demand.usual(manifest)
        usual = replace(demand, width=studio.usual.width or demand.width, height=studio.usual.height or demand.height)
        resources = {
            "CPU": studio.machine["threads"],
            "GPU": int(is_cuda),
            "memory": limit or _memory(manifest, mode, usual) or 0,
        }
        return cls({name: amount for name, amount in resources.items() if amount}, manifest, mode)

    def check(self, drawing: Drawing, most: float) -> None:
        """Refuse a picture that takes more memory than any node has.

        Raises:
            InvalidRequestError: names the need, and the most that there is.

        """
        memory = _memory(self.manifest, self.mode, drawing.demand)
        if memory is not None and memory > most:
            raise InvalidRequestError(
                f"{drawing.width}x{drawing.height} needs {_megabytes(memory)} of memory in mode {self.mode}, and no "
                f"node of the cluster has more than {_megabytes(most)}; draw it smaller, give another --memory, or "
                "start a larger node"
            )


def find_room(ray: ModuleType, need: Need, patience: float) -> float:
    """Return the most memory that a node of a cluster has, in bytes, once one is large enough for a process.

    Where none is, the cluster is asked for one, as it may grow on demand.

    Args:
        ray: the module, connected.
        need: of each process.
        patience: for how many seconds it is waited for.

    Raises:
        InvalidRequestError: there is none by then; it names what is needed, and the most that there is.

    """
    asked = ", ".join(_shown(name, amount) for name, amount in need.resources.items())
    nodes = _nodes(ray)
    if patience and not _is_among(nodes, need):
        _log.warning("waiting up to %g s for a node of the Ray cluster that has %s", patience, asked)
        group = ray.util.placement_group([dict(need.resources)])
        group.wait(patience)
        ray.util.remove_placement_group(group)
        nodes = _nodes(ray)
    if not _is_among(nodes, need):
        most = ", ".join(_shown(name, max(node.get(name, 0) for node in nodes)) for name in need.resources)
        raise InvalidRequestError(
            f"each process asks for {asked}, and no node of the cluster has that: the most is {most}; give fewer "
            "--threads or --memory low, start a larger node, or give --ray-wait where the cluster grows on demand"
        )
    return max(node.get("memory", 0.0) for node in nodes)


def _nodes(ray: ModuleType) -> list[dict[str, float]]:
    """Return what each node has in all."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _is_among(nodes: list[dict[str, float]], need: Need) -> bool:
    return any(all(node.get(name, 0) >= amount for name, amount in need.resources.items()) for node in nodes)


def _memory(manifest: Manifest, mode: str | None, demand: Demand) -> int | None:
    """Return the bytes that a process takes with a picture; None where that is not known."""
    needed = None if mode is None else needed_memory(manifest, MODES[mode], demand)
    return None if needed is None else needed + _PROCESS


def _shown(name: str, amount: float) -> str:
    return _megabytes(amount) if name == "memory" else f"{amount:g} {name}"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
