"""CLIP's two tokenizer files, wherever a checkpoint keeps them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocket_diffusion.errors import CheckpointError, TokenizerNotFoundError

_START, _END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class TokenizerFiles:
    """The contents of `vocab.json` and `merges.txt`, and the ids that frame a prompt."""

    vocab: bytes
    merges: bytes
    size: int
    """One more than the largest id."""
    start_id: int
    end_id: int
    pad_id: int


def find_tokenizer(places: Iterable[Path]) -> TokenizerFiles:
    """Read the tokenizer from the first folder that has one.

    Raises:
        TokenizerNotFoundError: none has; says where it was looked for.
        CheckpointError: files are there, but they are not CLIP's.

    """
    places = list(places)
    for place in places:
        if (place / "vocab.json").is_file() and (place / "merges.txt").is_file():
            return _read(place, (place / "vocab.json").read_bytes(), (place / "merges.txt").read_bytes())
        if (place / "tokenizer.json").is_file():
            return _read(place, *_split_tokenizer_json(place / "tokenizer.json"))
    raise TokenizerNotFoundError(
        f"no tokenizer (vocab.json and merges.txt) in {', '.join(map(str, places))}; "
        "name the folder that has them with --tokenizer"
    )


def _read(place: Path, vocab: bytes, merges: bytes) -> TokenizerFiles:
    try:
        ids = json.loads(vocab)
        size = 1 + max(ids.values())
        start, end = ids[_START], ids[_END]
        merges.decode()
        pad = ids.get(_pad_token(place), end)
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{place}: vocab.json or merges.txt is not CLIP's ({error!r}); fetch them again"
        ) from None
    return TokenizerFiles(vocab, merges, size, start, end, pad)


def _split_tokenizer_json(path: Path) -> tuple[bytes, bytes]:
    """Return the two files' contents from the one that transformers 5 writes in their place."""
    try:
        model = json.loads(path.read_bytes())["model"]
        pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        vocab = json.dumps(model["vocab"], ensure_ascii=False)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a byte-pair tokenizer ({error!r}); fetch it again") from None
    return vocab.encode(), "\n".join(["#version: 0.2", *pairs, ""]).encode()


def _pad_token(place: Path) -> str:
    """Return what a prompt is filled up with; Stable Diffusion 1.x takes the end token."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            token: Any = json.loads((place / name).read_bytes()).get("pad_token")
        except (OSError, ValueError, AttributeError):
            continue
        if token is not None:
            return str(token.get("content", _END) if isinstance(token, dict) else token)
    return _END
