"""How exact an 8-bit graph was measured to be, as its file in the bundle says it."""

from typing import Annotated, Literal

import msgspec

from pocket_diffusion.strict import Strict

Storage = Literal["int8", "fp16", "fp32"]
Computation = Literal["tensor", "token", "two_terms", "float32"]
"""How a layer's product is computed: in 8 bits with one scale for the whole tensor of activations, with one scale a
token, or in two terms, the rounded activations and their rounded remainder; or not in 8 bits."""
NotNegativeFloat = Annotated[float, msgspec.Meta(ge=0)]


class LayerFigure(Strict, frozen=True):
    """One layer of an 8-bit graph."""

    name: str
    """The weight's published name."""
    stored: Storage
    computed: Computation
    storage_error: float | None
    """The relative change of the layer's output that rounding the weights makes; in an imported bundle, of the weights
    themselves; None where it was not measured."""
    error: float | None
    """The relative change that computing it so makes, on real activations; None where it is not in 8 bits, or was not
    measured."""


class Certificate(Strict, frozen=True):
    """How far an 8-bit graph is from the exact one. Errors are relative: ‖8-bit − exact‖ / ‖exact‖ of the output."""

    graph_sha256: str
    """Of the 8-bit graph that was measured."""
    weights_sha256: str
    """Of the weights file that it shares with the exact graph."""
    bound: NotNegativeFloat
    """The error up to which the graph is used without being asked for."""
    relative_error: NotNegativeFloat
    """The median over the evaluations of the whole network."""
    largest_error: NotNegativeFloat
    """The worst evaluation's."""
    evaluations: Annotated[int, msgspec.Meta(gt=0, le=2**31)]
    psnr_db: float | None
    """A drawn picture against that of the exact graphs; None for an encoder, which draws none."""
    what: str
    """What the figures were measured on, in one line."""
    layers: tuple[LayerFigure, ...]

    @property
    def allows(self) -> bool:
        """Whether the graph may be used without being asked for. An error that is no number is above every bound."""
        return self.relative_error <= self.bound
