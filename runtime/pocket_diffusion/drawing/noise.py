"""Seeded Gaussian noise: the numbers of PyTorch's CPU generator, without PyTorch."""

import numpy as np
from numpy.typing import NDArray

MAX_SEED = 2**32 - 1
"""The Mersenne twister is seeded with 32 bits; larger seeds would repeat smaller ones' pictures."""

_ALIKE = 0.9995
"""The cosine from which noises are so alike that the angle between them is not known well enough to turn by."""
_GROUP = 16  # PyTorch transforms uniforms in groups of 16 (its vector width), so the order depends on it


class NoiseGenerator:
    """What `torch.Generator("cpu").manual_seed(seed)` gives to successive calls of `torch.randn`."""

    def __init__(self, seed: int) -> None:
        """Seed the generator; raises ValueError unless 0 ≤ seed ≤ `MAX_SEED`."""
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"seed must be from 0 to {MAX_SEED}, not {seed}")
        self.seed = seed
        self._twister = np.random.MT19937()
        self._twister.state = {
            "bit_generator": "MT19937",
            "state": {"key": _initial_state(seed), "pos": 624},
        }

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw standard normal float32 numbers; within 1e-6 of `torch.randn(shape)`.

        Raises ValueError for fewer than 16 numbers, which PyTorch draws by another algorithm.
        """
        count = int(np.prod(shape))
        if count < _GROUP:
            raise ValueError(f"noise comes in at least {_GROUP} numbers, not {count}")
        uniforms = self._uniform(count)
        whole = count - count % _GROUP
        numbers = np.empty(count, np.float32)
        numbers[:whole] = _box_muller(uniforms[:whole])
        if whole != count:
            # PyTorch draws the last 16 anew when the count is no multiple of 16.
            numbers[-_GROUP:] = _box_muller(self._uniform(_GROUP))
        return numbers.reshape(shape)

    def initial(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw the noise that a picture starts from."""
        return self.normal(shape)

    def _uniform(self, count: int) -> NDArray[np.float32]:
        """Draw from [0, 1), 24 bits each."""
        bits = self._twister.random_raw(count) & np.uint64(2**24 - 1)
        return bits.astype(np.float32) * np.float32(2.0**-24)


class VariedNoise(NoiseGenerator):
    """A generator whose initial noise is turned towards that of another seed, as AUTOMATIC1111's variations are."""

    def __init__(self, seed: int, variation_seed: int, strength: float) -> None:
        """Seed both; `strength` is 0 for the noise of the first, and 1 for that of the second."""
        super().__init__(seed)
        self._other = NoiseGenerator(variation_seed)
        self._strength = strength

    def initial(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw the noise that a picture starts from; what comes after it is the first seed's own."""
        return slerp(self.normal(shape), self._other.normal(shape), self._strength)


def slerp(begin: NDArray[np.float32], end: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Turn noise `[1, channels, height, width]` towards other noise, by a share of the angle between them.

    As in AUTOMATIC1111's web UI, each column of a channel is turned by itself (Shoemake 1985, section 3.3): a straight
    mixture would have less variance than noise.
    """
    unit = [noise / np.linalg.norm(noise, axis=2, keepdims=True) for noise in (begin, end)]
    cosine = (unit[0] * unit[1]).sum(axis=2, keepdims=True)
    if cosine.mean() > _ALIKE:
        return begin * np.float32(1 - share) + end * np.float32(share)
    angle = np.arccos(cosine)
    weights = [np.sin(np.float32(part) * angle) / np.sin(angle) for part in (1 - share, share)]
    turned: NDArray[np.float32] = weights[0] * begin + weights[1] * end
    return turned


def _initial_state(seed: int) -> NDArray[np.uint32]:
    """Fill the twister's state from a seed (Matsumoto & Nishimura 2002, `init_genrand`)."""
    state = [seed]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ (state[-1] >> 30)) + i) & 0xFFFFFFFF)
    return np.array(state, np.uint32)


def _box_muller(uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn uniforms into normals (Box & Muller 1958), 16 at a time: cosines in the first 8, sines in the last 8."""
    first, second = np.split(uniforms.reshape(-1, 2, _GROUP // 2), 2, axis=1)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - first))
    angle = np.float32(2 * np.pi) * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
