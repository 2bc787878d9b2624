"""What a batch costs, and what kills do to it, in small."""

from pathlib import Path

import pytest

import batch
from machine import machine_facts
from stages import Workload


def test_kills_change_no_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_ROUNDS", 1)
    workload = Workload(bundle=None, width=64, height=64, steps=1, provider="cpu", threads=None, memory="fast")
    found = batch.measure(workload, rows=8, kills=1, place=tmp_path)
    assert found["pictures_that_differ"] == found["pictures_too_many"] == 0
    assert found["rows_in_the_journal"] == 8
    assert found["kills"] <= 1
    _, table = batch.tables({"measurements": found, "machine": machine_facts(), **workload.facts(varied=["threads"])})
    assert "| a bare loop, one thread: seconds a picture" in table
