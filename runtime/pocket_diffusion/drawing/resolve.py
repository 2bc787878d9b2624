"""From an order to a drawing: every option checked in one place, defaults filled in, before any work."""

import math
import numbers
import operator
import reprlib
import secrets
from collections.abc import Sequence
from typing import SupportsIndex

import msgspec
from PIL import Image

from pocket_diffusion.bundle import MAX_GUIDANCE, SIDES, TOKEN_DOWNSAMPLING, Manifest
from pocket_diffusion.drawing.caches import LEAST_EVALUATIONS, NO_CACHE, Cache, CacheKind, CacheSetting, find_cache
from pocket_diffusion.drawing.guidance import Guidance, is_guided
from pocket_diffusion.drawing.images import fitting_size
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.noise import MAX_SEED, NoiseGenerator, VariedNoise
from pocket_diffusion.drawing.picture_file import open_picture
from pocket_diffusion.drawing.prompt import check_prompt, loras_in, read_prompt
from pocket_diffusion.drawing.samplers import CHECKPOINT_SPACING, SAMPLERS, SamplerKind, find_sampler
from pocket_diffusion.drawing.schedulers import find_scheduler, make_levels
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.model.lora import MAX_SCALE
from pocket_diffusion.model.memory import Demand
from pocket_diffusion.order import LoraUse, Order

MIN_SIDE, MAX_SIDE = SIDES
MAX_COUNT = 1000
MAX_TOKEN_DOWNSAMPLING = 4
MAX_S_NOISE = 10.0
MAX_LORAS = 16
MAX_FEATHER = 256.0
AUTOMATIC = "automatic"
"""The scheduler that is the sampler's own, as A1111 calls it."""
_STRENGTH = 0.8
_MOST_STEPS = 50
"""Where nobody says how many; every sampler takes as many."""


class OrderWarning(UserWarning):
    """An order says something that this model does not draw with, or leaves out something that it needs."""


