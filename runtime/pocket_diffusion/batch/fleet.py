"""Drawing rows on the machines of a Ray cluster: a Ray Data pipeline from a file of prompts to what became of each row.

The first machine reads the prompts and the pictures that rows name, and it alone writes. So the others need no storage
that is shared. Ray schedules, tries again what a lost node was drawing, and holds back what nobody waits for.
"""

import logging
import math
import os
import pickle
import socket
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import msgspec

from pocket_diffusion.batch.artist import Artist, Drawn, Studio
from pocket_diffusion.batch.bundle_copy import StoredFile, put_bundle, unpacked
from pocket_diffusion.batch.prompts import RowsLeft
from pocket_diffusion.batch.room import Need, find_room
from pocket_diffusion.batch.row import Row
from pocket_diffusion.bundle import MANIFEST_NAME, sha256_of
from pocket_diffusion.drawing.resolve import Drawing, resolve
from pocket_diffusion.errors import InferenceError, InvalidRequestError, PocketDiffusionError
from pocket_diffusion.extras import need
from pocket_diffusion.model.lora import LoraSpec
from pocket_diffusion.order import Order
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.version import __version__

_AUTO = "auto"
_ANSWERS_IN = 5.0
"""Seconds that an address has to accept a connection."""
_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""An empty frame of that type, by RFC 9113, section 6.5."""
_TRIES = 3
"""How often Ray draws a row again whose process or node was lost."""
_TASK = 1e13
"""The work of one task, about a second of a core. Ray takes several milliseconds for each, whatever is in it."""
_DIED = "the process that drew it ended each time; is there too little memory? Ray's logs tell more"


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A Ray cluster, and what each process that draws there asks for and must be like."""

    address: str
    """`auto` for the cluster of this machine, or HOST:PORT."""
    processes: int | None
    """How many draw at most; None is as many as there is room for."""
    copied: Path | None
    """The bundle that is sent to the nodes; None where they have it."""
    patience: float
    """Seconds that it waits for a node with room for a process."""
    need: Need
    """Of each process."""
    model: str
    """The SHA-256 of the bundle's manifest."""
    arithmetic: str
    version: str = __version__
    """Of this program."""

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        address: str,
        studio: Studio,
        processes: int | None = None,
        *,
        copy: bool = False,
        patience: float = 0.0,
    ) -> "Fleet":
        """Have all processes be like this one."""
        return cls(
            address=address,
            processes=processes,
            copied=studio.model if copy else None,
            patience=patience,
            need=Need.of(pipeline, studio),
            model=sha256_of(pipeline.bundle.root / MANIFEST_NAME),
            arithmetic=pipeline.arithmetic,
        )


