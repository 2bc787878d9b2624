"""The noise levels that a sampler visits."""

from dataclasses import dataclass

from pocket_diffusion.drawing.schedule import TrainedLevels


@dataclass(frozen=True)
class Levels:
    """Falling noise levels, one more than there are steps, and what the U-Net is told at each.

    Numbers are Python's: NumPy's float64 would turn float32 latents into float64.
    """

    sigmas: tuple[float, ...]
    """`[steps + 1]`; the last is 0, or the noise that a sampler leaves: at most the last but one."""
    timesteps: tuple[float, ...]
    """`[steps]`: the training timestep of each sigma but the last, not whole where a level lies between two."""
    start: float
    """The factor of standard normal noise at the start, where there is no picture."""
    trained: TrainedLevels
    """The levels that the model knows."""

    @property
    def steps(self) -> int:
        """The number of steps from the first sigma to the last."""
        return len(self.timesteps)