class Drawing(Order, frozen=True, kw_only=True):
    """An order that can be drawn: all values known and checked, pictures opened."""

    manifest: Manifest
    """Of the bundle that it was checked for."""
    width: int
    height: int
    steps: int
    sampler: str
    """A name of `SAMPLERS`."""
    scheduler: str
    """A name of `SCHEDULERS`."""
    eta: float | None
    """None where the sampler adds no noise."""
    guidance_scale: float
    image_guidance_scale: float | None
    """None where the U-Net is not shown the picture that a prompt changes."""
    strength: float
    seed: int
    image: Image.Image | None = None
    mask: Image.Image | None = None
    first_pass: "Drawing | None" = None
    """Of one picture: `image` is that, enlarged by Lanczos' filter."""

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """The two prompts, each with its name."""
        return (self.prompt, "prompt"), (self.negative_prompt, "negative prompt")

    @property
    def all_loras(self) -> tuple[LoraUse, ...]:
        """Those of the order and those that its prompt names."""
        return (*self.loras, *loras_in(self.prompt))

    @property
    def seeds(self) -> tuple[int, ...]:
        """One a picture: successive ones, but of variations, which have one in common."""
        step = 0 if self.is_varied else 1
        return tuple(self.seed + step * i for i in range(self.count))

    @property
    def is_varied(self) -> bool:
        """Whether the initial noise is not that of the seed alone."""
        return self.variation_strength > 0

    @property
    def variation_seeds(self) -> tuple[int | None, ...]:
        """One a picture; None where the noise is that of the seed alone."""
        first = self.variation_seed
        return tuple(None if first is None else first + i for i in range(self.count))

    @property
    def noise_generators(self) -> list[NoiseGenerator]:
        """One a picture."""
        return [
            NoiseGenerator(seed) if other is None else VariedNoise(seed, other, self.variation_strength)
            for seed, other in zip(self.seeds, self.variation_seeds, strict=True)
        ]

    @property
    def is_guided(self) -> bool:
        """Whether some step needs the unconditional prediction."""
        return is_guided(self.guidance.scale)

    @property
    def guidance(self) -> Guidance:
        """How predictions combine, and when: not at all where the U-Net is told the guidance scale."""
        return Guidance(
            scale=1.0 if self.manifest.guides_itself else self.guidance_scale,
            image_scale=1.0 if self.image_guidance_scale is None else self.image_guidance_scale,
            rescale=self.guidance_rescale,
            interval=self.guidance_interval or Guidance.interval,
        )

    @property
    def demand(self) -> Demand:
        """What its need of memory depends on."""
        return Demand(
            width=self.width,
            height=self.height,
            guided=self.is_guided,
            from_picture=self.image is not None or self.manifest.sees_pictures,
            count=self.count,
            keeps_deep=self.cache_setting is not None and self.cache_setting.kind.needs_shallow_graph,
        )

    @property
    def evaluations(self) -> int:
        """How often the U-Net is evaluated for one picture without a cache."""
        ways = (step / self.steps for step in range(self.first_step, self.steps))
        return sum(map(self.guidance.predictions, ways)) * self.kind.evaluations

    @property
    def work(self) -> float:
        """About how many evaluations of the U-Net one picture takes the time of: a cache leaves some out."""
        setting = self.cache_setting
        if setting is None:
            return float(self.evaluations)
        return self.evaluations * setting.share(self.steps_to_take * self.kind.evaluations)

    @property
    def cache_setting(self) -> CacheSetting | None:
        """The cache, if there is one."""
        return None if self.cache is None else find_cache(self.cache)

    def new_cache(self) -> Cache:
        """Make the cache of one picture."""
        setting = self.cache_setting
        return Cache() if setting is None else setting.cache(adds_noise=bool(self.eta))

    def cache_obstacle(self, setting: CacheSetting) -> str | None:
        """Return why a cache cannot be had in this drawing, and what to do, if that is so."""
        if self.kind.is_distilled:
            return f"{self.kind.label} takes few steps, none of which can be left out; leave the cache out"
        if setting.kind.one_evaluation and self.kind.evaluations > 1:
            return (
                f"{self.kind.label} evaluates the model twice a step, to correct the first answer by the second; take "
                "the cache deep, or a sampler that evaluates once, such as DPM++ 2M"
            )
        evaluations = self.steps_to_take * self.kind.evaluations
        if evaluations < LEAST_EVALUATIONS:
            return (
                f"{evaluations} evaluations of the model are too few to leave any out; leave the cache out, or draw at "
                f"least {LEAST_EVALUATIONS} steps"
            )
        return bundle_obstacle(setting.kind, self.manifest)

    @property
    def warnings(self) -> tuple[OrderWarning, ...]:
        """What of the order the model does not draw with, or misses."""
        found = []
        if self.negative_prompt and not self.is_guided:
            found.append(
                f"the negative prompt changes nothing at a guidance scale of {self.guidance_scale:g}; "
                "raise it above 1, where the model allows that"
            )
        asked = self.image_guidance_scale not in (None, 1, self.manifest.defaults.image_guidance_scale)
        if asked and not self.is_guided:
            found.append(
                f"image_guidance_scale {self.image_guidance_scale:g} changes nothing at a guidance scale of "
                f"{self.guidance_scale:g}; raise guidance_scale above 1"
            )
        if self.manifest.repaints and self.mask is None:
            found.append(
                "this model repaints what a mask shows, and there is none: "
                + (
                    "all is repainted; give an image and a mask"
                    if self.image is None
                    else f"all of the image is changed, by a strength of {self.strength:g}; give a mask"
                )
            )
        return tuple(map(OrderWarning, found))

    @property
    def kind(self) -> SamplerKind:
        """The sampler's row in the table."""
        return SAMPLERS[self.sampler]

    @property
    def task(self) -> str:
        """`text-to-image`, `image-to-image` or `inpainting`."""
        if self.image is None:
            return "text-to-image"
        return "image-to-image" if self.mask is None else "inpainting"

    @property
    def strength_counts(self) -> bool:
        """Whether the strength makes a difference: drawing starts from a picture that is not only shown."""
        return self.image is not None and not self.manifest.follows_instructions

    @property
    def first_step(self) -> int:
        """How many of the steps are skipped because drawing starts from a picture."""
        if self.image is None:
            return 0
        return self.steps - min(int(self.steps * self.strength), self.steps)

    @property
    def steps_to_take(self) -> int:
        """How many are left."""
        return self.steps - self.first_step

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """The shape of one picture's latents."""
        spec = self.manifest.latents
        return 1, spec.channels, self.height // spec.downscale, self.width // spec.downscale

    @property
    def levels(self) -> Levels:
        """The noise levels on the way."""
        return make_levels(self.manifest.schedule, self.scheduler, self.steps, self.kind.family)

    def order(self, index: int) -> Order:
        """Return the order that draws picture `index` again; the pictures it started from are not in it."""
        single = self.single(index)
        values = {name: getattr(single, name) for name in Order.__struct_fields__}
        return Order(**{**values, "image": None, "mask": None})

    def single(self, index: int) -> "Drawing":
        """Return the drawing of picture `index` alone."""
        seed, variation_seed = self.seeds[index], self.variation_seeds[index]
        return msgspec.structs.replace(self, seed=seed, variation_seed=variation_seed, count=1)


