"""The models that a server draws with: opened when they are asked for, and closed where memory is short."""

import difflib
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from pocket_diffusion.bundle import MANIFEST_NAME
from pocket_diffusion.errors import InvalidRequestError, PocketDiffusionError
from pocket_diffusion.model.memory import Demand
from pocket_diffusion.pipeline import Pipeline

_MOST_OPEN = 16
"""Pipelines that are remembered: each has its tokenizer and its embeddings in memory, though its networks be closed."""
_SUGGESTED = 3
_SHOWN = 60
_log = logging.getLogger(__name__)

Load = Callable[[Path], Pipeline]
"""Opens a bundle as the server is to draw with it."""


class Models:
    """Pipelines by name. Names from outside are looked up here and never become paths. Safe in any thread."""

    def __init__(self, default: Pipeline, name: str | None = None) -> None:
        """Offer one pipeline, by a name or else by that of what its bundle was made from."""
        self.default = default
        """What draws where no model is named."""
        self.default_name = default.name if name is None else name
        self._folder: Path | None = None
        self._load: Load | None = None
        self._paths: Mapping[str, Path] = {}
        self._open: dict[str, Pipeline] = {self.default_name: default}
        """Those that were opened, the least recently used first."""
        self._lock = threading.RLock()

    @classmethod
    def of_folder(cls, folder: Path, load: Load, default: Path | None = None) -> "Models":
        """Offer the bundles of a folder by the names of their own folders.

        Args:
            folder: whose folders are bundles; others are left alone.
            load: opens one of them.
            default: the bundle that draws where no model is named; None takes the first by name.

        Raises:
            InvalidRequestError: there is no bundle in the folder.
            PocketDiffusionError: see `Pipeline.load`; of the default bundle.

        """
        paths = _bundles(folder)
        if not paths:
            raise InvalidRequestError(
                f"there is no bundle in {folder}: a folder with a {MANIFEST_NAME}, in one that you name with --models; "
                "make one with `pocket-diffusion import`, or name another folder"
            )
        path = next(iter(paths.values())) if default is None else default
        models = cls(load(path), path.resolve().name)
        models._folder, models._load, models._paths = folder, load, paths
        return models

    @property
    def names(self) -> list[str]:
        """All names, the default's first."""
        return [self.default_name, *(name for name in self._paths if name != self.default_name)]

    @property
    def opened(self) -> Mapping[str, Pipeline]:
        """Those that were opened, by name."""
        return dict(self._open)

    def refresh(self) -> None:
        """Look anew for bundles, and for what prompts may name beside them."""
        if self._folder is not None:
            self._paths = _bundles(self._folder)
        with self._lock:
            for pipeline in self._open.values():
                pipeline.adapters.refresh()

    def open(self, name: str | None = None) -> Pipeline:
        """Return a pipeline by its name, the default one without; the first time takes a moment.

        Raises:
            InvalidRequestError: the name is not known, or the bundle cannot be opened.

        """
        name = self.default_name if name is None else name
        with self._lock:
            pipeline = self._open.pop(name) if name in self._open else self._opened(name)
            self._open[name] = pipeline
            return pipeline

    def make_room(self, pipeline: Pipeline, demand: Demand) -> None:
        """Close other models, the least recently asked for first, until a picture has the memory that it likes.

        It is for whoever draws, between two drawings.
        """
        with self._lock:
            for name in [name for name in self._open if name != self.default_name][:-_MOST_OPEN]:
                self._open.pop(name).close()
            for other in [one for one in self._open.values() if one is not pipeline and one.is_loaded]:
                if pipeline.components.is_comfortable(demand):
                    return
                other.close()

    def close(self) -> None:
        """Give back the memory of all networks; they are loaded again when they are needed."""
        with self._lock:
            for pipeline in self._open.values():
                pipeline.close()

    def _opened(self, name: str) -> Pipeline:
        path = self._paths.get(name)
        if path is None or self._load is None:
            names = self.names
            near = difflib.get_close_matches(name[:_SHOWN], names, _SUGGESTED) or names[:_SUGGESTED]
            raise InvalidRequestError(
                f"model {name[:_SHOWN]!a} is not known; there are {len(names)}, such as {', '.join(near)}"
                if len(names) > 1
                else f"model {name[:_SHOWN]!a} is not known; the one here is {self.default_name!a}"
            )
        try:
            return self._load(path)
        except (PocketDiffusionError, OSError) as error:
            _log.warning("model %s: %s", name, error)
            raise InvalidRequestError(f"model {name!a} cannot be opened; the server's log says why") from None


def _bundles(folder: Path) -> dict[str, Path]:
    """Return the bundles of a folder by name, in alphabetical order."""
    try:
        found = [path for path in folder.iterdir() if path.name.isprintable() and (path / MANIFEST_NAME).is_file()]
    except OSError as error:
        raise InvalidRequestError(f"the folder of models {folder} cannot be read ({error.strerror})") from None
    return {path.name: path for path in sorted(found)}
