"""From what the user typed to what the text encoder reads."""

import warnings

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.tokenizer import ClipTokenizer

MAX_CHARACTERS = 20_000
_SHOWN = 80


class PromptTruncatedWarning(UserWarning):
    """A prompt was longer than the text encoder reads; the rest was dropped."""


def check_prompt(text: object, name: str = "prompt") -> None:
    """Refuse what cannot be a prompt; an empty one is for the caller to judge.

    Raises:
        InvalidRequestError: not text, or too long.

    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"the {name} must be text, not {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise InvalidRequestError(
            f"the {name} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read; shorten it"
        )
    for what, found in (("a NUL character", "\0" in text), ("half a surrogate pair", not _encodable(text))):
        if found:
            raise InvalidRequestError(f"the {name} contains {what}, which is not text; remove it")


def encode(text: str, tokenizer: ClipTokenizer, name: str = "prompt") -> NDArray[np.int64]:
    """Return token ids `[1, max_tokens]`, warning with what was dropped where the text is too long.

    Raises:
        InvalidRequestError: see `check_prompt`.

    """
    check_prompt(text, name)
    if warning := truncation(text, tokenizer, name):
        warnings.warn(warning, PromptTruncatedWarning, stacklevel=3)
    return tokenizer.frame(tokenizer.tokens(text))


def truncation(text: str, tokenizer: ClipTokenizer, name: str = "prompt") -> str | None:
    """Return what is to be said of a text that is longer than the text encoder reads, None of any other."""
    dropped = tokenizer.beyond_limit(text).strip()
    if not dropped:
        return None
    shown = dropped if len(dropped) <= _SHOWN else dropped[:_SHOWN] + "…"
    return f"the {name} is longer than {tokenizer.spec.max_tokens} tokens; dropped: {shown!r}; shorten it"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
