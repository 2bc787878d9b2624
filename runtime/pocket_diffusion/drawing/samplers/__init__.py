"""Samplers: how the latents move from one noise level to the next. This is their table."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pocket_diffusion.drawing.brownian import BrownianNoise
from pocket_diffusion.drawing.levels import Levels
from pocket_diffusion.drawing.names import LONGEST, look_up, plain
from pocket_diffusion.drawing.noise import NoiseGenerator
from pocket_diffusion.drawing.samplers.deis import DEISSampler
from pocket_diffusion.drawing.samplers.dpm2 import DPM2Sampler
from pocket_diffusion.drawing.samplers.dpmpp_2m import DPMpp2MSampler
from pocket_diffusion.drawing.samplers.dpmpp_2s import DPMpp2SSampler
from pocket_diffusion.drawing.samplers.dpmpp_3m_sde import DPMpp3MSDESampler
from pocket_diffusion.drawing.samplers.dpmpp_sde import DPMppSDESampler
from pocket_diffusion.drawing.samplers.euler import EulerSampler
from pocket_diffusion.drawing.samplers.heun import HeunSampler
from pocket_diffusion.drawing.samplers.lcm import LCMSampler
from pocket_diffusion.drawing.samplers.lms import LMSSampler
from pocket_diffusion.drawing.samplers.pndm import IPNDMSampler, PNDMSampler
from pocket_diffusion.drawing.samplers.sampler import Noise, Sampler
from pocket_diffusion.drawing.samplers.tcd import TCDSampler
from pocket_diffusion.drawing.samplers.unipc import UniPCSampler
from pocket_diffusion.drawing.schedulers import (
    DDIM_FAMILY,
    DDPM_FAMILY,
    DEIS_FAMILY,
    KDPM2_FAMILY,
    LCM_FAMILY,
    MULTISTEP_FAMILY,
    PNDM_FAMILY,
    SCHEDULERS,
    SIGMA_FAMILY,
    TCD_FAMILY,
    Family,
)
from pocket_diffusion.errors import InvalidRequestError

CHECKPOINT_SPACING = "checkpoint"
"""Stands for the checkpoint's own timestep spacing, which diffusers' schedulers use; no name of `SCHEDULERS`."""

_DISTILLED = frozenset({"leading", "linspace", "trailing"})
"""What a checkpoint's spacing may be; the families of LCM and TCD take the distillation's timesteps for each."""


@dataclass(frozen=True, kw_only=True)
class SamplerKind:
    """A row of `SAMPLERS`."""

    name: str
    label: str
    """As A1111's interface writes it."""
    summary: str
    """A sentence for people who choose."""
    make: Callable[..., Sampler] = field(repr=False)
    """Takes (levels), or (levels, eta, s_noise) where there is an eta."""
    family: Family = field(repr=False)
    """How diffusers' scheduler of that name places its levels."""
    scheduler: str | None = None
    """The usual one, by its name in `SCHEDULERS`; None: the checkpoint's own timestep spacing."""
    schedulers: frozenset[str] = frozenset(SCHEDULERS)
    """Those that go with it."""
    evaluations: int = 1
    """Of the model, in each step."""
    eta: float | None = None
    """The usual share of fresh noise; None: adds no noise."""
    is_brownian: bool = False
    """The fresh noise comes from one Brownian path, so that more steps refine the same picture."""
    diffusers: str | None = None
    """The class in diffusers; None: it has none of this method."""
    aliases: tuple[str, ...] = ()

    def sampler(self, levels: Levels, eta: float | None = None, s_noise: float = 1.0) -> Sampler:
        """Make a sampler for one picture; `eta` None is the usual one."""
        if self.eta is None:
            return self.make(levels)
        return self.make(levels, self.eta if eta is None else eta, s_noise)

    def noise(self, generator: NoiseGenerator, shape: tuple[int, ...]) -> Noise:
        """Return the source of fresh noise for one picture, whose latents have that shape."""
        if self.is_brownian:
            return BrownianNoise(generator.seed, shape)
        return lambda sigma, sigma_next: generator.normal(shape)

    @property
    def is_distilled(self) -> bool:
        """Whether it is for models that were distilled to few steps."""
        return self.schedulers == _DISTILLED

    def takes(self, scheduler: str) -> bool:
        """Tell whether a scheduler of that name goes with this sampler."""
        return scheduler in self.schedulers

    def check_scheduler(self, scheduler: str) -> None:
        """Make sure that a scheduler of that name goes with this sampler.

        Raises:
            InvalidRequestError: it does not.

        """
        if not self.takes(scheduler):
            raise InvalidRequestError(
                f"{self.label} draws at the timesteps of its distillation and does not take the scheduler {scheduler}; "
                "leave the scheduler out"
            )


