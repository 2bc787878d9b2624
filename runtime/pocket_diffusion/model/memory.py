"""Memory as a choice: what each mode trades for it, and what a picture needs in each."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from pocket_diffusion.bundle import COMPONENTS, SHALLOW_UNET, SIDES, Manifest
from pocket_diffusion.machine.session import Arena, Provider
from pocket_diffusion.model.tiles import largest_run
from pocket_diffusion.model.weights import ChangedWeights

_UNSHARED = 0.25
"""Of what a component has left in a shared arena: how much the largest does not find large enough for its own blocks.
A seventh was measured, at 768x768."""
_PICTURE_BYTES = 60
"""Per pixel: a decoded picture as float32 (12 bytes), a few times over while it is joined and rounded."""
_FINISHED_BYTES = 4
"""Per pixel: a finished picture, whose red, green and blue Pillow pads to four bytes."""
_CUDA_CONTEXT = 600 * 10**6
"""What CUDA, cuBLAS and cuDNN take of a graphics card before any network does: an estimate, never measured."""


def runs_often(component: str) -> bool:
    """Tell whether a component runs at each step, and not only once or twice a picture."""
    return component in ("unet", SHALLOW_UNET)


@dataclass(frozen=True, kw_only=True)
class MemoryMode:
    """A way to trade time for memory.

    Where the VAE takes a picture whole, it is the same in all modes but for rounding; where in tiles (in `low` beyond
    288x288 pixels, else beyond 768x512, and on a GPU in `fast` nowhere), it is near to that: 28 to 34 dB for 512x512 in
    `low`, see `in_tiles`.
    """

    name: str
    expand_weights: bool
    """The U-Net's weights as float32 in memory; else, as those of the others, mapped and cast just before each use."""
    keep_sessions: bool
    """Graphs stay loaded; else one at a time, each as long as its stage lasts."""
    guide_together: bool
    """Guidance in one run of two samples; else in two runs."""
    arena: Arena
    """Where activations lie. Sessions that stay loaded share an arena, so that the next stage has the last one's."""
    whole: int
    """Up to how many latents the VAE takes a picture at once."""
    tile: int
    """The longest side of the tiles, in latents, in which it takes larger ones."""

    def expands(self, component: str) -> bool:
        """Tell whether a component's weights are expanded: those of the U-Net, which alone runs often."""
        return self.expand_weights and runs_often(component)

    def vae_tile(self, height: int, width: int) -> int:
        """Return the longest side of a tile for a picture of `height` x `width` latents."""
        return max(height, width) if height * width <= self.whole else self.tile


MODES = {
    mode.name: mode
    for mode in (  # the fastest first
        MemoryMode(
            name="fast", expand_weights=True, keep_sessions=True, guide_together=True, arena="shared",
            whole=96 * 64, tile=72,
        ),
        MemoryMode(
            name="balanced", expand_weights=False, keep_sessions=False, guide_together=True, arena="own",
            whole=96 * 64, tile=72,
        ),
        MemoryMode(
            name="low", expand_weights=False, keep_sessions=False, guide_together=False, arena="none",
            whole=36 * 36, tile=36,
        ),
    )
}  # fmt: skip

