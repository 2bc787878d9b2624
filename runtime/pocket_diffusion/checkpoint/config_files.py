"""The small files of a checkpoint: read up to a size that none exceeds, and blamed when they make no sense."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pocket_diffusion.errors import CheckpointError, CheckpointNotFoundError
from pocket_diffusion.files import open_regular, read_regular

_MOST_BYTES = 2**20  # Stable Diffusion's have 2 kB


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """Return the object that a config file holds; `missing` says what it means that there is none.

    Raises:
        CheckpointNotFoundError: there is no such file.
        CheckpointError: it is damaged, or far larger than any config.

    """
    try:
        content = json.loads(read_regular(path, _MOST_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointNotFoundError(f"{missing}: there is no {path}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; fetch it again") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; fetch it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no object; fetch it again")
    return content


@contextlib.contextmanager
def blamed_on(path: Path) -> Iterator[None]:
    """Name the file when what it says makes no sense."""
    try:
        yield
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{path} is damaged: it does not say {error}; fetch it again") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}; fetch it again") from None


def read_license(card: Path) -> str | None:
    """Return the license that a model card's front matter names."""
    try:
        with open_regular(card) as file:
            text = file.read(_MOST_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    front_matter = text.split("---")[1] if text.startswith("---") else ""
    found = re.search(r"^license:\s*(\S+)\s*$", front_matter, re.MULTILINE)
    return found[1] if found else None
