"""Drawings that wait, run and are done: one at a time, clients in turn, each to be followed and cancelled."""

import asyncio
import logging
import secrets
import time
from bisect import insort
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import closing
from enum import StrEnum
from weakref import WeakSet

import msgspec
import numpy as np

from pocket_diffusion.drawing.adapters import NO_CHANGES, ModelChanges
from pocket_diffusion.drawing.images import png_bytes
from pocket_diffusion.drawing.metadata import parameters_text, settings
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.errors import (
    BusyError,
    Cancelled,
    InferenceError,
    InvalidRequestError,
    OutputError,
    PocketDiffusionError,
)
from pocket_diffusion.machine.turns import Cancellation
from pocket_diffusion.pipeline import Pipeline
from pocket_diffusion.result import Latents, Result, Step
from pocket_diffusion.server.album import Album
from pocket_diffusion.server.limits import Limits
from pocket_diffusion.server.models import Models
from pocket_diffusion.server.monitoring import Metrics
from pocket_diffusion.server.pictures import PictureStore

_log = logging.getLogger(__name__)
_REMEMBERED = 1000
"""Jobs that are over and can still be asked for."""


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing will change any more."""
        return self not in (State.QUEUED, State.RUNNING)


class Job:
    """One drawing. Its fields are changed in the event loop's thread alone."""

    def __init__(
        self,
        drawing: Drawing,
        pipeline: Pipeline,
        changes: ModelChanges = NO_CHANGES,
        warnings: Sequence[str] = (),
        client: str = "",
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.client = client
        """Whom it is drawn for."""
        self.turn = 0.0
        """When it is drawn, among those that wait: in units of `work` that each client was given before."""
        self.pipeline = pipeline
        """What draws it."""
        self.drawing = drawing
        """Without its pictures once the job is over: they take memory."""
        self._drawn_by = pipeline.name, pipeline.arithmetic, changes
        self.settings = [settings(drawing, index, *self._drawn_by) for index in range(drawing.count)]
        """How to draw each picture again."""
        self.steps = drawing.steps_to_take
        parameters = drawing.manifest.unet.parameters
        self.work = drawing.work * drawing.count * drawing.width * drawing.height * parameters
        """How much there is to do, in units that mean something beside other jobs alone."""
        self.warnings = warnings
        self.state = State.QUEUED
        self.step = 0
        self.predicted: Latents | None = None
        """What the model sees of the first picture after the last step, as latents."""
        self.preview: bytes | None = None
        """What these look like, as a PNG, once somebody has asked."""
        self.partial_steps: Collection[int] = ()
        """After these, a preview is made for the client that ordered it, whether or not it looks just then."""
        self.partial: deque[bytes] = deque()
        """Those previews, until the client's stream takes them."""
        self.pictures: list[str] = []
        """The names in the store."""
        self.is_to_be_kept = True
        """Whether the album takes its pictures, if there is one: sketches and first passes are not for it."""
        self.kept: list[str] = []
        """The names in the album, as far as they are there."""
        self.error: PocketDiffusionError | None = None
        self.began = 0.0
        """On the monotonic clock."""
        self.cancellation = Cancellation()
        """Ends it while it is drawn."""
        self.followers = 0
        self.abandoning: asyncio.TimerHandle | None = None
        """Runs since the last follower left."""
        self._changed = asyncio.Event()

    @property
    def waiting_pixels(self) -> int:
        """How many pixels of pictures it keeps in memory."""
        return 0 if self.drawing.image is None else self.drawing.width * self.drawing.height

    @property
    def infotexts(self) -> list[str]:
        """How to draw each picture again, as text; all of it only until the job is over."""
        return [parameters_text(self.drawing, index, *self._drawn_by) for index in range(len(self.settings))]

    def change(self) -> None:
        """Wake those who follow."""
        self._changed.set()
        self._changed = asyncio.Event()

    def finish(self, state: State, error: PocketDiffusionError | None = None) -> None:
        """Settle it for good."""
        if error is not None:  # without the frames that it went through, and their pictures
            error.__traceback__ = error.__cause__ = error.__context__ = None
        self.state, self.error = state, error
        self.predicted = self.preview = None
        self.drawing = msgspec.structs.replace(self.drawing, image=None, mask=None)
        self.change()

    async def changes(self) -> AsyncIterator[bool]:
        """Yield whether the job is over: at once, and then after each change, or several, until it is."""
        while True:
            changed, is_over = self._changed, self.state.is_final
            yield is_over
            if is_over:
                return
            await changed.wait()


class JobQueue:
    """Draws one job after another in a thread, for as long as there are any.

    Clients share the time evenly, however many jobs each has (start-time fair queueing; Goyal, Vin & Cheng 1996). None
    has more places than it leaves free (dynamic thresholds; Choudhury & Hahne 1998), so that others find some.

    All methods are for the event loop's thread.
    """

    def __init__(
        self, models: Models, limits: Limits, pictures: PictureStore, metrics: Metrics, album: Album | None = None
    ) -> None:
        self._models = models
        self.pictures = pictures
        self.album = album
        """Where pictures stay, if they do."""
        self.running: Job | None = None
        self._limits = limits
        self._metrics = metrics
        self._waiting: list[Job] = []
        """In the order in which they will be drawn."""
        self._turn = 0.0
        """Of the job that was begun last."""
        self._jobs: dict[str, Job] = {}
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._pace: float | None = None
        """Seconds for a unit of work, as it was lately."""
        self._without_previews: WeakSet[Pipeline] = WeakSet()
        """Those that failed to show one."""
        self._previewing = asyncio.Lock()
        self._networks = asyncio.Lock()
        """Held while they draw, and while they are unloaded; first come, first served."""
        metrics.waiting.set_function(lambda: len(self._waiting))

    # What clients do.

    def submit(
        self,
        drawing: Drawing,
        pipeline: Pipeline,
        warnings: Sequence[str] = (),
        changes: ModelChanges = NO_CHANGES,
        client: str = "",
    ) -> Job:
        """Queue a drawing, with what draws it, also beyond the bundle, and what is to be said of its prompts.

        Raises:
            BusyError: the client has its share of the queue, or the server is about to stop.

        """
        if self._closed:
            raise BusyError("the server is about to stop; try another one, or later")
        job = Job(drawing, pipeline, changes, warnings, client)
        mine = [one for one in self._waiting if one.client == client]
        free = self._limits.queue - len(self._waiting)
        free_pixels = self._limits.waiting_pixels - sum(one.waiting_pixels for one in self._waiting)
        pixels = sum(one.waiting_pixels for one in (job, *mine)) if job.waiting_pixels else 0
        if len(mine) >= free or pixels > free_pixels:
            raise BusyError(
                f"{len(self._waiting)} drawings are waiting already, {len(mine)} of them yours, "
                "and no more of yours can; try again later"
            )
        begun = [self.running] if self.running is not None and self.running.client == client else []
        job.turn = max([self._turn, *(one.turn + one.work for one in (*begun, *mine))])
        self._jobs[job.id] = job
        insort(self._waiting, job, key=lambda one: one.turn)
        self._forget_the_oldest()
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._work())
        return job

    def find(self, job_id: str) -> Job | None:
        """Return a job, if it is known (still)."""
        return self._jobs.get(job_id)

    def cancel(self, job: Job, why: str = "the drawing was cancelled") -> None:
        """End a job: at once where it waits, within moments where it is drawn."""
        if job.state is State.QUEUED:
            self._waiting.remove(job)
            self._finish(job, State.CANCELLED, Cancelled(why))
            self._tell_those_who_wait()
        elif job.state is State.RUNNING:
            job.cancellation.cancel(Cancelled(why))

    def forget(self, job: Job) -> None:
        """Delete the pictures of a job that is over, and let nobody find the job any more."""
        for name in job.pictures:
            self.pictures.delete(name)
        job.pictures = []
        self._jobs.pop(job.id, None)

    def position(self, job: Job) -> int:
        """Return how many jobs come before it, the one that is drawn among them; 0 where none does."""
        if job.state is not State.QUEUED:
            return 0
        return self._waiting.index(job) + (self.running is not None)

    def seconds_left(self, job: Job) -> float | None:
        """Return about how long it takes until a job is done; None where nothing was drawn yet to tell by."""
        if job.state.is_final:
            return 0.0
        if self._pace is None:
            return None
        ahead = 0.0 if self.running is None else self.running.work * (1 - self.running.step / self.running.steps)
        if job.state is State.QUEUED:
            for waiting in self._waiting:
                ahead += waiting.work
                if waiting is job:
                    break
        return ahead * self._pace

    def __len__(self) -> int:
        """Return how many jobs wait or are drawn."""
        return len(self._waiting) + (self.running is not None)

    async def follow(self, job: Job) -> AsyncIterator[bool]:
        """Yield a job's changes; one that its last follower leaves is cancelled, unless another comes soon."""
        job.followers += 1
        if job.abandoning is not None:
            job.abandoning.cancel()
        try:
            async for is_over in job.changes():
                yield is_over
        finally:
            job.followers -= 1
            if not (job.followers or job.state.is_final):
                loop, why = asyncio.get_running_loop(), "nobody followed the drawing any more"
                job.abandoning = loop.call_later(self._limits.unfollowed_seconds, self.cancel, job, why)

    async def unload(self) -> None:
        """Give back the memory of all networks, once the job that is drawn is over and before the next one begins."""
        async with self._networks:
            await asyncio.to_thread(self._models.close)

    async def close(self) -> None:
        """Take no more jobs, cancel all, and wait until the one that is drawn has stopped."""
        self._closed = True
        for job in [*self._waiting, *filter(None, [self.running])]:
            self.cancel(job, "the server stopped")
        if self._worker is not None:
            await self._worker

    async def preview(self, job: Job) -> bytes | None:
        """Return a PNG of roughly what is drawn so far; None before the first step and after the last.

        A tiny VAE takes a tenth of a second for it: a thread waits for that, and once for all followers.
        """
        if job.predicted is None:
            return None
        async with self._previewing:
            predicted = job.predicted
            if predicted is None or job.preview is not None:
                return job.preview
            preview = await asyncio.to_thread(self._look, job.pipeline, predicted)
            if job.predicted is predicted:
                job.preview = preview
            return None if job.predicted is None else preview

    # How jobs are drawn.

    async def _work(self) -> None:
        try:
            while self._waiting:
                async with self._networks:
                    await self._draw_next()
        finally:
            self._worker = None
            for job in [*self._waiting, *filter(None, [self.running])]:  # none, unless the event loop ends
                self._finish(job, State.CANCELLED, Cancelled("the server stopped"))
            self._waiting.clear()
            self.running = None

    async def _draw_next(self) -> None:
        if not self._waiting:  # cancelled, while the networks were unloaded
            return
        self.running = job = self._waiting.pop(0)
        self._turn = job.turn
        job.state, job.began = State.RUNNING, time.monotonic()
        job.change()
        self._tell_those_who_wait()
        outcome = await self._outcome(job)
        self.running = None
        self._finish(job, *outcome)

    async def _outcome(self, job: Job) -> tuple[State, PocketDiffusionError | None]:
        loop = asyncio.get_running_loop()
        late = InvalidRequestError(f"the drawing took longer than {self._limits.seconds:g} s; ask for less")
        timer = loop.call_later(self._limits.seconds, job.cancellation.cancel, late)
        try:
            job.pictures, job.kept = await asyncio.to_thread(self._draw, job, loop)
            if self.album is not None and job.is_to_be_kept and not job.kept:
                job.warnings = [*job.warnings, "the server cannot keep the picture in its folder; its log says why"]
        except asyncio.CancelledError:  # the event loop ends; the thread, for which that waits, should too
            self.cancel(job, "the server stopped")
            raise
        except Cancelled as stopped:
            return State.CANCELLED, stopped
        except InvalidRequestError as error:
            return State.FAILED, error
        except OutputError as error:
            _log.error("a picture cannot be kept: %s", error)
            return State.FAILED, InferenceError("the server cannot keep pictures; its log says why")
        except Exception:  # of which only the log may say more: there are paths in it
            _log.exception("a drawing failed")
            return State.FAILED, InferenceError("the drawing failed; the server's log says why")
        finally:
            timer.cancel()
        return State.DONE, None

    def _draw(self, job: Job, loop: asyncio.AbstractEventLoop) -> tuple[list[str], list[str]]:
        """Draw in a thread of its own and return the pictures' names, in the store and in the album."""
        drawing = job.drawing
        self.pictures.make_room(drawing.count * drawing.width * drawing.height)
        self._models.make_room(job.pipeline, drawing.demand)
        self._prepare_previews(job)
        with closing(job.pipeline.steps(drawing, cancellation=job.cancellation)) as steps:
            for step in steps:
                is_partial = step.number in job.partial_steps
                preview = self._look(job.pipeline, step.predicted[:1]) if is_partial else None
                loop.call_soon_threadsafe(self._stepped, job, step, preview)
            return self.pictures.add(steps.result), self._keep(job, steps.result)

    def _keep(self, job: Job, result: Result) -> list[str]:
        if self.album is None or not job.is_to_be_kept:
            return []
        try:
            return self.album.add(result)
        except OutputError as error:
            _log.error("a picture is not kept: %s", error)
            return []

    def _prepare_previews(self, job: Job) -> None:
        if job.pipeline in self._without_previews:
            return
        try:
            job.pipeline.prepare_previews(job.cancellation)
        except Exception:  # a picture without previews is better than none
            job.cancellation.check()
            _log.exception("there will be no previews")
            self._without_previews.add(job.pipeline)

    def _look(self, pipeline: Pipeline, predicted: Latents) -> bytes | None:
        """Return a preview as a PNG, if one can be had. Any thread may call it."""
        if pipeline in self._without_previews or not np.isfinite(predicted).all():
            return None
        try:
            return png_bytes(pipeline.previewer.picture(predicted))
        except Exception:  # a picture without previews is better than none
            _log.exception("there will be no more previews")
            self._without_previews.add(pipeline)
            return None

    def _stepped(self, job: Job, step: Step, preview: bytes | None) -> None:
        job.step, job.predicted, job.preview = step.number, step.predicted[:1], preview
        if preview is not None:
            job.partial.append(preview)
        self._metrics.stepped()
        job.change()

    def _finish(self, job: Job, state: State, error: PocketDiffusionError | None) -> None:
        if job.state is State.RUNNING:
            self._metrics.finished(state.value, len(job.pictures), time.monotonic() - job.began)
        if state is State.DONE:
            pace = (time.monotonic() - job.began) / job.work
            self._pace = pace if self._pace is None else (self._pace + pace) / 2
        job.finish(state, error)

    def _tell_those_who_wait(self) -> None:
        for job in self._waiting:
            job.change()

    def _forget_the_oldest(self) -> None:
        over = [job for job in self._jobs.values() if job.state.is_final]
        for job in over[: max(len(self._jobs) - _REMEMBERED, 0)]:
            del self._jobs[job.id]