SAMPLERS: dict[str, SamplerKind] = {
    kind.name: kind
    for kind in (
        SamplerKind(
            name="ddpm",
            label="DDPM",
            summary="The original way: much fresh noise at each step, so it needs many steps.",
            make=EulerSampler,
            family=DDPM_FAMILY,
            eta=1.0,
            diffusers="DDPMScheduler",
        ),
        SamplerKind(
            name="ddim",
            label="DDIM",
            summary="The classic deterministic way; eta adds fresh noise, up to DDPM's at 1.",
            make=EulerSampler,
            family=DDIM_FAMILY,
            eta=0.0,
            diffusers="DDIMScheduler",
        ),
        SamplerKind(
            name="pndm",
            label="PLMS",
            summary="Deterministic, fourth order; the default of the first Stable Diffusion.",
            make=PNDMSampler,
            family=PNDM_FAMILY,
            diffusers="PNDMScheduler",
            aliases=("plms",),
        ),
        SamplerKind(
            name="lms",
            label="LMS",
            summary="Deterministic, fourth order, made for uneven steps; best from 30 steps.",
            make=LMSSampler,
            family=SIGMA_FAMILY,
            scheduler="karras",
            diffusers="LMSDiscreteScheduler",
            aliases=("k_lms",),
        ),
        SamplerKind(
            name="euler",
            label="Euler",
            summary="The simplest deterministic way; soft pictures, and a safe first choice.",
            make=EulerSampler,
            family=SIGMA_FAMILY,
            scheduler="normal",
            diffusers="EulerDiscreteScheduler",
            aliases=("k_euler",),
        ),
        SamplerKind(
            name="euler_a",
            label="Euler a",
            summary="Euler with fresh noise; lively pictures that keep changing with the number of steps.",
            make=EulerSampler,
            family=SIGMA_FAMILY,
            scheduler="normal",
            eta=1.0,
            diffusers="EulerAncestralDiscreteScheduler",
            aliases=("euler_ancestral", "k_euler_a", "k_euler_ancestral"),
        ),
        SamplerKind(
            name="heun",
            label="Heun",
            summary="Deterministic, second order; exact in few steps, each of which takes twice as long.",
            make=HeunSampler,
            family=SIGMA_FAMILY,
            scheduler="normal",
            evaluations=2,
            diffusers="HeunDiscreteScheduler",
            aliases=("k_heun",),
        ),
        SamplerKind(
            name="dpm2",
            label="DPM2",
            summary="Deterministic, second order, by the middle of each step, which takes twice as long.",
            make=DPM2Sampler,
            family=KDPM2_FAMILY,
            scheduler="karras",
            evaluations=2,
            diffusers="KDPM2DiscreteScheduler",
            aliases=("dpm_2", "k_dpm_2"),
        ),
        SamplerKind(
            name="dpm2_a",
            label="DPM2 a",
            summary="DPM2 with fresh noise; each step takes twice as long.",
            make=DPM2Sampler,
            family=KDPM2_FAMILY,
            scheduler="karras",
            evaluations=2,
            eta=1.0,
            diffusers="KDPM2AncestralDiscreteScheduler",
            aliases=("dpm2_ancestral", "dpm_2_a", "dpm_2_ancestral", "k_dpm_2_a", "k_dpm_2_ancestral"),
        ),
        SamplerKind(
            name="dpmpp_2m",
            label="DPM++ 2M",
            summary="Deterministic, second order, at no extra cost; good pictures from 10 steps.",
            make=DPMpp2MSampler,
            family=MULTISTEP_FAMILY,
            scheduler="karras",
            diffusers="DPMSolverMultistepScheduler",
            aliases=("k_dpmpp_2m",),
        ),
        SamplerKind(
            name="dpmpp_2m_sde",
            label="DPM++ 2M SDE",
            summary="DPM++ 2M with fresh noise; fine details from 25 steps.",
            make=DPMpp2MSampler,
            family=MULTISTEP_FAMILY,
            scheduler="exponential",
            eta=1.0,
            is_brownian=True,
            aliases=("k_dpmpp_2m_sde",),
        ),
        SamplerKind(
            name="dpmpp_3m_sde",
            label="DPM++ 3M SDE",
            summary="As DPM++ 2M SDE, looking one step further back; best from 30 steps.",
            make=DPMpp3MSDESampler,
            family=MULTISTEP_FAMILY,
            scheduler="exponential",
            eta=1.0,
            is_brownian=True,
            aliases=("k_dpmpp_3m_sde",),
        ),
        SamplerKind(
            name="dpmpp_sde",
            label="DPM++ SDE",
            summary="Fresh noise, second order; good pictures from 10 steps, each of which takes twice as long.",
            make=DPMppSDESampler,
            family=SIGMA_FAMILY,
            scheduler="karras",
            evaluations=2,
            eta=1.0,
            is_brownian=True,
            diffusers="DPMSolverSDEScheduler",
            aliases=("k_dpmpp_sde",),
        ),
        SamplerKind(
            name="dpmpp_2s_a",
            label="DPM++ 2S a",
            summary="DPM++ in single steps with fresh noise; each step takes twice as long.",
            make=DPMpp2SSampler,
            family=SIGMA_FAMILY,
            scheduler="karras",
            evaluations=2,
            eta=1.0,
            aliases=("dpmpp_2s_ancestral", "k_dpmpp_2s_a", "k_dpmpp_2s_ancestral"),
        ),
        SamplerKind(
            name="deis",
            label="DEIS",
            summary="Deterministic, second order; good from 15 steps.",
            make=DEISSampler,
            family=DEIS_FAMILY,
            scheduler="simple",
            diffusers="DEISMultistepScheduler",
        ),
        SamplerKind(
            name="unipc",
            label="UniPC",
            summary="Deterministic, corrects each step by the next one; good from 10 steps.",
            make=UniPCSampler,
            family=MULTISTEP_FAMILY,
            scheduler="simple",
            diffusers="UniPCMultistepScheduler",
            aliases=("uni_pc", "uni_pc_bh2"),
        ),
        SamplerKind(
            name="ipndm",
            label="IPNDM",
            summary="Deterministic, fourth order; PLMS without its extra evaluation.",
            make=IPNDMSampler,
            family=SIGMA_FAMILY,
            scheduler="normal",
            diffusers="IPNDMScheduler",
        ),
        SamplerKind(
            name="lcm",
            label="LCM",
            summary="For models distilled to latent consistency: 2 to 8 steps, guidance 1 to 2.",
            make=LCMSampler,
            family=LCM_FAMILY,
            schedulers=_DISTILLED,
            eta=1.0,
            diffusers="LCMScheduler",
        ),
        SamplerKind(
            name="tcd",
            label="TCD",
            summary="For models distilled to trajectory consistency: 4 to 8 steps; eta is the paper's gamma.",
            make=TCDSampler,
            family=TCD_FAMILY,
            schedulers=_DISTILLED,
            eta=0.3,
            diffusers="TCDScheduler",
        ),
    )
}
"""By the name that `--sampler` takes."""


