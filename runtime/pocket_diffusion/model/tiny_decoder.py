"""The decoder of a tiny VAE as previews use it: loaded beside the other networks, for pictures of a bounded size."""

import logging

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket_diffusion.addon import has_tiny_vae, with_tiny_vae
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.errors import BundleDamagedError, BundleFormatError, InvalidRequestError
from pocket_diffusion.machine.session import GraphSession, Provider
from pocket_diffusion.model.arithmetic import choose_arithmetic
from pocket_diffusion.model.budget import AUTO

Array = NDArray[np.float32]

_MOST_LATENTS = 32 * 32
"""Of a preview: larger latents are shrunken first, so that a preview of any picture takes about as long as that of a
256x256 one, a quarter of what the picture of 512x512 takes."""
_ROLE = "vae_decoder"
_log = logging.getLogger(__name__)


class TinyDecoder:
    """Latents to small pictures. The network is loaded with the first one and stays until it is closed."""

    def __init__(self, bundle: Bundle, provider: Provider, threads: int | None) -> None:
        """Load nothing yet.

        Args:
            bundle: one that has a tiny VAE.
            provider: what computes.
            threads: on a CPU; None for one a core.

        Raises:
            InvalidRequestError, BundleFormatError, BundleDamagedError: see `with_tiny_vae`.

        """
        self._bundle = with_tiny_vae(bundle)
        self._provider: Provider = provider
        self._threads = threads
        self._session: GraphSession | None = None

    @classmethod
    def of(cls, bundle: Bundle, provider: Provider, threads: int | None) -> "TinyDecoder | None":
        """Return the decoder of a bundle's tiny VAE, or None where it has none, or one that cannot be used.

        Why it cannot is logged: previews alone are no reason to refuse a bundle.
        """
        try:
            return cls(bundle, provider, threads) if has_tiny_vae(bundle) else None
        except (InvalidRequestError, BundleFormatError, BundleDamagedError) as error:
            _log.warning("previews come without the tiny VAE: %s", error)
            return None

    @property
    def is_loaded(self) -> bool:
        """Whether the network is in memory."""
        return self._session is not None

    def __call__(self, latents: Array) -> Array:
        """Return a picture `[1, 3, 8h, 8w]`, about -1…1, of scaled latents `[1, 4, h, w]`, or of them shrunken.

        Raises:
            InferenceError: ONNX Runtime failed.
            BundleDamagedError: a file is not what it was.

        """
        session = self._session or self._open()
        return session.run(latents=_shrunken(latents))["picture"]

    def close(self) -> None:
        """Give the memory back; the network is loaded again when it is needed."""
        if self._session is not None:
            self._session.close()
        self._session = None

    def _open(self) -> GraphSession:
        arithmetic = choose_arithmetic(AUTO, self._bundle, self._provider)
        manifest = self._bundle.manifest.in_int8(arithmetic.int8)
        component = manifest.component(_ROLE)
        self._bundle.check_files(*component.files)
        self._session = GraphSession(
            self._bundle.root,
            _ROLE,
            component,
            self._provider,
            self._threads,
            oldest_onnxruntime=manifest.onnxruntime,
        )
        return self._session


def _shrunken(latents: Array) -> Array:
    """Return latents of at most `_MOST_LATENTS` pixels, the mean of what each covers."""
    height, width = latents.shape[2:]
    shrink = (_MOST_LATENTS / (height * width)) ** 0.5
    if shrink >= 1:
        return latents
    size = max(1, int(width * shrink)), max(1, int(height * shrink))
    planes = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BOX)) for plane in latents[0]]
    return np.stack(planes)[None]