def resolve(order: Order, manifest: Manifest) -> Drawing:
    """Check every option and fill in the bundle's defaults; a seed that was not given is drawn.

    Raises:
        InvalidRequestError: names the option, what is allowed, and what was given.

    """
    defaults = manifest.defaults
    check_prompt(order.prompt)
    check_prompt(order.negative_prompt, "negative prompt")
    if order.mask is not None and order.image is None:
        raise InvalidRequestError("a mask needs the image that it belongs to; give one, or leave the mask out")
    if manifest.follows_instructions and order.image is None:
        raise InvalidRequestError("this model changes a picture as the prompt says, and needs one; give an image")
    if manifest.follows_instructions and order.mask is not None:
        raise InvalidRequestError("this model changes the whole picture and takes no mask; leave it out")

    source = None if order.image is None else open_picture(order.image, "image")
    fallback = (defaults.width, defaults.height)
    if source is not None:
        fallback = fitting_size(source, *fallback)
    multiple = manifest.latents.downscale
    width = _side("width", fallback[0] if order.width is None else order.width, multiple)
    height = _side("height", fallback[1] if order.height is None else order.height, multiple)
    kind, scheduler = _sampler(order, manifest)
    strength = _strength(order, manifest)
    steps = defaults.steps if order.steps is None else order.steps
    if source is not None and order.steps is None:  # models of one step would else draw none from a picture
        steps = next((enough for enough in range(steps, _MOST_STEPS + 1) if int(enough * strength) > 0), steps)
    steps = _whole("steps", steps, 1, manifest.schedule.train_timesteps)
    make_levels(manifest.schedule, scheduler, steps, kind.family)  # refuses steps that the sampler cannot take
    for text, name in ((order.prompt, "prompt"), (order.negative_prompt, "negative prompt")):
        read_prompt(text, steps, name)
    count = _whole("count", order.count, 1, MAX_COUNT)
    last_seed = MAX_SEED + 1 - count
    seed = secrets.randbelow(last_seed + 1) if order.seed is None else order.seed
    scale = defaults.guidance_scale if order.guidance_scale is None else order.guidance_scale
    if source is not None and int(steps * strength) == 0:
        enough = math.ceil(1000 / steps) / 1000  # rounded up: 1/7 printed with six digits would not be enough
        raise InvalidRequestError(
            f"strength {strength:g} of {steps} steps leaves nothing to draw; at least {enough:g} is needed"
        )
    drawing = Drawing(
        manifest=manifest,
        prompt=order.prompt,
        negative_prompt=order.negative_prompt,
        width=width,
        height=height,
        steps=steps,
        sampler=kind.name,
        scheduler=scheduler,
        eta=_eta(order.eta, kind),
        s_noise=_s_noise(order.s_noise, kind),
        guidance_scale=_real("guidance_scale", scale, 0.0, MAX_GUIDANCE),
        guidance_rescale=_real("guidance_rescale", order.guidance_rescale, 0.0, 1.0),
        guidance_interval=_interval(order.guidance_interval),
        image_guidance_scale=_image_guidance_scale(order.image_guidance_scale, manifest),
        clip_skip=_clip_skip(order.clip_skip, manifest),
        loras=_loras(order.loras, order.prompt),
        token_downsampling=_token_downsampling(order.token_downsampling, manifest),
        cache=_cache(order.cache),
        seed=_whole("seed", seed, 0, last_seed),
        count=count,
        variation_seed=_variation_seed(order, last_seed),
        variation_strength=_real("variation_strength", order.variation_strength, 0.0, 1.0),
        image=source,
        mask=None if order.mask is None else open_picture(order.mask, "mask"),
        mask_feather=_mask_feather(order),
        strength=strength,
    )
    if drawing.is_guided and drawing.evaluations == drawing.steps_to_take * kind.evaluations:
        begin, end = drawing.guidance.interval
        raise InvalidRequestError(
            f"guidance_interval {begin:g}:{end:g} guides none of the {drawing.steps_to_take} steps that are drawn; "
            "widen it, or take a guidance_scale of 1"
        )
    if manifest.guides_itself:
        _check_for_own_guidance(drawing)
    if drawing.cache_setting is not None:
        obstacle = drawing.cache_obstacle(drawing.cache_setting)
        if obstacle is not None:
            raise InvalidRequestError(f"cache {drawing.cache} cannot be had: {obstacle}")
    return drawing


