"""How a machine is shared out among processes that draw, by its cores and its memory."""

from pathlib import Path

import pytest

from pocket_diffusion import Order, Pipeline
from pocket_diffusion.batch import Batch, workers
from pocket_diffusion.batch.folder import identity_in
from pocket_diffusion.batch.workers import Share, fair_share
from pocket_diffusion.model.budget import MemoryBudget
from pocket_diffusion.model.memory import MODES, Demand, needed_memory

OWN = 60_000_000
"""What each process takes before it draws."""
USUAL = Order(prompt="")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Four cores, and more memory than is needed."""
    monkeypatch.setattr(workers, "cores", lambda: 4)
    monkeypatch.setattr(workers, "own_anonymous_memory", lambda: OWN)
    monkeypatch.setattr(workers, "free_memory", lambda: 2**40)
    return monkeypatch


def taken(mode: str, processes: int) -> int:
    """What so many processes take that draw the embedded model's usual picture."""
    manifest = Pipeline.load().bundle.manifest
    need = needed_memory(manifest, MODES[mode], Demand.usual(manifest))
    assert need is not None
    return processes * (need + OWN)


def share(memory: str = "auto", processes: int | None = None, threads: int | None = None) -> Share:
    return fair_share(Pipeline.load(memory=memory), USUAL, MemoryBudget.parse(memory), processes, threads)


def test_a_core_draws_alone_where_memory_suffices(machine: pytest.MonkeyPatch) -> None:
    assert share() == Share(4, 1, "fast", None)
    assert share(threads=2) == Share(2, 2, "fast", None)
    assert share(memory="low") == Share(4, 1, "low", None)


def test_processes_that_are_asked_for_have_a_thread_each(machine: pytest.MonkeyPatch) -> None:
    assert share(processes=1) == Share(1, 1, "fast", None)
    machine.setattr(workers, "free_memory", lambda: taken("balanced", 6) / 0.8)
    assert share(processes=6) == Share(6, 1, "balanced", None)


def test_where_memory_has_room_for_fewer_they_share_the_cores(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(workers, "free_memory", lambda: taken("fast", 2) / 0.8 + 1)
    assert share(memory="fast") == Share(2, 2, "fast", None)
    machine.setattr(workers, "free_memory", lambda: 0)
    assert share() == Share(1, 4, "low", None)


def test_a_limit_is_that_of_all_together(machine: pytest.MonkeyPatch) -> None:
    limit = OWN + taken("fast", 2)
    found = fair_share(Pipeline.load(), USUAL, MemoryBudget("fast", limit), None, None)
    assert found == Share(2, 2, "fast", taken("fast", 1))
    assert found.memory == MemoryBudget("fast", taken("fast", 1))
    alone = OWN + taken("fast", 1) - OWN
    assert fair_share(Pipeline.load(), USUAL, MemoryBudget("fast", alone), None, None) == Share(1, 4, "fast", alone)


def test_larger_pictures_leave_room_for_fewer(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(workers, "free_memory", lambda: taken("fast", 4) / 0.8 + 1)
    large = fair_share(Pipeline.load(), Order(prompt="", width=512, height=512), MemoryBudget("fast"), None, None)
    assert large.processes < share(memory="fast").processes == 4


def test_one_process_takes_all_cores_where_memory_is_not_known(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(workers, "free_memory", lambda: None)
    assert share(memory="balanced") == Share(1, 4, "balanced", None)


def test_a_row_that_takes_more_than_its_process_may_is_refused(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,width,height\na lake,64,64\na boat,512,512\na tree,64,64\n")
    usual, limit = Order(prompt="", steps=1), f"{(OWN + taken('fast', 2)) / 1e6}MB"
    with Batch(tmp_path / "p.csv", tmp_path / "out", usual=usual, processes=2, memory=limit) as batch:
        errors = [record.error for record in batch.draw()]
    assert errors[::2] == [None, None]
    assert "MB are left of the limit" in str(errors[1])
    begun = identity_in(tmp_path / "out")
    assert begun is not None
    assert (begun.memory, begun.threads) == ("fast", 1)
    with Batch(tmp_path / "p.csv", tmp_path / "out", usual=usual, processes=1, threads=1, memory="1GB") as batch:
        assert [(record.row, record.error) for record in batch.draw()] == [(2, None)]