_BY_PLAIN_NAME = {
    plain(name): kind
    for kind in SAMPLERS.values()
    for name in (kind.name, kind.label, kind.diffusers, *kind.aliases)
    if name is not None
}
_SCHEDULER_ENDINGS = {
    plain(name): row.name for row in SCHEDULERS.values() for name in (row.name, row.label, *row.aliases)
}


def find_sampler(name: str) -> tuple[SamplerKind, str | None]:
    """Return a sampler and the scheduler that its name asks for, by the name in `SCHEDULERS`, or None.

    Our names, A1111's labels, k-diffusion's names and diffusers' classes are understood; capitals, spaces, `-` and `_`
    do not matter. A scheduler may follow: `DPM++ 2M Karras`. A class of diffusers asks for `CHECKPOINT_SPACING`.

    Raises:
        InvalidRequestError: names the nearest ones.

    """
    key = plain(name) if isinstance(name, str) and len(name) <= LONGEST else ""
    if key not in _BY_PLAIN_NAME and key not in _SCHEDULER_ENDINGS:
        for ending, scheduler in _SCHEDULER_ENDINGS.items():
            if key.removesuffix(ending) in _BY_PLAIN_NAME:
                return _BY_PLAIN_NAME[key.removesuffix(ending)], scheduler
    kind = look_up(name, _BY_PLAIN_NAME, "sampler")
    return kind, CHECKPOINT_SPACING if kind.diffusers is not None and key == plain(kind.diffusers) else None


__all__ = ["CHECKPOINT_SPACING", "SAMPLERS", "SamplerKind", "find_sampler"]