CUDA_MODES = {
    mode.name: mode
    for mode in (  # the fastest first: on a GPU, to load a network takes longer than a picture, and tiles do not
        MemoryMode(
            name="fast", expand_weights=False, keep_sessions=True, guide_together=True, arena="own",
            whole=sys.maxsize, tile=72,
        ),
        MemoryMode(
            name="balanced", expand_weights=False, keep_sessions=True, guide_together=True, arena="own",
            whole=96 * 64, tile=72,
        ),
        MemoryMode(
            name="low", expand_weights=False, keep_sessions=False, guide_together=False, arena="own",
            whole=36 * 36, tile=36,
        ),
    )
}  # fmt: skip
MODES_ON: Mapping[Provider, Mapping[str, MemoryMode]] = {"cpu": MODES, "cuda": CUDA_MODES}
"""The modes of each provider, by the same names."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a picture's need of memory depends on."""

    width: int
    height: int
    guided: bool
    from_picture: bool
    count: int = 1
    keeps_deep: bool = False
    """Whether the U-Net's shallow graph is used, with features that are kept for each picture."""
    changed_weights: Mapping[str, ChangedWeights] = field(default_factory=dict)
    """By component."""

    @classmethod
    def usual(cls, manifest: Manifest) -> "Demand":
        """Return the demand of a picture that is drawn with a bundle's defaults."""
        defaults = manifest.defaults
        guided = defaults.guidance_scale > 1 and not manifest.guides_itself
        return cls(width=defaults.width, height=defaults.height, guided=guided, from_picture=manifest.sees_pictures)

    def smaller(self, multiple: int) -> Iterator["Demand"]:
        """Yield demands of about these proportions, the largest first, with sides that are multiples."""
        longest = max(self.width, self.height)
        for side in range(longest - multiple, SIDES[0] - 1, -multiple):
            width, height = (
                max(n * side // longest // multiple * multiple, SIDES[0]) for n in (self.width, self.height)
            )
            yield replace(self, width=width, height=height)


_UNCHANGED = ChangedWeights()


def needed_memory(manifest: Manifest, mode: MemoryMode, demand: Demand, provider: Provider = "cpu") -> int | None:
    """Return the bytes that a picture takes at most, or None if the bundle has no figures.

    They are of anonymous memory on a CPU, and of the graphics card's on CUDA.

    Each component's figures are the exporter's measurements (`ComponentMemory`). Components take turns. Where they stay
    loaded, expanded and changed weights stay too, and so does what of the arena that they share is of no use to the
    next.
    """
    if provider == "cuda":
        return _needed_on_cuda(manifest, mode, demand)
    pixels = demand.width * demand.height
    at_once = _pixels_at_once(manifest, mode, demand)
    turns: list[int] = []
    weights = 0
    for name in (*COMPONENTS, SHALLOW_UNET) if demand.keeps_deep else COMPONENTS:
        memory = manifest.component(name).memory
        if memory is None:
            return None
        if name != "vae_encoder" or demand.from_picture:
            weights += memory.expanded_weights if mode.expands(name) else 0
            changed = demand.changed_weights.get(name, _UNCHANGED)
            weights += changed.size if mode.keep_sessions else 0
            # Opening takes the changed weights twice: they are made, which takes more for a while, and then copied.
            running = max(memory.least, memory.base + memory.per_pixel * at_once[name])
            turn = max(running, changed.size, changed.working)
            if name == SHALLOW_UNET and not mode.keep_sessions:  # loaded beside the U-Net, with an arena of its own
                turns[COMPONENTS.index("unet")] += changed.size + (turn if mode.arena == "own" else 0)
            else:
                turns.append(turn if mode.keep_sessions else turn + changed.size)
    pictures = (_PICTURE_BYTES + _FINISHED_BYTES * (demand.count - 1)) * pixels
    most = max(turns)
    kept = _UNSHARED * (sum(turns) - most) if mode.keep_sessions else 0
    deep = _deep_bytes(manifest, demand, pixels // manifest.latents.downscale**2) if demand.keeps_deep else 0
    return int(weights + most + kept) + pictures + deep


def _needed_on_cuda(manifest: Manifest, mode: MemoryMode, demand: Demand) -> int | None:
    """Return the bytes of a graphics card's memory that a picture takes at most.

    Weights, also changed ones, lie there as they are stored. Activations are those that were measured in float32, of
    which float16 takes half. Networks that run once give them back; the others keep them, for the next step.
    """
    at_once = _pixels_at_once(manifest, mode, demand)
    weights: list[int] = []
    kept: list[int] = []
    passing: list[int] = []
    for name in (*COMPONENTS, SHALLOW_UNET) if demand.keeps_deep else COMPONENTS:
        component = manifest.component(name)
        if component.memory is None:
            return None
        if name != "vae_encoder" or demand.from_picture:
            activations = component.memory.per_pixel * at_once[name] // (2 if manifest.computes_in_float16 else 1)
            weights.append(manifest.files[component.weights].size)
            (kept if runs_often(name) else passing).append(activations)
    if mode.keep_sessions:
        return _CUDA_CONTEXT + sum(weights) + sum(kept) + max(passing)
    return _CUDA_CONTEXT + max(weights) * max(1, len(kept)) + max(sum(kept), *passing)


def _pixels_at_once(manifest: Manifest, mode: MemoryMode, demand: Demand) -> dict[str, int]:
    """Return the pixels that each component takes in one run at most."""
    pixels = demand.width * demand.height
    height, width = (side // manifest.latents.downscale for side in (demand.height, demand.width))
    vae_pixels = largest_run(height, width, mode.vae_tile(height, width)) * manifest.latents.downscale**2
    unet_pixels = pixels * (2 if demand.guided and mode.guide_together else 1)
    return {
        "text_encoder": pixels,
        "unet": unet_pixels,
        SHALLOW_UNET: unet_pixels,
        "vae_encoder": vae_pixels,
        "vae_decoder": vae_pixels,
    }


def _deep_bytes(manifest: Manifest, demand: Demand, latents: int) -> int:
    """Return what the features take that are kept of the U-Net's deep layers: one for each latent and prediction."""
    (spec,) = manifest.unet.outputs_on_request
    channels = max(size for size in spec.shape if isinstance(size, int))
    predictions = 1 if not demand.guided else 3 if manifest.follows_instructions else 2
    return 4 * channels * latents * predictions * demand.count
