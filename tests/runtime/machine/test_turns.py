"""Threads that take turns, and computations that end when another thread wishes it."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest

from pocket_diffusion import Cancellation, Cancelled, Pipeline
from pocket_diffusion.errors import InferenceError, InvalidRequestError
from pocket_diffusion.machine.turns import Turns


def test_the_first_reason_counts_and_interrupts_what_goes_on() -> None:
    cancellation, interrupted = Cancellation(), []
    cancellation.check()
    with cancellation.interrupting(lambda: interrupted.append("outer")):
        with cancellation.interrupting(lambda: interrupted.append("inner")):
            pass
        cancellation.cancel(InvalidRequestError("too long"))
    cancellation.cancel(Cancelled("later"))
    assert interrupted == ["outer"]
    with pytest.raises(InvalidRequestError, match="too long"):
        cancellation.check()
    with pytest.raises(InvalidRequestError), cancellation.interrupting(lambda: pytest.fail("is not begun")):
        pytest.fail("is not begun")


def test_nobody_waits_for_a_future_that_is_not_wanted_any_more() -> None:
    cancellation, future = Cancellation(), Future()
    threading.Thread(target=cancellation.cancel).start()
    with pytest.raises(Cancelled):
        cancellation.wait_for(future)
    future.set_result(None)
    Cancellation().wait_for(future)


def test_a_second_thread_waits_and_one_that_has_the_turn_may_take_it_again() -> None:
    turns, mine, order = Turns(), Cancellation(), []

    def second() -> None:
        with turns.turn():
            order.append("second")
            assert turns.cancellation is not mine

    with turns.turn(mine):
        thread = threading.Thread(target=second)
        thread.start()
        with turns.turn():
            assert turns.cancellation is mine
        thread.join(0.05)
        order.append("first")
    thread.join(120)
    assert order == ["first", "second"]


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_run_is_terminated_in_its_midst_and_other_failures_stay_what_they_are(
    pipeline: Pipeline, cancelled: bool
) -> None:
    cancellation = Cancellation()

    def run(names: list[str], feeds: dict[str, np.ndarray], options: SimpleNamespace) -> None:
        if cancelled:
            threading.Thread(target=cancellation.cancel).start()
            while not options.terminate:
                pass
        raise RuntimeError("ended")

    session = pipeline.components.open_session("text_encoder")
    session._session = SimpleNamespace(run=run)
    with (
        pipeline.components.turns.turn(cancellation),
        pytest.raises(Cancelled if cancelled else InferenceError),
    ):
        session.run(ids=pipeline.tokenizer.frame([]))
