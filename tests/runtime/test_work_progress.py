"""How far a long work is: a bar on a terminal, lines in a log."""

import io
import sys
import time

import pytest

from pocket_diffusion.cli.progress import WorkProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_a_log_gets_a_line_for_each_thing_with_the_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with WorkProgress(hidden=False) as progress:
        progress("model.ckpt: 4 M parameters", 0.0)
        for what, done, now in (("early", 0.01, 101.0), ("tracing", 0.25, 110.0), ("done", 1.0, 140.0)):
            clock[0] = now
            progress(what, done)
    assert capsys.readouterr().err.splitlines() == [
        "  0%      0 s  model.ckpt: 4 M parameters",
        "  1%      1 s  early",  # its pace says nothing yet
        " 25%     10 s  tracing, about 30 s left",
        "100%     40 s  done",
    ]


def test_a_log_gets_no_line_for_how_far_a_thing_is(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with WorkProgress(hidden=False) as progress:
        progress("model.ckpt: 4 M parameters", 0.0)
        progress("model.ckpt: prediction type epsilon", 0.0)
        clock[0] = 102.0
        for what, done in (("placing: 1 of 2 MB", 0.01), ("placing: 2 of 2 MB", 0.02), ("hashing", 0.03)):
            progress(what, done)
    assert capsys.readouterr().err.splitlines() == [
        "  0%      0 s  model.ckpt: 4 M parameters",
        "  0%      0 s  model.ckpt: prediction type epsilon",
        "  1%      2 s  placing: 1 of 2 MB",
        "  3%      2 s  hashing",
    ]


def test_a_terminal_keeps_what_is_said_before_the_work(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with WorkProgress(hidden=False) as progress:
        progress("prediction type epsilon, by default", 0.0)
        clock[0] = 110.0
        progress("tracing", 0.25)
    kept, _, bar = terminal.getvalue().partition("\n")
    assert kept == "  0%      0 s  prediction type epsilon, by default"
    assert "25%" in bar
    assert "tracing, about 30 s left" in bar


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with WorkProgress(hidden=True) as progress:
        progress("tracing", 0.5)
    assert capsys.readouterr().err == ""
