"""Every reader stands some changed inputs, and those that once hurt it; and what hurts a reader is found."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import __main__ as command
from fuzz import campaign, faulty
from fuzz.bounded import BoundedReader, Bounds, Read
from fuzz.campaign import CORPUS, Campaign
from fuzz.targets import TARGETS, Inputs, Target

TIGHT = Bounds(seconds=0.5, patience=60, memory=100_000_000)


@pytest.mark.parametrize("name", TARGETS)
def test_a_reader_reads_or_refuses_whatever_it_is_given(name: str) -> None:
    run = Campaign(TARGETS[name], seed=0)
    findings = [*run.corpus(), *run.run(inputs=TARGETS[name].in_tests)]
    assert [finding.fault for finding in findings] == []
    assert 0 < run.refused < run.inputs  # some inputs pass the first checks and some do not


def test_all_that_is_kept_is_some_readers() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} <= set(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_is_the_same_each_time(name: str) -> None:
    one, again, other = (Campaign(TARGETS[name], seed) for seed in (1, 1, 2))
    assert [one.input(number) for number in range(5)] == [again.input(number) for number in range(5)]
    assert [one.input(number) for number in range(5)] != [other.input(number) for number in range(5)]


@pytest.mark.parametrize(
    ("reader", "fault"),
    [
        (faulty.raises, "KeyError at "),
        (faulty.takes_memory, "took 2"),
        (faulty.hides_a_lack_of_memory, "asked for more memory than there may be"),
        (faulty.takes_time, "of the processors"),
        (faulty.dies, "ended the process: SIGSEGV"),
        (faulty.executes, "called os.system"),
        (faulty.babbles, "the message is not one printable line"),
    ],
)
def test_what_hurts_a_reader_is_found_and_the_next_input_read(reader: Callable[[], Read], fault: str) -> None:
    with BoundedReader(reader, [faulty.GOOD], calls=False, bounds=TIGHT) as bounded:
        assert fault in str(bounded.read(b"bad").fault)
        assert bounded.read(faulty.GOOD).fault is None


def test_a_reader_that_hangs_is_ended() -> None:
    with BoundedReader(faulty.hangs, [faulty.GOOD], calls=False, bounds=Bounds(patience=0.1)) as bounded:
        assert bounded.read(b"bad").fault == "took longer than 0.1 s"


def test_a_refusal_is_no_fault() -> None:
    with BoundedReader(faulty.refuses, [faulty.GOOD], calls=False, bounds=TIGHT) as bounded:
        outcome = bounded.read(b"bad")
    assert (outcome.fault, outcome.refusal) == (None, "it is no picture")


def test_a_reader_that_refuses_its_good_inputs_is_not_fuzzed() -> None:
    with (
        BoundedReader(faulty.refuses, [b"bad"], calls=False, bounds=TIGHT) as bounded,
        pytest.raises(RuntimeError, match=r"refuses does not read a good input: it was refused \(it is no picture\)"),
    ):
        bounded.read(faulty.GOOD)


def test_one_input_of_each_fault_is_kept_and_read_again_until_it_is_mended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    inputs = Inputs([faulty.GOOD], lambda random: random.choice([b"bad", b"worse"]))
    targets = {reader.__name__: Target(reader, lambda: inputs, 1) for reader in (faulty.raises, faulty.refuses)}
    monkeypatch.setattr(command, "TARGETS", targets)
    monkeypatch.setattr(campaign, "CORPUS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["fuzz", "--inputs", "3", "--output", str(tmp_path / "figures.json")])
    with pytest.raises(SystemExit) as end:
        command.main()
    (kept,) = (tmp_path / "raises").iterdir()
    assert end.value.code == 1
    assert kept.read_bytes() in (b"bad", b"worse")
    found = json.loads((tmp_path / "figures.json").read_text())["readers"]
    assert [(found[name]["inputs"], found[name]["hurt"]) for name in targets] == [(3, 3), (3, 0)]
    assert found["refuses"]["refused"] == 3
    assert [cell for cell in capsys.readouterr().out.splitlines()[-1].split() if cell != "|"] == ["all", "6", "3"]
    assert [finding.content for finding in Campaign(targets["raises"], seed=0).corpus()] == [kept.read_bytes()]
