"""The story on one page: prompt → context → latents → picture."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import Bundle
from pocket_diffusion.canvas import Canvas, prepare_canvas
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.guidance import classifier_free, is_guided
from pocket_diffusion.images import Picture, to_pictures
from pocket_diffusion.memory import AUTO, Drawing, MemoryBudget, needed_memory
from pocket_diffusion.noise import NoiseGenerator
from pocket_diffusion.prompt import encode
from pocket_diffusion.request import Request, resolve_request
from pocket_diffusion.result import Result
from pocket_diffusion.samplers import SAMPLERS, Sampler
from pocket_diffusion.session import GraphSession, Provider, check_threads, choose_provider, renew_shared_arena
from pocket_diffusion.tiles import in_tiles
from pocket_diffusion.tokenizer import ClipTokenizer

Latents = NDArray[np.float32]
OnStep = Callable[[int, int, Latents], None]
"""Called after each step with its number from 1, the number of steps, and the latents so far."""

DEFAULT_BUNDLE = Path(__file__).parent / "default_bundle"
_log = logging.getLogger(__name__)
_LOG_VARIANCE_LIMITS = (-30.0, 20.0)  # as in the autoencoder's training; keeps exp() finite


class OtherTargetWarning(UserWarning):
    """A bundle was made for another kind of machine than the one it runs on."""


class Pipeline:
    """A bundle, ready to draw, for one thread at a time. Graphs are loaded when they are needed."""

    def __init__(self, bundle: Bundle, provider: Provider, threads: int | None, budget: MemoryBudget) -> None:
        self.bundle = bundle
        self.provider = provider
        self.threads = threads
        manifest = bundle.manifest
        self._budget = budget
        self._mode = budget.choose(manifest, Drawing.default(manifest), provider).mode
        self._granted: int | None = None
        """Bytes that a picture may take while graphs stay loaded, as one that takes as much was found to fit."""
        self.tokenizer = ClipTokenizer(
            bundle.path(manifest.tokenizer.vocab), bundle.path(manifest.tokenizer.merges), manifest.tokenizer
        )
        self._sessions: dict[str, GraphSession] = {}
        self._timings: dict[str, float] = {}

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        provider: str = "auto",
        threads: int | None = None,
        memory: str = AUTO,
    ) -> "Pipeline":
        """Open a bundle; without a path, the embedded model's.

        `memory` is a mode's name (`fast`, `balanced`, `low`), or `auto` for the fastest that fits into what is free,
        or a limit that it must fit into as well, such as `1500MB` or `2GiB`. In `low`, glibc's allocator is set to
        give back what is freed at once, which holds for the whole process.

        Raises:
            BundleNotFoundError, BundleFormatError, BundleDamagedError: see `Bundle.open`.
            InvalidRequestError: an unknown provider or memory mode, or a number of threads that makes no sense.
            ProviderUnavailableError: CUDA was asked for and is not there.
            RuntimeUnavailableError: ONNX Runtime is not installed.

        """
        check_threads(threads)
        budget = MemoryBudget.parse(memory)
        bundle = Bundle.open(DEFAULT_BUNDLE if path is None else path)
        chosen = choose_provider(provider, bundle.manifest.target)
        if chosen != bundle.manifest.target:
            warnings.warn(
                f"{bundle.root} was exported for {bundle.manifest.target} and runs slower on {chosen}; "
                f"export it with --target {chosen} for this machine",
                OtherTargetWarning,
                stacklevel=2,
            )
        return cls(bundle, chosen, threads, budget)

    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str = "",
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        seed: int | None = None,
        count: int = 1,
        image: Picture | None = None,
        mask: Picture | None = None,
        strength: float = 0.8,
        on_step: OnStep | None = None,
    ) -> Result:
        """Draw pictures. `None` stands for the bundle's default; picture i of `count` uses `seed + i`.

        With `image`, drawing starts from it, changed by as much as `strength` (0…1) says; with `mask` too, only
        what is white in the mask is repainted. Raising from `on_step` stops the run. Before a picture that needs more
        memory than those so far, the graphs that are loaded are closed, so that what they hold counts as free.

        Raises:
            InvalidRequestError: an option that cannot be drawn with, or a picture that memory does not suffice for.
            InferenceError: ONNX Runtime failed.

        """
        request = resolve_request(
            self.bundle.manifest,
            prompt,
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance_scale=guidance_scale,
            sampler=sampler,
            seed=seed,
            count=count,
            image=image,
            mask=mask,
            strength=strength,
        )
        return self.draw(request, on_step)

    def draw(self, request: Request, on_step: OnStep | None = None) -> Result:
        """Draw a request of this bundle's that was checked before; see `generate`, which does both.

        Raises:
            InvalidRequestError: memory does not suffice for such a picture.
            InferenceError: ONNX Runtime failed.

        """
        self._timings = dict.fromkeys(("load", "encode", "denoise", "decode", "total"), 0.0)
        with self._room_for(Drawing.of(request)), self._timed("total"):
            _log.info("provider %s, threads %s", self.provider, self.threads or "one a core")
            with self._timed("encode"):
                context = self._encode_context(request)
                sampler_ = SAMPLERS[request.sampler](self.bundle.manifest.schedule, request.steps)
                generators = [NoiseGenerator(seed) for seed in request.seeds]
                canvases = [self._prepare_canvas(request, sampler_, generator) for generator in generators]
            with self._timed("denoise"):
                latents = self._denoise(request, context, sampler_, generators, canvases, on_step)
            with self._timed("decode"):
                # One by one, so that no more than one picture is in memory as float32.
                pictures = [picture for one in latents for picture in to_pictures(self.decode_latents(one[None]))]
        _log.info(", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in self._timings.items()))
        return Result(
            images=pictures,
            seeds=list(request.seeds),
            latents=latents,
            timings=dict(self._timings),
            request=request,
            model=self.name,
        )

    @property
    def name(self) -> str:
        """What the bundle was made from: a file's name without its ending, a folder's or a hub id as it is."""
        source = self.bundle.manifest.provenance.source
        return source.removesuffix(".safetensors").removesuffix(".ckpt")

    @property
    def memory(self) -> str:
        """The last picture's memory mode, at first the default picture's: `fast`, `balanced` or `low`."""
        return self._mode.name

    def close(self) -> None:
        """Give back the memory of all loaded graphs; they are loaded again when they are needed."""
        self._granted = None
        if not self._sessions:
            return
        while self._sessions:
            self._sessions.popitem()[1].close()
        self._renew_arena()

    # The stages, for those who build on them.

    def encode_prompt(self, text: str) -> NDArray[np.float32]:
        """Return the context `[1, 77, dim]` of a text; what exceeds the token limit is dropped with a warning."""
        return self._session("text_encoder").run(ids=encode(text, self.tokenizer))

    def predict_noise(self, latents: Latents, timestep: float, context: NDArray[np.float32]) -> Latents:
        """Return the U-Net's prediction `[contexts, 4, h, w]` for latents under a context `[contexts, tokens, dim]`.

        The latents are `[contexts, 4, h, w]` or, which is less work than repeating them, `[1, 4, h, w]`.

        Raises:
            InvalidRequestError: other shapes than these.
            InferenceError: ONNX Runtime failed.

        """
        if latents.shape[:1] not in ((1,), context.shape[:1]):
            raise InvalidRequestError(
                f"latents must be [1, 4, h, w], or as many as there are contexts, not {list(latents.shape)} "
                f"with a context of {list(context.shape)}"
            )
        timesteps = np.full(len(latents), timestep, np.float32)
        return self._session("unet").run(latents=latents, timestep=timesteps, context=context)

    def encode_image(self, picture: NDArray[np.float32], *, noise: Latents | None = None) -> Latents:
        """Return scaled latents `[n, 4, h/8, w/8]` of pictures `[n, 3, h, w]` in -1…1.

        They are a sample of the VAE's distribution made with `noise` (of the latents' shape), or its mean.

        Raises:
            InvalidRequestError: other shapes than these, or sides that are no multiples of 8.
            InferenceError: ONNX Runtime failed.

        """
        downscale = self.bundle.manifest.latents.downscale
        if any(side % downscale for side in picture.shape[2:]):
            raise InvalidRequestError(
                f"the sides of a picture must be multiples of {downscale}, not {list(picture.shape)}; resize it"
            )
        moments = self._in_tiles("vae_encoder", "picture", picture, inward=downscale)
        latents, log_variance = np.split(moments, 2, axis=1)
        if noise is not None:
            if noise.shape != latents.shape:
                raise InvalidRequestError(f"noise must be {list(latents.shape)}, not {list(noise.shape)}")
            deviation = np.exp(np.float32(0.5) * log_variance.clip(*_LOG_VARIANCE_LIMITS))
            latents = latents + deviation * noise.astype(np.float32)
        return latents * np.float32(self.bundle.manifest.latents.scaling_factor)

    def decode_latents(self, latents: Latents) -> NDArray[np.float32]:
        """Return pictures `[n, 3, h, w]` in -1…1 (not cut off) of scaled latents `[n, 4, h/8, w/8]`."""
        unscaled = latents / np.float32(self.bundle.manifest.latents.scaling_factor)
        return self._in_tiles("vae_decoder", "latents", unscaled, outward=self.bundle.manifest.latents.downscale)

    # How `generate` puts them together.

    @contextmanager
    def _room_for(self, drawing: Drawing) -> Iterator[None]:
        """Settle the memory mode for a picture, and leave no more loaded afterwards than that mode keeps."""
        need = self._need(drawing)
        if self._granted is None or need > self._granted:
            self.close()  # what they hold counts as free
            choice = self._budget.choose(self.bundle.manifest, drawing, self.provider)
            _log.info("%s", choice)
            choice.check()
            self._mode = choice.mode
            self._granted = self._need(drawing)
        try:
            yield
        finally:
            if not self._mode.keep_sessions:
                self.close()

    def _need(self, drawing: Drawing) -> int:
        """Return the bytes that are weighed: none of a graphics card's."""
        if self.provider == "cuda":
            return 0
        return needed_memory(self.bundle.manifest, self._mode, drawing) or 0

    def _encode_context(self, request: Request) -> NDArray[np.float32]:
        """Return `[2, 77, dim]`, unconditional first, or `[1, 77, dim]` where nothing is guided."""
        texts = [(request.prompt, "prompt")]
        if is_guided(request.guidance_scale):
            texts.insert(0, (request.negative_prompt, "negative prompt"))
        ids = np.concatenate([encode(text, self.tokenizer, name) for text, name in texts])
        return self._session("text_encoder").run(ids=ids)

    def _prepare_canvas(self, request: Request, sampler: Sampler, generator: NoiseGenerator) -> Canvas:
        spec = self.bundle.manifest.latents
        shape = (1, spec.channels, request.height // spec.downscale, request.width // spec.downscale)
        return prepare_canvas(
            request, shape, sampler, generator, lambda picture, noise: self.encode_image(picture, noise=noise)
        )

    def _denoise(
        self,
        request: Request,
        context: NDArray[np.float32],
        sampler: Sampler,
        generators: list[NoiseGenerator],
        canvases: list[Canvas],
        on_step: OnStep | None,
    ) -> Latents:
        """Walk all pictures through the timesteps together; each is predicted alone, which needs the least memory."""
        latents = [canvas.latents for canvas in canvases]
        indices = range(request.first_step, len(sampler.timesteps))
        for done, index in enumerate(indices, start=1):
            timestep = float(sampler.timesteps[index])
            for i, (canvas, generator) in enumerate(zip(canvases, generators, strict=True)):
                prediction = self._predict_guided(latents[i], timestep, context, request.guidance_scale)
                draw_noise = partial(generator.normal, latents[i].shape)
                latents[i] = sampler.step(latents[i], prediction, index, draw_noise)
                latents[i] = canvas.restore(latents[i], sampler, index)
            if on_step is not None:
                on_step(done, len(indices), np.concatenate(latents))
        return np.concatenate(latents)

    def _predict_guided(
        self, latents: Latents, timestep: float, context: NDArray[np.float32], guidance_scale: float
    ) -> Latents:
        """Predict the noise in one picture's latents, `[1, 4, h, w]`."""
        if not is_guided(guidance_scale):
            return self.predict_noise(latents, timestep, context)
        if self._mode.guide_together:
            both = self.predict_noise(latents, timestep, context)
        else:
            both = np.concatenate([self.predict_noise(latents, timestep, one[None]) for one in context])
        return classifier_free(both[:1], both[1:], guidance_scale)

    def _in_tiles(
        self, name: str, kind: str, arrays: NDArray[np.float32], *, inward: int = 1, outward: int = 1
    ) -> NDArray[np.float32]:
        """Run a part of the VAE on `[n, channels, height, width]`, in tiles if they are large; see `in_tiles`."""
        if arrays.ndim != 4 or 0 in arrays.shape:
            raise InvalidRequestError(f"{kind} must be [n, channels, height, width], not {list(arrays.shape)}")
        arrays = arrays.astype(np.float32, copy=False)  # Pillow, which resizes for tiles, knows no float16
        session = self._session(name)
        tile = self._mode.vae_tile(*(side // inward for side in arrays.shape[-2:]))
        # One by one: the VAE's activations are the largest of all, and a batch is no faster.
        return np.concatenate(
            [
                in_tiles(
                    lambda piece: session.run(**{kind: piece}), one[None], tile=tile, inward=inward, outward=outward
                )
                for one in arrays
            ]
        )

    def _session(self, name: str) -> GraphSession:
        if name not in self._sessions:
            if not self._mode.keep_sessions:
                self.close()
            if not self._sessions:
                self._renew_arena()
            with self._timed("load"):
                self._sessions[name] = self._open(name)
        return self._sessions[name]

    def _renew_arena(self) -> None:
        """Have the graphs of this pipeline share an arena with no others, and give back what was shared before."""
        if self._mode.arena == "shared" and self.provider == "cpu":
            renew_shared_arena()

    def _open(self, name: str) -> GraphSession:
        manifest = self.bundle.manifest
        component = manifest.component(name)
        self.bundle.check_files(component.graph, component.weights)
        return GraphSession(
            self.bundle.root,
            name,
            component,
            self.provider,
            self.threads,
            expand_weights=self._mode.expands(name),
            arena=self._mode.arena,
            oldest_onnxruntime=manifest.onnxruntime,
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._timings[stage] = self._timings.get(stage, 0.0) + time.perf_counter() - start
