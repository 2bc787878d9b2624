"""Packages that come with an extra, imported where they are used."""

import importlib
from types import ModuleType

from pocket_diffusion.errors import ExtraMissingError


def need(module: str, extra: str, why: str) -> ModuleType:
    """Import a module of another package.

    Args:
        module: its name.
        extra: what of this package's extras brings it.
        why: what it is needed for, as the beginning of a message.

    Raises:
        ExtraMissingError: it is not installed.

    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ExtraMissingError(
            f'{why}, which needs {error.name}; run `pip install "pocket-diffusion[{extra}]"`'
        ) from None
