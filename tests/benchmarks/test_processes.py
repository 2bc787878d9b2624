"""Processes beside threads, in small."""

import argparse
from pathlib import Path

import pytest

import processes
from machine import machine_facts
from stages import Workload


def test_each_way_is_measured_in_each_mode(tmp_path: Path) -> None:
    workload = Workload(bundle=None, width=64, height=64, steps=1, provider="cpu", threads=None, memory="fast")
    found = processes.measure(workload, [(1, 1)], ["low"], rows=2, place=tmp_path)
    (way,) = found["modes"]["low"].values()
    assert list(way["anonymous_bytes"]) == ["after 1 rows", "after 2 rows", "at most"]
    facts = workload.facts(varied=["threads", "memory"])
    _, table = processes.tables({"measurements": found, "machine": machine_facts(), **facts})
    assert "| low    |         1 |               1 |" in table


def test_a_way_is_read() -> None:
    assert processes.way("2x16") == (2, 16)
    for text in ("2", "0x1", "2x1x1"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not PROCESSESxTHREADS, such as 2x1"):
            processes.way(text)
