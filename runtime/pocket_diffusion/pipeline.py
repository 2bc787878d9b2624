"""The story on one page: prompt → context → latents → picture."""

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
from pocket_diffusion.noise import NoiseGenerator
from pocket_diffusion.prompt import encode
from pocket_diffusion.request import Request, resolve_request
from pocket_diffusion.result import Result
from pocket_diffusion.samplers import SAMPLERS, Sampler
from pocket_diffusion.session import GraphSession, Provider, check_threads, choose_provider
from pocket_diffusion.tokenizer import ClipTokenizer

Latents = NDArray[np.float32]
OnStep = Callable[[int, int, Latents], None]
"""Called after each step with its number from 1, the number of steps, and the latents so far."""

DEFAULT_BUNDLE = Path(__file__).parent / "default_bundle"
_LOG_VARIANCE_LIMITS = (-30.0, 20.0)  # as in the autoencoder's training; keeps exp() finite


class OtherTargetWarning(UserWarning):
    """A bundle was made for another kind of machine than the one it runs on."""


class Pipeline:
    """A bundle, ready to draw. Graphs are loaded when they are first needed."""

    def __init__(self, bundle: Bundle, provider: Provider, threads: int | None) -> None:
        self.bundle = bundle
        self.provider = provider
        self.threads = threads
        manifest = bundle.manifest
        self.tokenizer = ClipTokenizer(
            bundle.path(manifest.tokenizer.vocab), bundle.path(manifest.tokenizer.merges), manifest.tokenizer
        )
        self._sessions: dict[str, GraphSession] = {}
        self._timings: dict[str, float] = {}

    @classmethod
    def load(
        cls, path: str | os.PathLike[str] | None = None, *, provider: str = "auto", threads: int | None = None
    ) -> "Pipeline":
        """Open a bundle; without a path, the embedded model's.

        Raises:
            BundleNotFoundError, BundleFormatError, BundleDamagedError: see `Bundle.open`.
            InvalidRequestError: an unknown provider, or a number of threads that makes no sense.
            ProviderUnavailableError: CUDA was asked for and is not there.
            RuntimeUnavailableError: ONNX Runtime is not installed.

        """
        check_threads(threads)
        bundle = Bundle.open(DEFAULT_BUNDLE if path is None else path)
        chosen = choose_provider(provider, bundle.manifest.target)
        if chosen != bundle.manifest.target:
            warnings.warn(
                f"{bundle.root} was exported for {bundle.manifest.target} and runs slower on {chosen}; "
                f"export it with --target {chosen} for this machine",
                OtherTargetWarning,
                stacklevel=2,
            )
        return cls(bundle, chosen, threads)

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
        what is white in the mask is repainted. Raising from `on_step` stops the run.

        Raises:
            InvalidRequestError: an option that cannot be drawn with.
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
        self._timings = dict.fromkeys(("load", "encode", "denoise", "decode", "total"), 0.0)
        with self._timed("total"):
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

    # The stages, for those who build on them.

    def encode_prompt(self, text: str) -> NDArray[np.float32]:
        """Return the context `[1, 77, dim]` of a text; what exceeds the token limit is dropped with a warning."""
        return self._session("text_encoder").run(ids=encode(text, self.tokenizer))

    def predict_noise(self, latents: Latents, timestep: float, context: NDArray[np.float32]) -> Latents:
        """Return the U-Net's prediction for latents `[batch, 4, h, w]` under a context `[batch, tokens, dim]`."""
        timesteps = np.full(len(latents), timestep, np.float32)
        return self._session("unet").run(latents=latents, timestep=timesteps, context=context)

    def encode_image(self, picture: NDArray[np.float32], *, noise: Latents | None = None) -> Latents:
        """Return scaled latents `[n, 4, h/8, w/8]` of pictures `[n, 3, h, w]` in -1…1.

        They are a sample of the VAE's distribution made with `noise` (of the latents' shape), or its mean.
        """
        latents, log_variance = np.split(self._session("vae_encoder").run(picture=picture), 2, axis=1)
        if noise is not None:
            if noise.shape != latents.shape:
                raise InvalidRequestError(f"noise must be {list(latents.shape)}, not {list(noise.shape)}")
            deviation = np.exp(np.float32(0.5) * log_variance.clip(*_LOG_VARIANCE_LIMITS))
            latents = latents + deviation * noise.astype(np.float32)
        return latents * np.float32(self.bundle.manifest.latents.scaling_factor)

    def decode_latents(self, latents: Latents) -> NDArray[np.float32]:
        """Return pictures `[n, 3, h, w]` in -1…1 (not cut off) of scaled latents `[n, 4, h/8, w/8]`."""
        unscaled = latents / np.float32(self.bundle.manifest.latents.scaling_factor)
        decoder = self._session("vae_decoder")
        # One by one: the decoder's activations are the largest of all, and a batch is no faster.
        return np.concatenate([decoder.run(latents=one[None]) for one in unscaled])

    # How `generate` puts them together.

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
        both = self.predict_noise(np.concatenate([latents, latents]), timestep, context)
        return classifier_free(both[:1], both[1:], guidance_scale)

    def _session(self, name: str) -> GraphSession:
        if name not in self._sessions:
            with self._timed("load"):
                component = self.bundle.manifest.component(name)
                self._sessions[name] = GraphSession(self.bundle.root, name, component, self.provider, self.threads)
        return self._sessions[name]

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._timings[stage] = self._timings.get(stage, 0.0) + time.perf_counter() - start
