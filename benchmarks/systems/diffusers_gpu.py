"""diffusers' own pipeline: on a graphics card in float16, eager or compiled; on the CPU in float32, the reference."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from numpy.typing import NDArray

from gpu import REFERENCE, Turn
from stages import PROMPT, SEED
from systems.reference import disable_progress_bars
from timeline import Timeline

if TYPE_CHECKING:
    from gpu_draw import Draw

GUIDANCE_SCALE = 7.5
"""The runtime's default."""


def load(turn: Turn, timeline: Timeline) -> "Draw":
    """See `gpu_draw.MODULES`."""
    disable_progress_bars()
    on_gpu = turn.provider == "cuda"
    dtype = torch.float32 if turn.system == REFERENCE or not on_gpu else torch.float16
    folder = Path(turn.work, "peers", "diffusers")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, set_alpha_to_one=False)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(turn.provider)
    if turn.system == "diffusers-compiled":  # as diffusers' own guide to speed has it
        pipeline.unet.to(memory_format=torch.channels_last)
        pipeline.vae.to(memory_format=torch.channels_last)
        pipeline.unet.forward = torch.compile(pipeline.unet.forward, mode="reduce-overhead", fullgraph=True)
        pipeline.vae.decode = torch.compile(pipeline.vae.decode, mode="reduce-overhead", fullgraph=True)
    watched = _OnGPU(timeline) if on_gpu else _OnCPU(timeline)
    pipeline.unet.forward = watched.watch(pipeline.unet.forward)
    channels, factor = pipeline.unet.config.in_channels, pipeline.vae_scale_factor

    def run(count: int, steps: int) -> NDArray[np.uint8]:
        shape = (1, channels, turn.height // factor, turn.width // factor)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(SEED + i)) for i in range(count)]
        pictures = pipeline(
            [PROMPT] * count,
            width=turn.width,
            height=turn.height,
            num_inference_steps=steps,
            guidance_scale=GUIDANCE_SCALE,
            latents=torch.cat(noise).to(turn.provider, dtype),
            output_type="np",
        ).images
        watched.settle()
        return (255 * pictures).round().astype(np.uint8)

    return run


class _OnCPU:
    """Marks when a network begins and ends."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline

    def watch(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever it takes
            self._timeline.mark("unet begins")
            output = forward(*given, **options)
            self._timeline.mark("unet ends")
            return output

        return watched

    def settle(self) -> None:
        """All is marked."""


class _OnGPU:
    """Marks when the card begins and ends a network; the host is ahead of it."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def watch(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*given: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever it takes
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self._events.append(events)
            events[0].record()
            output = forward(*given, **options)
            events[1].record()
            return output

        return watched

    def settle(self) -> None:
        """Mark what the card has noted, in seconds, the last end now."""
        torch.cuda.synchronize()
        last = self._events[-1][1]
        now = time.monotonic() - self._timeline.started
        for begin, end in self._events:
            self._timeline.marks.setdefault("unet begins", []).append(now - begin.elapsed_time(last) / 1e3)
            self._timeline.marks.setdefault("unet ends", []).append(now - end.elapsed_time(last) / 1e3)
        self._events.clear()