def draw_on_ray(fleet: Fleet, studio: Studio, rows: RowsLeft) -> Generator[Drawn, None, None]:
    """Draw rows on a cluster, and yield what became of them as they come. A closed one gives up what is being drawn.

    Rows whose processes were lost time and again are tried once more in the end; any that were drawn beside them may be
    why.

    Raises:
        ExtraMissingError: Ray is not installed.
        InvalidRequestError: the cluster does not answer, has other versions, or has no node that is large enough.
        InferenceError: a node has another model, or something else is wrong there that would be with every row.

    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong is told in one line
    os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")  # nothing is reported to Ray's makers, or collected for them
    ray = need("ray", "ray", "--ray draws on a cluster")
    need("ray.data", "ray", "--ray draws with Ray Data")
    is_ours = not ray.is_initialized()
    if is_ours:
        _connect(ray, fleet.address)
    try:
        most = find_room(ray, fleet.need, fleet.patience)
        files = None if fleet.copied is None else put_bundle(ray, fleet.copied)
        studio, rows, done = _from_anywhere(studio), replace(rows, path=rows.path.absolute()), set[int]()
        # A second task waits where the first is drawn; in the end, no row is lost with another.
        for in_flight, work in ((2, _TASK), (1, 0.0)):
            tasks = _Tasks(studio, rows, fleet.need, most, work)
            with closing(_drawings(ray, fleet, tasks, files, in_flight)) as drawings:
                for drawn in drawings:
                    if drawn.row.number not in done:  # else what Ray lost, and drew again, had come already
                        done.add(drawn.row.number)
                        yield drawn
            rows = replace(rows, done=rows.done | done)
            if next(iter(rows), None) is None:
                return
        for row in rows:
            yield Drawn(row=row, error=_DIED)
    finally:
        if is_ours:
            ray.shutdown()


@dataclass(frozen=True)
class _Tasks:
    """What rows ask for, cut into what is drawn at a time; made on the first machine."""

    studio: Studio
    rows: RowsLeft
    need: Need
    most: float
    """The bytes of memory of the node that has most."""
    work: float
    """Of a task, at least, but for the last one; in units of `_work`."""

    def made(self, _: object) -> Iterator[dict[str, list[bytes]]]:
        """Yield them, with the pictures that rows name."""
        task: list[tuple[Row, Order | str]] = []
        work = 0.0
        for row in self.rows:
            asked: Order | str
            try:
                asked = self.studio.order(row)
                drawing = resolve(asked, self.need.manifest)
                self.need.check(drawing, self.most)
                work += _work(drawing)
            except InvalidRequestError as error:
                asked, work = str(error), math.inf  # it is told of at once
            task.append((msgspec.structs.replace(row, fields={}), asked))
            if work >= self.work:
                yield {"task": [pickle.dumps(task)]}
                task, work = [], 0.0
        if task:
            yield {"task": [pickle.dumps(task)]}


def _work(drawing: Drawing) -> float:
    """Return how much there is to draw, in units that mean about the same for all models and sizes."""
    return drawing.work * drawing.width * drawing.height * drawing.manifest.unet.parameters


def _drawings(
    ray: ModuleType, fleet: Fleet, tasks: _Tasks, files: Mapping[str, StoredFile] | None, in_flight: int
) -> Generator[Drawn, None, None]:
    """Draw rows, but for those whose processes are lost more often than Ray tries again."""
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    asked = fleet.need.resources
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # a task a block, which is told of at once
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    with ray.data.DataContext.current(context), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of `max_task_retries`, which goes with Ray 2.64
        drawings = (
            ray.data.from_items([None])
            .map_batches(tasks.made, num_cpus=0, label_selector=here)
            .map(
                _Drawer,
                fn_constructor_args=(tasks.studio, fleet, files),
                compute=ray.data.ActorPoolStrategy(
                    min_size=1, max_size=fleet.processes, max_tasks_in_flight_per_actor=in_flight
                ),
                num_cpus=asked.get("CPU"),
                num_gpus=asked.get("GPU"),
                memory=asked.get("memory"),
                max_task_retries=_TRIES,
            )
        )
    for answer in drawings.iter_rows():
        for drawn in pickle.loads(answer["drawn"]):  # noqa: S301 - of our own cluster
            if isinstance(drawn, PocketDiffusionError):
                raise drawn
            yield drawn


class _Drawer:
    """A process that draws, on any node."""

    def __init__(self, studio: Studio, fleet: Fleet, files: Mapping[str, StoredFile] | None) -> None:
        ray = need("ray", "ray", "a node draws")
        self._artist: Artist | None = None
        try:
            self._artist = _artist(ray, studio, fleet, files)
        except PocketDiffusionError as error:
            self._fault = InferenceError(f"on node {ray.util.get_node_ip_address()}: {error}")

    def __call__(self, given: dict[str, bytes]) -> dict[str, bytes]:
        """Draw the rows of a task."""
        task = pickle.loads(given["task"])  # noqa: S301 - our own
        return {"drawn": pickle.dumps([self._drawn(row, asked) for row, asked in task])}

    def _drawn(self, row: Row, asked: Order | str) -> Drawn | PocketDiffusionError:
        if self._artist is None:
            return self._fault
        if isinstance(asked, str):
            return Drawn(row=row, error=asked)
        try:
            return self._artist.draw_order(row, asked)
        except PocketDiffusionError as error:
            return error


def _artist(ray: ModuleType, studio: Studio, fleet: Fleet, files: Mapping[str, StoredFile] | None) -> Artist:
    """Load the pipeline.

    Raises:
        PocketDiffusionError: it cannot be, or would draw other pictures than the first machine's.

    """
    if __version__ != fleet.version:
        raise InferenceError(f"pocket-diffusion is {__version__}, not {fleet.version}; install the same everywhere")
    if files is not None:
        studio = replace(studio, model=unpacked(ray, files))
    elif studio.model is not None and not studio.model.exists():
        raise InferenceError(f"{studio.model} is not there; give --ray-copy, or a path that all nodes share")
    artist = studio.artist()
    root, arithmetic = artist.pipeline.bundle.root, artist.pipeline.arithmetic
    if sha256_of(root / MANIFEST_NAME) != fleet.model:
        raise InferenceError(f"{root} is another bundle; give --ray-copy, or have the same one there")
    if arithmetic != fleet.arithmetic:
        raise InferenceError(
            f"its arithmetic is {arithmetic}, the first machine's {fleet.arithmetic}; --arithmetic exact is the same "
            "everywhere"
        )
    return artist


def _connect(ray: ModuleType, address: str) -> None:
    """Join a cluster.

    Raises:
        InvalidRequestError: it does not answer, or has other versions.

    """
    if address == _AUTO:
        address = os.environ.get("RAY_ADDRESS", _AUTO)
    if address != _AUTO:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or "/" in host:
            raise InvalidRequestError(f"the address of a Ray cluster is {_AUTO} or HOST:PORT, not {address!r}")
        if not _answers(host, int(port)):
            raise InvalidRequestError(f"no Ray answers at {address}; `ray start --head` begins one")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError, SystemExit) as error:
        raise InvalidRequestError(
            f"the Ray at {address} cannot be used: {error}; all machines, this one too, need a running Ray of the same "
            "version, and the same Python"
        ) from None


def _answers(host: str, port: int) -> bool:
    """Whether something there speaks Ray's protocol, gRPC, whose servers begin with an HTTP/2 SETTINGS frame.

    Ray itself waits for minutes, and then ends the process.
    """
    try:
        with socket.create_connection((host, port), _ANSWERS_IN) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS)
            return os.environ.get("RAY_USE_TLS") == "1" or connection.recv(len(_SETTINGS))[3:4] == _SETTINGS[3:4]
    except (OSError, OverflowError):
        return False


def _from_anywhere(studio: Studio) -> Studio:
    """Have paths mean the same whatever the folder that a process is in."""
    machine = dict(studio.machine)
    machine["loras"] = [replace(spec, path=spec.path.absolute()) for spec in map(LoraSpec.of, machine.get("loras", ()))]
    machine["embeddings"] = [Path(path).absolute() for path in machine.get("embeddings", ())]
    for name in ("lora_folder", "embedding_folder"):
        if machine.get(name) is not None:
            machine[name] = Path(machine[name]).absolute()
    model = None if studio.model is None else studio.model.absolute()
    return replace(studio, model=model, folder=studio.folder.absolute(), machine=machine)
