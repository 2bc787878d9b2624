"""The story on one page: prompt → context → latents → picture."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path

import numpy as np

from pocket_diffusion.addon import choose_vae
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.drawing.canvas import pasted, prepare_canvas
from pocket_diffusion.drawing.images import to_pictures
from pocket_diffusion.drawing.picture_file import Picture
from pocket_diffusion.drawing.resolve import Drawing, resolve, resolve_all
from pocket_diffusion.machine.cpu import cores
from pocket_diffusion.machine.session import check_threads, choose_provider, usable_cuda
from pocket_diffusion.machine.turns import Cancellation
from pocket_diffusion.model.arithmetic import choose_arithmetic
from pocket_diffusion.model.budget import AUTO, MemoryBudget
from pocket_diffusion.model.components import Components
from pocket_diffusion.model.library import Library
from pocket_diffusion.model.lora import LoraSpec
from pocket_diffusion.order import LoraUse, Order
from pocket_diffusion.result import Latents, Result, Step, Steps, Stopwatch
from pocket_diffusion.stages import Stages

OnStep = Callable[[int, int, Latents], None]
"""Called after each step with its number from 1, the number of steps, and the latents so far."""

DEFAULT_BUNDLE = Path(__file__).parent / "default_bundle"
_log = logging.getLogger(__name__)


class TooManyThreadsWarning(UserWarning):
    """More threads were asked for than there are cores."""


class OtherTargetWarning(UserWarning):
    """A bundle was made for another kind of machine than the one it runs on."""


class Pipeline(Stages):
    """A bundle, ready to draw. Graphs are loaded when they are needed, and threads take turns: a second one waits."""

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        provider: str = "auto",
        threads: int | None = None,
        memory: str | MemoryBudget = AUTO,
        arithmetic: str = AUTO,
        loras: Iterable[str | os.PathLike[str] | LoraSpec] = (),
        embeddings: Iterable[str | os.PathLike[str]] = (),
        lora_folder: str | os.PathLike[str] | None = None,
        embedding_folder: str | os.PathLike[str] | None = None,
        vae: str | os.PathLike[str] | None = None,
    ) -> "Pipeline":
        """Open a bundle; without a path, the embedded model's.

        `memory` is a mode's name (`fast`, `balanced`, `low`), or `auto` for the fastest that fits into what is free,
        or a limit that it must fit into as well, such as `1500MB` or `2GiB`. In `low`, glibc's allocator is set to
        give back what is freed at once, which holds for the whole process.

        `arithmetic` is `exact`, or `int8` for the bundle's 8-bit graphs, or `auto` for those of them that the bundle
        has measured to be near enough to the exact ones, where the CPU multiplies in 8 bits fast and right.

        `loras` change the weights; see `set_loras`. `embeddings` are files of textual inversion: the name of each,
        without its ending, is a word that prompts may use, and so is a name such as `<cat-toy>` in the file. What lies
        in `lora_folder`, prompts and orders may name (`<lora:name:0.8>`); all embeddings of `embedding_folder` that fit
        are words.

        `vae` is `tiny` for the tiny VAE that lies with the bundle, which takes a fraction of the time and draws nearly
        the same picture. It shows previews too, whether it is asked for or not.

        Raises:
            BundleNotFoundError, BundleFormatError, BundleDamagedError: see `Bundle.open` and `Bundle.certificate`.
            InvalidRequestError: an unknown provider, memory mode or arithmetic, a number of threads that makes no
                sense, 8-bit arithmetic where bundle or machine cannot have it, a tiny VAE where there is none, or a
                LoRA or embedding that does not fit.
            CheckpointError: a LoRA or an embedding is not there, or cannot be read.
            ProviderUnavailableError: CUDA was asked for and cannot be used.
            RuntimeUnavailableError: ONNX Runtime is not installed.

        """
        check_threads(threads)
        if threads is not None and threads > cores():
            warnings.warn(
                f"{threads} threads would wait for each other on {cores()} cores; as many threads are used as cores",
                TooManyThreadsWarning,
                stacklevel=2,
            )
            threads = cores()
        budget = MemoryBudget.parse(memory)
        bundle = choose_vae(vae, Bundle.open(DEFAULT_BUNDLE if path is None else path))
        target = bundle.manifest.target
        chosen = choose_provider(provider, target)
        if chosen != target:
            why = ""
            if target == "cuda" and provider == "auto":
                why = f" since {usable_cuda().refusal}; or"
            warnings.warn(
                f"{bundle.root} was exported for {target} and runs slower on {chosen}{why or ';'} "
                f"export it with --target {chosen} for this machine",
                OtherTargetWarning,
                stacklevel=2,
            )
        choice = choose_arithmetic(arithmetic, bundle, chosen)
        components = Components(bundle, provider=chosen, threads=threads, budget=budget, arithmetic=choice)
        pipeline = cls(components, Library(lora_folder, embedding_folder))
        pipeline.adapters.add_embeddings(embeddings)
        pipeline.set_loras(loras)
        return pipeline

    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str = "",
        width: int | None = None,
        height: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        scheduler: str | None = None,
        eta: float | None = None,
        s_noise: float = 1.0,
        guidance_scale: float | None = None,
        guidance_rescale: float = 0.0,
        guidance_interval: tuple[float, float] | None = None,
        image_guidance_scale: float | None = None,
        clip_skip: int = 1,
        loras: Sequence[LoraUse] = (),
        token_downsampling: int = 1,
        cache: str | None = None,
        seed: int | None = None,
        count: int = 1,
        variation_seed: int | None = None,
        variation_strength: float = 0.0,
        image: Picture | None = None,
        mask: Picture | None = None,
        mask_feather: float = 0.0,
        strength: float | None = None,
        on_step: OnStep | None = None,
    ) -> Result:
        """Draw pictures of a prompt, or of several; the options are those of an `Order`.

        Picture i of all uses `seed + i`. Raising from `on_step` stops the run. Before a picture that needs more memory
        than those so far, the graphs that are loaded are closed, so that what they hold counts as free. Other threads
        wait until all is drawn.

        Raises:
            InvalidRequestError: an option that cannot be drawn with, or a picture that memory does not suffice for.
            InferenceError: ONNX Runtime failed.

        """
        order = Order(
            prompt="",  # of several, each has an order of its own
            negative_prompt=negative_prompt,
            width=width,
            height=height,
            steps=steps,
            sampler=sampler,
            scheduler=scheduler,
            eta=eta,
            s_noise=s_noise,
            guidance_scale=guidance_scale,
            guidance_rescale=guidance_rescale,
            guidance_interval=guidance_interval,
            image_guidance_scale=image_guidance_scale,
            clip_skip=clip_skip,
            loras=tuple(loras),
            token_downsampling=token_downsampling,
            cache=cache,
            seed=seed,
            count=count,
            variation_seed=variation_seed,
            variation_strength=variation_strength,
            image=image,
            mask=mask,
            mask_feather=mask_feather,
            strength=strength,
        )
        drawings = resolve_all(order, prompt, self.bundle.manifest)
        for drawing in drawings:
            self.adapters.changes(drawing)  # refuses what cannot be had before the first picture is drawn
            self.warn_of(drawing)
        total, done, results = sum(drawing.steps_to_take for drawing in drawings), 0, []
        with self.components.turns.turn():
            for drawing in drawings:
                with contextlib.closing(self.steps(drawing)) as steps_taken:
                    for step in steps_taken:
                        done += 1
                        if on_step is not None:
                            on_step(done, total, step.latents)
                results.append(steps_taken.result)
        return Result.joined(results)

    def steps(self, order: Order, *, previews: bool = False, cancellation: Cancellation | None = None) -> Steps:
        """Draw an order step by step: iterate over it, and take its `result` at the end.

        With `previews`, what those need is loaded before the drawing and not at the first one. With a `cancellation`,
        any thread can end the drawing at any time, within a step or a picture too. Other threads have their turn
        between two steps.

        Raises:
            InvalidRequestError, InferenceError: see `generate`.
            PocketDiffusionError: the drawing was cancelled; the cancellation's reason, which is `Cancelled` by default.

        """
        if not isinstance(order, Drawing):
            order = resolve(order, self.bundle.manifest)
            self.warn_of(order)
        if previews:
            self.prepare_previews(cancellation)
        return Steps(self._walk(order), self.components.turns, cancellation)

    def _walk(self, drawing: Drawing) -> Generator[Step, None, Result]:
        """Walk all pictures through the noise levels together; each is predicted alone, which needs least memory."""
        watch = Stopwatch(self.components)
        changes = self.adapters.changes(drawing)
        self.adapters.use(changes.loras)  # now, so that the memory of their weights is counted
        with self.components.room_for(drawing.demand):
            _log.info("provider %s, threads %s", self.provider, self.threads or "one a core")
            _log.info("arithmetic %s", self.components.arithmetic)
            _log.info("%s, %s, %d steps", drawing.kind.label, drawing.scheduler, drawing.steps_to_take)
            self.components.expect("unet")
            with watch.timed("encode"):
                levels, shape = drawing.levels, drawing.latent_shape
                denoiser = self.denoiser(drawing, levels, changes.loras)
                samplers = [drawing.kind.sampler(levels, drawing.eta, drawing.s_noise) for _ in drawing.seeds]
                generators = drawing.noise_generators
                canvases = [prepare_canvas(drawing, shape, levels, one, self.vae.encode) for one in generators]
                noises = [drawing.kind.noise(generator, shape) for generator in generators]
                caches = [drawing.new_cache() for _ in drawing.seeds]
            latents = [canvas.latents for canvas in canvases]
            predicted = list(latents)
            for i in range(drawing.first_step, levels.steps):
                with watch.timed("denoise"):
                    walks = zip(samplers, noises, canvases, caches, strict=True)
                    for k, (sampler, noise, canvas, one_cache) in enumerate(walks):
                        denoise = denoiser.at(i, canvas.shown, one_cache)
                        latents[k] = canvas.restore(sampler.step(latents[k], i, denoise, noise), levels, i)
                        predicted[k] = denoise.x_0
                    scaled = np.concatenate(latents) * np.float32((1 + levels.sigmas[i + 1] ** 2) ** -0.5)
                number = i + 1 - drawing.first_step
                yield Step(number, drawing.steps_to_take, scaled, np.concatenate(predicted), self.previewer.picture)
            with watch.timed("decode"):
                # One by one, so that no more than one picture is in memory as float32.
                images = [image for one in scaled for image in to_pictures(self.vae.decode(one[None]))]
                images = [pasted(drawing, image) for image in images]
        self.previewer.learn(scaled[:1], images[0])
        _log.info("%s", watch)
        drawn_with = self.name, self.arithmetic, (changes,)
        return Result(images, list(drawing.seeds), scaled, watch.seconds, (drawing,), *drawn_with)
