"""A batch on a Ray cluster of several nodes on this machine: the pictures of one process, whatever is lost."""

import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from deadly import DeadlyStudio
from pocket_diffusion import ExtraMissingError, InvalidRequestError, Order, Pipeline
from pocket_diffusion.batch import Batch
from pocket_diffusion.batch.artist import Studio
from pocket_diffusion.batch.fleet import Fleet, draw_on_ray
from pocket_diffusion.batch.prompts import RowsLeft
from pocket_diffusion.batch.room import Need
from pocket_diffusion.drawing.resolve import resolve
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

SMALL = Order(prompt="", width=64, height=64, steps=1)
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "memory": 2**30}
RunCli = Callable[..., SimpleNamespace]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Cluster"]:
    """A node with a core, to which tests add others; that one is lost is noticed at once."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        for name, value in (("period_ms", 500), ("initial_delay_ms", 1000), ("failure_threshold", 2)):
            patch.setenv(f"RAY_health_check_{name}", str(value))
        patch.setenv("RAY_TMPDIR", tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets' paths are short
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("nodes")))
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        pytest.importorskip("ray.data")
        from ray.cluster_utils import Cluster

        with nodes_may_be_late():
            cluster = Cluster(initialize_head=True, head_node_args=NODE)
        yield cluster
        cluster.shutdown()
        shutil.rmtree(os.environ["RAY_TMPDIR"], ignore_errors=True)


@contextmanager
def nodes_may_be_late() -> Iterator[None]:
    """Skip a test where others take the processor: Ray's nodes begin within 30 seconds or not at all."""
    try:
        yield
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        pytest.skip("a node of Ray did not begin within 30 seconds")


@contextmanager
def further_nodes(cluster: "Cluster", count: int, **size: object) -> Iterator[list[Any]]:
    """Have more nodes for a while; those that a test takes from the list, it ends itself."""
    with nodes_may_be_late():
        nodes = [cluster.add_node(**{**NODE, **size}) for _ in range(count)]
    yield nodes
    for node in nodes:
        cluster.remove_node(node)


