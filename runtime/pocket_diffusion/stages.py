"""A bundle's networks as functions of arrays: what drawing is put together from."""

import warnings
from collections.abc import Iterable
from functools import partial
from itertools import chain
from os import PathLike
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import DEEP, GUIDANCE, SHALLOW_UNET, TOKEN_DOWNSAMPLING
from pocket_diffusion.drawing.adapters import Adapters
from pocket_diffusion.drawing.caches import DeepFeatures
from pocket_diffusion.drawing.conditioning import MAX_CHUNKS, Conditioner
from pocket_diffusion.drawing.denoiser import Denoiser, Shown
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.preview import Previewer
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.drawing.tokenizer import ClipTokenizer
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.machine.turns import Cancellation
from pocket_diffusion.model.components import Components
from pocket_diffusion.model.library import Library
from pocket_diffusion.model.lora import Lora, LoraSpec
from pocket_diffusion.model.tiny_decoder import TinyDecoder
from pocket_diffusion.model.vae import VAE

Array = NDArray[np.float32]
Latents = NDArray[np.float32]


class Stages:
    """The stages on the way from a prompt to a picture. Threads that call them take turns.

    Called by themselves, they compute with the weights that `set_loras` has asked for, whatever LoRAs a drawing names
    before or around them.
    """

    def __init__(self, components: Components, library: Library | None = None) -> None:
        """Run these networks, which `Pipeline.load` makes of a bundle; drawings may name what the library has."""
        library = library or Library()
        manifest = components.bundle.manifest
        files = manifest.tokenizer
        self.bundle = components.bundle
        self.components = components
        self.provider = components.provider
        self.threads = components.threads
        self.tokenizer = ClipTokenizer(self.bundle.path(files.vocab), self.bundle.path(files.merges), files)
        self.conditioner = Conditioner(
            self.tokenizer,
            self._encode_ids,
            max_chunks=MAX_CHUNKS if manifest.takes_long_contexts else 1,
            takes_loras=library.has_loras,
        )
        self.adapters = Adapters(components, self.tokenizer, self.conditioner, library)
        self.vae = VAE(components, manifest.latents)
        self._tiny_decoder = TinyDecoder.of(self.bundle, self.provider, self.threads)
        self.previewer = Previewer(self.vae.encode, self._tiny_decoder)

    def close(self) -> None:
        """Give back the memory of all loaded graphs; they are loaded again when they are needed."""
        self.components.close()
        if self._tiny_decoder is not None:
            self._tiny_decoder.close()

    @property
    def is_loaded(self) -> bool:
        """Whether there are networks in memory."""
        return self.components.is_loaded or (self._tiny_decoder is not None and self._tiny_decoder.is_loaded)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What the bundle was made from: a file's name without its ending, a folder's or a hub id as it is."""
        source = self.bundle.manifest.provenance.source
        return source.removesuffix(".safetensors").removesuffix(".ckpt")

    @property
    def memory(self) -> str:
        """The last picture's memory mode, at first the default picture's: `fast`, `balanced` or `low`."""
        return self.components.mode.name

    @property
    def arithmetic(self) -> str:
        """What the networks compute in: `exact`, `int8`, or `auto` where only some of the 8-bit graphs are used."""
        return self.components.arithmetic.name

    def set_loras(self, loras: Iterable[str | PathLike[str] | LoraSpec]) -> None:
        """Have these LoRAs change every picture from now on, and no others.

        Each is `FILE`, `FILE:SCALE` or `FILE:UNET_SCALE:TEXT_ENCODER_SCALE`, or a `LoraSpec`. An empty list gives the
        bundle's own weights back, bit for bit. Only the networks that a change affects are loaded anew.

        Raises:
            CheckpointError: a file is not there, or cannot be read.
            InvalidRequestError: a file is no LoRA, or does not fit; a scale makes no sense.
            BundleFormatError: the bundle was exported before weights could be changed.

        """
        with self.components.turns.turn():
            self.adapters.set_loras(loras)

    def encode_prompt(self, text: str, clip_skip: int = 1) -> Array:
        """Return the context `[1, 77 · chunks, dim]` of a text, as the first of its steps has it."""
        for warning in self.conditioner.warnings(text, 1):
            warnings.warn(warning, stacklevel=2)
        with self.components.turns.turn():
            self.adapters.use(self.adapters.loras)
            return self.conditioner.condition(text, steps=1, clip_skip=clip_skip).at(0)

    def predict_noise(
        self, latents: Latents, timestep: float, context: Array, *, token_downsampling: int = 1, **shown: Array
    ) -> Latents:
        """Return the U-Net's prediction `[contexts, 4, h, w]` for latents under a context `[contexts, tokens, dim]`.

        The latents are `[contexts, 4, h, w]` or, which is less work than repeating them, `[1, 4, h, w]`.
        `token_downsampling` is that of an `Order`. `shown` is what some U-Nets take beside these, as many as there are
        latents: `guidance` `[n]`, the guidance scale; or `mask` `[n, 1, h, w]` and `masked_latents` `[n, 4, h, w]`;
        or `image_latents` `[n, 4, h, w]`, unscaled.

        Raises:
            InvalidRequestError: other shapes than these, or other inputs than this U-Net takes.
            InferenceError: ONNX Runtime failed.

        """
        if latents.shape[:1] not in ((1,), context.shape[:1]):
            raise InvalidRequestError(
                f"latents must be [1, 4, h, w], or as many as there are contexts, not {list(latents.shape)} "
                f"with a context of {list(context.shape)}"
            )
        with self.components.turns.turn():
            self.adapters.use(self.adapters.loras)
            return self._predict(latents, timestep, context, token_downsampling, shown)

    def encode_image(self, picture: Array, *, noise: Latents | None = None) -> Latents:
        """Return scaled latents of pictures; see `VAE.encode`."""
        with self.components.turns.turn():
            return self.vae.encode(picture, noise)

    def decode_latents(self, latents: Latents) -> Array:
        """Return pictures of scaled latents; see `VAE.decode`."""
        with self.components.turns.turn():
            return self.vae.decode(latents)

    def try_out(self, cancellation: Cancellation | None = None) -> None:
        """Decode a picture of 64x64 pixels, which shows that networks load and compute here. None stays loaded.

        Raises:
            PocketDiffusionError: they do not; or it was cancelled: the reason.

        """
        with self.components.turns.turn(cancellation):
            try:
                self.vae.decode(np.zeros((1, self.bundle.manifest.latents.channels, 8, 8), np.float32))
            finally:
                self.components.close()

    def prepare_previews(self, cancellation: Cancellation | None = None) -> None:
        """Load and learn what previews need, where that is not done yet.

        Raises:
            PocketDiffusionError: it cannot be had; or it was cancelled: the reason.

        """
        if self.previewer.is_ready:
            return
        with self.components.turns.turn(cancellation):
            try:
                self.previewer.prepare()
            finally:
                self.components.close()  # the memory of that graph was not weighed

    def warnings_of(self, drawing: Drawing) -> list[Warning]:
        """Return a warning of each part of an order that is not drawn as it is written. Safe in any thread."""
        of_prompts = (self.conditioner.warnings(text, drawing.steps, name) for text, name in drawing.texts)
        return [*drawing.warnings, *chain.from_iterable(of_prompts)]

    def warn_of(self, drawing: Drawing) -> None:
        """Warn of each part of an order that is not drawn as it is written."""
        for warning in self.warnings_of(drawing):
            warnings.warn(warning, stacklevel=3)

    def denoiser(self, drawing: Drawing, levels: Levels, loras: tuple[Lora, ...]) -> Denoiser:
        """Return the U-Net as a drawing asks for it: under its prompts and its guidance, changed by these LoRAs.

        Others may be used between its predictions.
        """
        scale = {GUIDANCE: np.array([drawing.guidance_scale], np.float32)} if drawing.manifest.guides_itself else {}

        def predict(
            latents: Latents, timestep: float, context: Array, shown: Shown, deep: DeepFeatures | None = None
        ) -> Latents:
            self.adapters.use(loras)
            return self._predict(latents, timestep, context, drawing.token_downsampling, {**scale, **shown}, deep)

        self.adapters.use(loras)
        condition = partial(self.conditioner.condition, steps=drawing.steps, clip_skip=drawing.clip_skip)
        return Denoiser(
            predict,
            self.bundle.manifest.schedule,
            levels,
            condition(drawing.prompt),
            condition(drawing.negative_prompt, name="negative prompt") if drawing.is_guided else None,
            drawing.guidance,
            together=self.components.mode.guide_together,
        )

    def _predict(
        self,
        latents: Latents,
        timestep: float,
        context: Array,
        token_downsampling: int,
        shown: Shown,
        deep: DeepFeatures | None = None,
    ) -> Latents:
        """Return what `predict_noise` does, with the weights as they are; `deep` is kept, or to be kept."""
        timesteps = np.full(len(latents), timestep, np.float32)
        more = {} if token_downsampling == 1 else {TOKEN_DOWNSAMPLING: np.array([token_downsampling])}
        inputs = {"latents": latents, "timestep": timesteps, "context": context, **shown, **more}
        if deep is None:
            return self.components.run("unet", **inputs)["noise"]
        if deep.kept is None:
            outputs = self.components.run("unet", DEEP, **inputs)
            deep.kept = outputs[DEEP]
            return outputs["noise"]
        if not self.bundle.manifest.component(SHALLOW_UNET).takes(TOKEN_DOWNSAMPLING):  # no attention is left to it
            inputs.pop(TOKEN_DOWNSAMPLING, None)
        return self.components.run(SHALLOW_UNET, **inputs, deep=deep.kept)["noise"]

    def _encode_ids(self, ids: NDArray[np.int64], clip_skip: int) -> Array:
        """Return the contexts `[n, 77, dim]` of framed tokens `[n, 77]`, by the last layer but `clip_skip` - 1."""
        outputs = self.components.run("text_encoder", **self.adapters.inputs(ids))
        return outputs["context"] if clip_skip == 1 else outputs["layers"][-clip_skip]
