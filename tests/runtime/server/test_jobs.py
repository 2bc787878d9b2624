"""The queue of drawings, with a pipeline that draws as slowly as a test wants."""

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Generator
from types import SimpleNamespace
from weakref import ref

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from pocket_diffusion import Cancelled, Order, Pipeline
from pocket_diffusion.drawing.images import png_bytes
from pocket_diffusion.drawing.preview import Previewer
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.errors import BundleDamagedError, BusyError, InvalidRequestError
from pocket_diffusion.machine.turns import Cancellation, Turns
from pocket_diffusion.result import Step, Steps
from pocket_diffusion.server.jobs import Job, JobQueue, State
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.server.models import Models
from pocket_diffusion.server.monitoring import Metrics
from pocket_diffusion.server.orders import resolve_within

LATENTS = np.zeros((1, 4, 8, 8), "f4")


class FakePipeline:
    """Draws a step each time it is allowed to."""

    name, arithmetic = "fake", "int8"

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.drawn: list[int] = []
        self.together = 0
        self.failure: Exception | None = None
        self.latents = LATENTS
        self.previewer = Previewer(lambda picture: self.encode_image(picture))

    def encode_image(self, picture: np.ndarray) -> np.ndarray:
        return np.zeros((1, 4, *(side // 8 for side in picture.shape[2:])), "f4")

    def prepare_previews(self, cancellation: Cancellation) -> None:
        self.previewer.prepare()

    def steps(self, drawing: Drawing, cancellation: Cancellation) -> Steps:
        return Steps(self._walk(drawing, cancellation), Turns(), cancellation)

    def _walk(self, drawing: Drawing, cancellation: Cancellation) -> Generator[Step, None, object]:
        self.together += 1
        assert self.together == 1
        try:
            for step in range(1, drawing.steps + 1):
                with cancellation.interrupting(self.allowed.release):
                    assert self.allowed.acquire(timeout=120)
                cancellation.check()
                if self.failure:
                    raise self.failure
                yield Step(step, drawing.steps, self.latents, self.latents, self.previewer.picture)
        finally:
            self.together -= 1
        self.drawn.append(drawing.seed)
        return SimpleNamespace(images=[Image.new("RGB", (64, 64))], latents=self.latents)


class NoPictures:
    def make_room(self, pixels: int) -> None:
        assert pixels == 64 * 64

    def add(self, _: object) -> list[str]:
        return ["name"]


async def over(job: Job) -> None:
    async for _ in job.changes():
        pass


class Bench:
    """What a test works with."""

    def __init__(self, drawing: Drawing, limits: Limits) -> None:
        self.pipeline = FakePipeline()
        self.metrics = Metrics()
        self.queue = JobQueue(Models(self.pipeline), limits, NoPictures(), self.metrics)
        self.drawing = drawing

    def submit(self, seed: int = 0, steps: int = 2, client: str = "") -> Job:
        return self.queue.submit(replace(self.drawing, seed=seed, steps=steps), self.pipeline, client=client)

    def allow(self, steps: int) -> None:
        self.pipeline.allowed.release(steps)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(120):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def drawing() -> Drawing:
    order = Order(prompt="a lake", width=64, height=64, sampler="ddpm")
    return resolve_within(order, Pipeline.load(provider="cpu").bundle.manifest, Limits())


@pytest.fixture
def run(drawing: Drawing) -> Callable[..., None]:
    """Run a test's story in an event loop, with a queue that is closed afterwards."""

    def run(story: Callable[[Bench], Awaitable[None]], **limits: float) -> None:
        async def whole() -> None:
            bench = Bench(drawing, Limits(**limits))
            try:
                await story(bench)
            finally:
                bench.allow(1000)
                await bench.queue.close()

        asyncio.run(whole())

    return run


def test_a_job_tells_what_draws_its_pictures_again(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        job = bench.submit(5)
        (settings,), (text,) = job.settings, job.infotexts
        assert (settings["seed"], settings["model"], settings["arithmetic"]) == (5, "fake", "int8")
        assert "Model: fake, Arithmetic: int8, " in text

    run(story)


def test_jobs_are_drawn_one_by_one_in_their_order(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        jobs = [bench.submit(seed) for seed in (5, 3, 4)]
        bench.allow(6)
        await asyncio.gather(*(over(job) for job in jobs))
        assert bench.pipeline.drawn == [5, 3, 4]
        assert {job.state for job in jobs} == {State.DONE}
        assert jobs[0].pictures == ["name"]

    run(story)


def test_positions_fall_and_those_who_wait_are_told(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        first, second, third = (bench.submit() for _ in range(3))
        await bench.until(lambda: first.state is State.RUNNING)
        assert [bench.queue.position(job) for job in (first, second, third)] == [0, 1, 2]
        seen = []

        async def follow() -> None:
            async for _ in bench.queue.follow(third):
                seen.append((third.state.value, bench.queue.position(third)))

        following = asyncio.create_task(follow())
        await asyncio.sleep(0)
        bench.allow(2)
        await bench.until(lambda: second.state is State.RUNNING)
        assert bench.queue.position(third) == 1
        bench.allow(4)
        await following
        assert seen[0] == ("queued", 2)
        assert ("queued", 1) in seen
        assert seen[-1] == ("done", 0)

    run(story)


def test_the_time_left_is_told_by_the_work_ahead(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        first = bench.submit(steps=2)
        assert bench.queue.seconds_left(first) is None
        bench.allow(2)
        await over(first)
        assert bench.queue.seconds_left(first) == 0
        running, waiting = bench.submit(steps=4), bench.submit(steps=8)
        bench.allow(1)
        await bench.until(lambda: running.step == 1)
        left, behind = bench.queue.seconds_left(running), bench.queue.seconds_left(waiting)
        assert left and behind
        assert behind / left == pytest.approx((3 + 8) / 3)

    run(story)


def test_a_job_that_waits_is_cancelled_at_once(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        first, second = bench.submit(1), bench.submit(2)
        bench.queue.cancel(second)
        assert second.state is State.CANCELLED
        bench.allow(2)
        await over(first)
        assert bench.pipeline.drawn == [1]

    run(story)


def test_a_job_that_is_drawn_is_cancelled_within_its_step(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        job, following = bench.submit(1, steps=100), bench.submit(2)
        await bench.until(lambda: job.state is State.RUNNING)
        bench.queue.cancel(job)
        assert job.state is State.RUNNING
        await over(job)
        assert isinstance(job.error, Cancelled)
        bench.allow(2)
        await over(following)
        assert bench.pipeline.drawn == [2]
        bench.queue.cancel(job)  # nothing happens
        assert job.state is State.CANCELLED

    run(story)


def test_a_job_that_takes_too_long_fails(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        job = bench.submit(steps=100)
        await over(job)
        assert job.state is State.FAILED
        assert "took longer than 0.05 s" in str(job.error)

    run(story, seconds=0.05)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (InvalidRequestError("no room"), "no room"),
        (BundleDamagedError("secret/path"), "the server's log says why"),
        (ZeroDivisionError("secret"), "the server's log says why"),
    ],
)
def test_a_failure_is_told_without_its_insides_and_the_queue_goes_on(
    run: Callable[..., None], failure: Exception, message: str
) -> None:
    async def story(bench: Bench) -> None:
        bench.pipeline.failure = failure
        job = bench.submit(1)
        bench.allow(1)
        await over(job)
        assert job.state is State.FAILED
        assert message in str(job.error)
        assert "secret" not in str(job.error)
        bench.pipeline.failure = None
        job = bench.submit(2)
        bench.allow(2)
        await over(job)
        assert bench.pipeline.drawn == [2]

    run(story)


def test_a_full_queue_takes_no_more(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        first = bench.submit()
        await bench.until(lambda: first.state is State.RUNNING)
        bench.submit()
        bench.submit(client="other")
        with pytest.raises(
            BusyError, match="2 drawings are waiting already, 1 of them yours, and no more of yours can"
        ):
            bench.submit()
        bench.submit(client="third")
        with pytest.raises(BusyError, match="3 drawings are waiting already, 0 of them yours"):
            bench.submit(client="fourth")

    run(story, queue=3)


def test_clients_are_drawn_for_in_turn_by_the_work_that_they_ask_for(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        first = bench.submit(1, client="greedy")
        await bench.until(lambda: first.state is State.RUNNING)
        greedy = [bench.submit(seed, client="greedy") for seed in (2, 3, 4)]
        other = [bench.submit(11, steps=4, client="other"), bench.submit(12, client="other")]
        late = bench.submit(21, client="late")
        order = [other[0], late, greedy[0], greedy[1], other[1], greedy[2]]
        assert [bench.queue.position(job) for job in order] == [1, 2, 3, 4, 5, 6]
        bench.allow(16)
        await asyncio.gather(*(over(job) for job in order))
        assert bench.pipeline.drawn == [1, 11, 21, 2, 3, 12, 4]

    run(story)


def test_pictures_that_wait_are_limited_too(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        first = bench.submit()
        await bench.until(lambda: first.state is State.RUNNING)
        picture = Image.new("RGB", (64, 64))
        for client in ("", "other"):
            bench.queue.submit(replace(bench.drawing, image=picture), bench.pipeline, client=client)
            bench.submit(client=client)  # has none
            with pytest.raises(BusyError):
                bench.queue.submit(replace(bench.drawing, image=picture), bench.pipeline, client=client)

    run(story, waiting_pixels=2 * 64 * 64)


def test_latents_that_are_no_numbers_spoil_no_preview(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        bench.pipeline.latents = np.full_like(LATENTS, np.nan)
        first = bench.submit(steps=1)
        bench.allow(1)
        await over(first)
        assert first.state is State.DONE
        bench.pipeline.latents = LATENTS
        second = bench.submit(steps=2)
        bench.allow(1)
        await bench.until(lambda: second.step == 1)
        assert await bench.queue.preview(second) is not None

    run(story)


def test_without_a_preview_pictures_are_drawn_all_the_same(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        def fail(_: object) -> np.ndarray:
            raise BundleDamagedError("no encoder")

        bench.pipeline.encode_image = fail
        job = bench.submit(steps=2)
        bench.allow(1)
        await bench.until(lambda: job.step == 1)
        assert await bench.queue.preview(job) is None
        bench.allow(1)
        await over(job)
        assert job.state is State.DONE

    run(story)


def test_a_preview_is_made_once_for_all_and_nobody_else_waits_for_it(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        looking, looked = threading.Event(), []

        def look(latents: np.ndarray) -> Image.Image:
            looked.append(threading.current_thread())
            assert looking.wait(120)  # which the event loop's thread sets below
            return Image.new("RGB", (8, 8))

        bench.pipeline.previewer.picture = look
        job = bench.submit(steps=2)
        bench.allow(1)
        await bench.until(lambda: job.step == 1)
        asking = [asyncio.create_task(bench.queue.preview(job)) for _ in range(2)]
        await bench.until(lambda: len(looked) == 1)
        looking.set()
        first, second = await asyncio.gather(*asking)
        assert first == second == png_bytes(Image.new("RGB", (8, 8)))
        assert len(looked) == 1
        assert looked[0] is not threading.current_thread()

    run(story)


def test_a_preview_that_fails_is_the_last_and_costs_no_picture(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        tried = []

        def fail(latents: np.ndarray) -> Image.Image:
            tried.append(latents)
            raise BundleDamagedError("no decoder")

        bench.pipeline.previewer.picture = fail
        job = bench.submit(steps=2)
        bench.allow(1)
        await bench.until(lambda: job.step == 1)
        assert [await bench.queue.preview(job) for _ in range(2)] == [None, None]
        assert len(tried) == 1
        bench.allow(1)
        await over(job)
        assert job.state is State.DONE

    run(story)


def test_a_job_whose_last_follower_leaves_is_cancelled(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        followed, fired = bench.submit(1, steps=100), bench.submit(2)

        async def follow() -> None:
            async for _ in bench.queue.follow(followed):
                pass

        following = [asyncio.create_task(follow()) for _ in range(2)]
        await bench.until(lambda: followed.followers == 2)
        for task in following:
            task.cancel()
            await asyncio.sleep(0.01)
        await over(followed)
        assert "nobody followed" in str(followed.error)
        bench.allow(2)
        await over(fired)  # which nobody ever followed
        assert fired.state is State.DONE

    run(story, unfollowed_seconds=0.05)


def test_a_follower_who_comes_back_soon_finds_the_job_running(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        job = bench.submit(steps=2)
        for _ in range(2):
            changes = bench.queue.follow(job)
            await anext(changes)
            assert job.abandoning is None or job.abandoning.cancelled()
            await changes.aclose()
            assert job.abandoning and not job.abandoning.cancelled()
        bench.allow(2)
        async for _ in bench.queue.follow(job):
            pass
        assert job.state is State.DONE

    run(story)


def test_an_end_that_comes_while_a_follower_looks_elsewhere_is_told_too(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        job, seen = bench.submit(steps=2), []
        async for is_over in bench.queue.follow(job):
            seen.append(is_over)
            if job.state is State.RUNNING:
                bench.allow(2)
                await bench.until(lambda: job.state.is_final)
        assert seen[-2:] == [False, True]

    run(story)


def test_closing_cancels_all_and_takes_no_more(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        jobs = [bench.submit(steps=100) for _ in range(3)]
        await bench.until(lambda: jobs[0].state is State.RUNNING)
        closing = asyncio.create_task(bench.queue.close())
        await closing
        assert {job.state for job in jobs} == {State.CANCELLED}
        with pytest.raises(BusyError, match="about to stop"):
            bench.submit()

    run(story)


def test_jobs_that_are_over_keep_no_pictures_and_are_forgotten_in_the_end(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocket_diffusion.server.jobs._REMEMBERED", 2)

    async def story(bench: Bench) -> None:
        jobs = []
        for seed in range(4):
            picture = Image.new("RGB", (64, 64))
            drawing = replace(bench.drawing, steps=2, seed=seed, image=picture, mask=picture)
            jobs.append(bench.queue.submit(drawing, bench.pipeline))
            bench.allow(2)
            await over(jobs[-1])
        assert [bench.queue.find(job.id) is job for job in jobs] == [False, False, True, True]
        assert (jobs[0].drawing.image, jobs[0].drawing.mask) == (None, None)
        assert jobs[0].predicted is None

    run(story)


def test_a_job_that_is_cancelled_while_it_is_drawn_keeps_no_pictures_either(run: Callable[..., None]) -> None:
    # An error keeps the frames that it went through, and these keep what is drawn and from what.
    async def story(bench: Bench) -> None:
        drawing = replace(bench.drawing, steps=100, image=Image.new("RGB", (64, 64)))
        picture = ref(drawing.image)
        job = bench.queue.submit(drawing, bench.pipeline)
        del drawing
        await bench.until(lambda: job.state is State.RUNNING)
        bench.queue.cancel(job)
        await over(job)
        await bench.until(lambda: bench.queue._worker is None)
        gc.collect()
        assert picture() is None
        assert str(job.error) == "the drawing was cancelled"

    run(story)


def test_networks_are_unloaded_between_two_drawings(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        drawn_meanwhile = []
        bench.pipeline.close = lambda: drawn_meanwhile.append(bench.queue.running)
        first, second = bench.submit(), bench.submit()
        await bench.until(lambda: first.state is State.RUNNING)
        unloading = asyncio.create_task(bench.queue.unload())
        await asyncio.sleep(0)  # it waits for its turn now
        bench.allow(4)
        await asyncio.gather(over(first), unloading, over(second))
        assert drawn_meanwhile == [None]
        assert {first.state, second.state} == {State.DONE}

    run(story)


def test_a_drawing_that_is_cancelled_while_networks_are_unloaded_is_not_drawn(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        begun, finish = threading.Event(), threading.Event()
        bench.pipeline.close = lambda: begun.set() or finish.wait(120)
        unloading = asyncio.create_task(bench.queue.unload())
        await asyncio.to_thread(begun.wait, 120)
        job = bench.submit()
        await asyncio.sleep(0)  # its turn would be now
        bench.queue.cancel(job)
        finish.set()
        await unloading
        again = bench.submit(3)
        bench.allow(2)
        await over(again)
        assert bench.pipeline.drawn == [3]

    run(story)


def test_the_figures_count_what_happened(run: Callable[..., None]) -> None:
    async def story(bench: Bench) -> None:
        done, cancelled = bench.submit(steps=3), bench.submit()
        bench.queue.cancel(cancelled)
        bench.allow(3)
        await over(done)
        value = bench.metrics.registry.get_sample_value
        assert value("pocket_diffusion_pictures_total") == 1
        assert value("pocket_diffusion_step_seconds_count") == 2  # from step to step
        assert value("pocket_diffusion_drawing_seconds_count", {"state": "done"}) == 1
        assert value("pocket_diffusion_drawing_seconds_count", {"state": "cancelled"}) is None  # never had its turn
        assert value("pocket_diffusion_queue_length") == 0

    run(story)


def test_an_event_loop_that_ends_has_the_drawing_stop(drawing: Drawing) -> None:
    # As in an application that mounts ours and runs no lifespan of it.
    async def story() -> tuple[Bench, Job, Job]:
        bench = Bench(drawing, Limits())
        job, waiting = bench.submit(steps=2), bench.submit()
        await bench.until(lambda: job.state is State.RUNNING)
        return bench, job, waiting

    bench, job, waiting = asyncio.run(story())
    assert job.cancellation.reason is not None
    assert bench.pipeline.drawn == []
    assert {job.state, waiting.state} == {State.CANCELLED}
    assert len(bench.queue) == 0