def bundle_obstacle(kind: CacheKind, manifest: Manifest) -> str | None:
    """Return why no drawing with a bundle can have a cache, and what to do, if that is so."""
    if kind.needs_shallow_graph and manifest.unet.shallow is None:
        return (
            "this bundle has no shallow graph of its U-Net; take the cache reuse, or import or export the "
            "checkpoint again"
        )
    return None


def resolve_all(order: Order, prompts: str | Sequence[str], manifest: Manifest) -> list[Drawing]:
    """Resolve an order for one prompt or for several, whose pictures then have successive seeds.

    Raises:
        InvalidRequestError: as for `resolve`; or there is no prompt.

    """
    if isinstance(prompts, str) or not isinstance(prompts, Sequence):
        prompts = [prompts]
    if not prompts:
        raise InvalidRequestError("the list of prompts is empty; give at least one")
    if order.seed is None:
        order = msgspec.structs.replace(order, seed=secrets.randbelow(MAX_SEED // 2))  # with room for those that follow
    drawings: list[Drawing] = []
    for prompt in prompts:
        drawing = resolve(msgspec.structs.replace(order, prompt=prompt), manifest)
        seed, variation_seed = drawing.seed + drawing.count, drawing.variation_seed
        if variation_seed is not None:
            seed, variation_seed = drawing.seed, variation_seed + drawing.count
        # Pictures are opened once.
        order = msgspec.structs.replace(
            order, seed=seed, variation_seed=variation_seed, image=drawing.image, mask=drawing.mask
        )
        drawings.append(drawing)
    return drawings


def _check_for_own_guidance(drawing: Drawing) -> None:
    """Refuse what works on a prediction without the prompt, for a model that has learnt what guidance does."""
    for name, value in (
        ("a negative prompt", drawing.negative_prompt),
        ("guidance_rescale", drawing.guidance_rescale),
        ("guidance_interval", drawing.guidance_interval),
    ):
        if value:
            raise InvalidRequestError(
                f"{name} cannot be had: this model has learnt guidance, and is told guidance_scale alone; leave it out"
            )


def _variation_seed(order: Order, last_seed: int) -> int | None:
    """Return the first variation's seed; None where there is none."""
    if not order.variation_strength:
        if order.variation_seed is not None:
            raise InvalidRequestError("variation_seed needs a variation_strength above 0, such as 0.2; give one")
        return None
    if order.variation_seed is None:
        return secrets.randbelow(last_seed + 1)
    return _whole("variation_seed", order.variation_seed, 0, last_seed)


def _mask_feather(order: Order) -> float:
    feather = _real("mask_feather", order.mask_feather, 0.0, MAX_FEATHER)
    if feather and order.mask is None:
        raise InvalidRequestError("mask_feather needs the mask that it is of; give one, or leave it out")
    return feather


def _strength(order: Order, manifest: Manifest) -> float:
    if order.strength is None:
        from_noise = manifest.follows_instructions or (manifest.repaints and order.mask is not None)
        return 1.0 if from_noise else _STRENGTH
    strength = _real("strength", order.strength, 0.0, 1.0)
    if manifest.follows_instructions and strength != 1:
        raise InvalidRequestError(
            f"strength {strength:g} cannot be had: this model is shown the picture and starts from noise alone; "
            "leave it out, and say by image_guidance_scale how much is kept"
        )
    return strength


def _image_guidance_scale(scale: float | None, manifest: Manifest) -> float | None:
    if manifest.follows_instructions:
        scale = manifest.defaults.image_guidance_scale if scale is None else scale
        return _real("image_guidance_scale", scale, 1.0, MAX_GUIDANCE)
    if scale is not None:
        raise InvalidRequestError(
            "image_guidance_scale is for models that change a picture as they are told (InstructPix2Pix), which this "
            "is not; leave it out, and say by strength how much is kept"
        )
    return None


def _sampler(order: Order, manifest: Manifest) -> tuple[SamplerKind, str]:
    """Settle the sampler and the scheduler: the order's, else the one in the sampler's name, else the usual one."""
    defaults = manifest.defaults
    scheduler: str | None
    kind, named = find_sampler(defaults.sampler if order.sampler is None else order.sampler)
    if order.scheduler is not None and str(order.scheduler).casefold() != AUTOMATIC:
        scheduler = find_scheduler(order.scheduler).name
        if order.sampler is not None and named not in (None, scheduler, CHECKPOINT_SPACING):
            raise InvalidRequestError(
                f"sampler {order.sampler!r} and scheduler {order.scheduler!r} contradict each other; give one scheduler"
            )
    elif named is not None:
        scheduler = named
    elif order.sampler is None and defaults.scheduler is not None:
        scheduler = find_scheduler(defaults.scheduler).name
    else:
        scheduler = kind.scheduler
    if scheduler is None or scheduler == CHECKPOINT_SPACING:
        scheduler = manifest.schedule.timestep_spacing or kind.family.spacing
    kind.check_scheduler(scheduler)
    return kind, scheduler


def _eta(eta: float | None, kind: SamplerKind) -> float | None:
    if eta is None:
        return kind.eta
    if kind.eta is None:
        raise InvalidRequestError(f"{kind.label} adds no noise and has no eta; leave eta out")
    return _real("eta", eta, 0.0, 1.0)


def _s_noise(s_noise: float, kind: SamplerKind) -> float:
    s_noise = _real("s_noise", s_noise, 0.0, MAX_S_NOISE)
    if kind.eta is None and s_noise != 1:
        raise InvalidRequestError(f"{kind.label} adds no noise and has no s_noise; leave s_noise out")
    return s_noise


def _interval(interval: object) -> tuple[float, float] | None:
    if interval is None:
        return None
    if not isinstance(interval, Sequence) or isinstance(interval, str) or len(interval) != 2:
        raise InvalidRequestError(f"guidance_interval must be two numbers such as (0.2, 0.8), not {shown(interval)}")
    begin, end = (_real("guidance_interval's ends", one, 0.0, 1.0) for one in interval)
    if begin >= end:
        why = "is empty" if begin == end else "is reversed"
        raise InvalidRequestError(
            f"guidance_interval {begin:g}:{end:g} {why}; it begins before it ends, such as 0.2:0.8"
        )
    return begin, end


def _loras(loras: object, prompt: str) -> tuple[LoraUse, ...]:
    """Check the LoRAs of an order and those that its prompt names; return the former."""
    if not isinstance(loras, Sequence) or not all(isinstance(use, LoraUse) for use in loras):
        raise InvalidRequestError(f"loras must be a list of LoraUse, not {shown(loras)}")
    checked = tuple(map(_lora, loras))
    named = tuple(map(_lora, loras_in(prompt)))
    if len(checked) + len(named) > MAX_LORAS:
        raise InvalidRequestError(f"{len(checked) + len(named)} LoRAs are too many; at most {MAX_LORAS} are taken")
    return checked


def _lora(use: LoraUse) -> LoraUse:
    if not isinstance(use.name, str) or not use.name:
        raise InvalidRequestError(f"a LoRA's name must be text, not {shown(use.name)}")
    scale = _real(f"the scale of LoRA {shown(use.name)}", use.scale, -MAX_SCALE, MAX_SCALE)
    own = use.text_encoder_scale
    own = None if own is None else _real(f"the scale of LoRA {shown(use.name)}", own, -MAX_SCALE, MAX_SCALE)
    return LoraUse(name=use.name, scale=scale, text_encoder_scale=own)


def _clip_skip(clip_skip: int, manifest: Manifest) -> int:
    layers = next((spec.shape[0] for spec in manifest.text_encoder.outputs if spec.name == "layers"), 1)
    clip_skip = _whole("clip_skip", clip_skip, 1, 100)
    if isinstance(layers, int) and clip_skip > layers:
        if layers == 1:
            raise InvalidRequestError(
                f"clip_skip {clip_skip} is not possible: this bundle gives the text encoder's last layer alone; "
                "export it again"
            )
        raise InvalidRequestError(f"clip_skip must be at most {layers}, the text encoder's layers, not {clip_skip}")
    return clip_skip


def _token_downsampling(every: int, manifest: Manifest) -> int:
    every = _whole("token_downsampling", every, 1, MAX_TOKEN_DOWNSAMPLING)
    if every > 1 and not manifest.unet.takes(TOKEN_DOWNSAMPLING):
        raise InvalidRequestError(
            f"token_downsampling {every} is not possible: this bundle's U-Net has no attention at its finest level, or "
            "was exported before there was that option; leave it out, or export the checkpoint again"
        )
    return every


def _cache(cache: str | None) -> str | None:
    """Return the cache in our own spelling; `none` stays, since a server may have a cache by itself."""
    if cache is None:
        return None
    setting = find_cache(cache)
    return NO_CACHE if setting is None else str(setting)


def shown(value: object) -> str:
    """Return a value for a message, short whatever it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # a number of more digits than Python writes
        return "a number of thousands of digits"


def _side(name: str, value: SupportsIndex, multiple: int) -> int:
    side = _whole(name, value, MIN_SIDE, MAX_SIDE)
    if side % multiple:
        lower = side // multiple * multiple
        raise InvalidRequestError(
            f"{name} must be a multiple of {multiple}, not {side}; the nearest are {lower} and {lower + multiple}"
        )
    return side


def _whole(name: str, value: SupportsIndex, low: int, high: int) -> int:
    """Return a whole number of any type, NumPy's among them, as Python's."""
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if isinstance(value, bool) or not low <= number <= high:
        raise InvalidRequestError(f"{name} must be a whole number from {low} to {high}, not {shown(value)}")
    return number


def _real(name: str, value: object, low: float, high: float) -> float:
    """Return a real number of any type, NumPy's among them, as Python's."""
    try:
        number = float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:
        number = math.inf
    if isinstance(value, bool) or not low <= number <= high:  # no comparison holds for NaN
        raise InvalidRequestError(f"{name} must be a number from {low:g} to {high:g}, not {shown(value)}")
    return number