@pytest.fixture(autouse=True)
def two_rows_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have several tasks of a few small pictures."""
    monkeypatch.setattr("pocket_diffusion.batch.fleet._TASK", 1e11)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Ray's own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.getLogger("ray.data").setLevel(logging.NOTSET)


def drawn(prompts: Path, output: Path, **options: object) -> dict[int, str | None]:
    """What became of each row: the hash of its picture, or its error."""
    with Batch(prompts, output, usual=SMALL, **options) as batch:
        return {record.row: record.sha256 or record.error for record in batch.draw()}


@pytest.mark.parametrize("nodes", [2, 4])
def test_a_cluster_draws_the_same_and_a_node_that_is_lost_loses_nothing(
    tmp_path: Path, cluster: "Cluster", nodes: int
) -> None:
    """With a picture from a file, rows that fail, one that is too large for any node, and a bundle that they lack."""
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "start.png")
    prompts = tmp_path / "prompts.jsonl"
    rows: list[dict[str, object]] = [{"prompt": f"a lake {number}"} for number in range(12)]
    rows[2] |= {"image": "start.png", "strength": 1.0}
    rows[4] |= {"image": "nowhere.png"}
    rows[5] |= {"width": 65}
    prompts.write_text("\n".join(map(json.dumps, rows)))
    one = drawn(prompts, tmp_path / "one", processes=1)
    rows.append({"prompt": "a lake", "width": 4096, "height": 4096})
    prompts.write_text("\n".join(map(json.dumps, rows)))

    many: dict[int, str | None] = {}
    with (
        further_nodes(cluster, nodes - 1) as others,
        Batch(
            prompts, tmp_path / "many", usual=SMALL, model=DEFAULT_BUNDLE, ray=cluster.address, ray_copy=True
        ) as batch,
    ):
        for record in batch.draw():
            assert record.row not in many
            many[record.row] = record.sha256 or record.error
            if len(many) == 6:
                cluster.remove_node(others.pop(), allow_graceful=False)
    assert "4096x4096 needs" in str(too_large := many.pop(13))
    assert "no node of the cluster has more than 1,074 MB" in str(too_large)
    assert many == one
    assert batch.done == 10


def test_a_row_whose_process_dies_is_recorded_and_the_others_are_drawn(
    tmp_path: Path, cluster: "Cluster", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocket_diffusion.batch.fleet._TRIES", 0)
    (tmp_path / "p.txt").write_text("a lake\ndie\na boat\n")
    studio = DeadlyStudio(None, SMALL, 0, tmp_path, {"threads": 1, "memory": "fast"})
    fleet = Fleet.of(Pipeline.load(threads=1, memory="fast"), cluster.address, studio, 1, copy=False)
    rows = list(draw_on_ray(fleet, studio, RowsLeft(tmp_path / "p.txt", "prompt", frozenset())))
    assert sorted(each.row.number for each in rows) == [1, 2, 3]
    assert [each.row.number for each in rows if each.error] == [2]


def test_a_batch_that_is_stopped_goes_on_without_ray(tmp_path: Path, cluster: "Cluster") -> None:
    (tmp_path / "p.txt").write_text("a lake\na boat\na tree\n")
    with Batch(tmp_path / "p.txt", tmp_path / "out", usual=SMALL, ray=cluster.address) as batch:
        records = batch.draw()
        first = next(records).row
        records.close()
    assert set(drawn(tmp_path / "p.txt", tmp_path / "out", processes=1)) == {1, 2, 3} - {first}


def test_a_process_that_no_node_has_room_for_is_refused(tmp_path: Path, cluster: "Cluster") -> None:
    (tmp_path / "p.txt").write_text("a lake\n")
    with pytest.raises(InvalidRequestError, match=r"each process asks for 1 CPU, \d.* MB, and no node .* larger node"):
        drawn(tmp_path / "p.txt", tmp_path / "out", ray=cluster.address, memory="900GB")


def test_a_node_that_a_growing_cluster_begins_is_waited_for(tmp_path: Path, cluster: "Cluster") -> None:
    (tmp_path / "p.txt").write_text("a lake\n")
    told, waits = list[str](), Event()
    log = Told(lambda message: (told.append(message), waits.set()))
    logging.getLogger("pocket_diffusion.batch.room").addHandler(log)
    with ThreadPoolExecutor(1) as thread:  # Ray begins nodes from the main thread alone
        usual = {"memory": "1500MB", "ray": cluster.address, "ray_wait": 120.0}
        pictures = thread.submit(drawn, tmp_path / "p.txt", tmp_path / "out", **usual)
        pictures.add_done_callback(lambda _: waits.set())
        waits.wait()
        with further_nodes(cluster, 1, memory=2 * 10**9):
            assert pictures.result() == drawn(tmp_path / "p.txt", tmp_path / "one", memory="1500MB", processes=1)
    logging.getLogger("pocket_diffusion.batch.room").removeHandler(log)
    assert "a node of the Ray cluster that has 1 CPU, 1,500 MB" in told[0]


class Told(logging.Handler):
    """Passes on what a log is told."""

    def __init__(self, hear: Callable[[str], object]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(record.getMessage())


def test_a_picture_that_no_node_has_memory_for_is_refused_with_the_need_and_the_most(tmp_path: Path) -> None:
    studio = Studio(None, SMALL, 0, tmp_path, {"threads": 1, "memory": "fast"})
    need = Need.of(Pipeline.load(threads=1, memory="fast"), studio)
    drawing = resolve(SMALL, need.manifest)
    need.check(drawing, need.resources["memory"])
    with pytest.raises(InvalidRequestError, match=r"64x64 needs \d+ MB .* no node .* more than 100 MB;"):
        need.check(drawing, 100e6)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "silent", "nonsense", "ray://localhost:10001"])
def test_an_address_where_no_ray_answers_is_refused(
    tmp_path: Path, run_cli: RunCli, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.data")
    monkeypatch.setattr("pocket_diffusion.batch.fleet._ANSWERS_IN", 0.1)
    (tmp_path / "p.txt").write_text("a lake\n")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if address == "silent":
            address = f"127.0.0.1:{silent.getsockname()[1]}"
        outcome = run_cli("batch", tmp_path / "p.txt", tmp_path / "out", "--ray", address)
    assert outcome.code == 2
    assert address in outcome.error


def test_ray_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "p.txt").write_text("a lake\n")
    with pytest.raises(ExtraMissingError, match=r'pip install "pocket-diffusion\[ray\]"'):
        drawn(tmp_path / "p.txt", tmp_path / "out", ray="auto")
