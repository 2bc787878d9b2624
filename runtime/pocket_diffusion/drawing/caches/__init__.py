"""Caches: what is taken from earlier evaluations of the model, so that fewer are made. This is their table."""

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field

from pocket_diffusion.drawing.caches.cache import Cache, Rhythm
from pocket_diffusion.drawing.caches.deep import DeepCache, DeepFeatures
from pocket_diffusion.drawing.caches.reuse import ReuseCache
from pocket_diffusion.drawing.names import plain
from pocket_diffusion.errors import InvalidRequestError

NO_CACHE = "none"
"""Asks for no cache, where a server has one by itself."""
MOST = 10
"""The largest N."""
LEAST_EVALUATIONS = 8
"""With fewer, each one is a large part of the way, and none can be left out."""


@dataclass(frozen=True, kw_only=True)
class CacheKind:
    """A row of `CACHES`."""

    name: str
    summary: str
    """A sentence for people who choose."""
    make: Callable[..., Cache] = field(repr=False)
    """Takes (rhythm), and whether the sampler adds noise where that makes a difference."""
    usual: int
    """N where nobody said it."""
    remainder: float = 0.0
    """About which part of an evaluation's time is taken where none is made in full."""
    one_evaluation: bool = False
    """Whether it is for samplers that evaluate once a step."""
    needs_shallow_graph: bool = False
    """Whether the bundle must have the U-Net's shallow graph."""


CACHES = {
    kind.name: kind
    for kind in (
        CacheKind(
            name="reuse",
            summary="Evaluates at every N-th step, and goes on in the last direction between.",
            make=ReuseCache,
            usual=3,
            one_evaluation=True,
        ),
        CacheKind(
            name="deep",
            summary="Computes the whole U-Net at every N-th evaluation, and its last layer alone between (DeepCache).",
            make=lambda rhythm, **_: DeepCache(rhythm),
            usual=3,
            remainder=0.1,  # in Stable Diffusion 1.5's U-Net, 8 % of the multiplications
            needs_shallow_graph=True,
        ),
    )
}


@dataclass(frozen=True)
class CacheSetting:
    """A cache, and how often the model is evaluated in full."""

    kind: CacheKind
    every: int

    def __str__(self) -> str:
        """Return what `find_cache` reads."""
        return f"{self.kind.name}:{self.every}"

    def cache(self, *, adds_noise: bool) -> Cache:
        """Make a cache for one picture; `adds_noise` tells whether its sampler does."""
        return self.kind.make(Rhythm(self.every), adds_noise=adds_noise)

    def share(self, evaluations: int) -> float:
        """Return about which part of the time is taken that so many evaluations, one or more, take without it."""
        in_full = Rhythm(self.every).full(evaluations) / evaluations
        return in_full + (1 - in_full) * self.kind.remainder


def find_cache(text: str) -> CacheSetting | None:
    """Read `METHOD` or `METHOD:N`; None for `none`.

    Raises:
        InvalidRequestError: it is neither.

    """
    name, colon, number = str(text).partition(":")
    if plain(name) == NO_CACHE and not colon:
        return None
    kind = CACHES.get(plain(name))
    if kind is None:
        raise InvalidRequestError(
            f"cache {reprlib.repr(text)} is not known; choose one of {', '.join((NO_CACHE, *CACHES))}, "
            "or with a number such as deep:3"
        )
    if not colon:
        return CacheSetting(kind, kind.usual)
    if not (number.isascii() and number.isdecimal() and len(number) < 3 and 1 <= int(number) <= MOST):
        raise InvalidRequestError(
            f"cache {reprlib.repr(text)}: the number is from 1, which leaves nothing out, to {MOST}; such as {name}:3"
        )
    return CacheSetting(kind, int(number))


__all__ = [
    "CACHES", "LEAST_EVALUATIONS", "MOST", "NO_CACHE", "Cache", "CacheKind", "CacheSetting", "DeepFeatures",
    "find_cache",
]  # fmt: skip
