"""CLIP's two tokenizer files: what they hold, and where a checkpoint keeps them; for those without, they come along."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import models

from pocket_diffusion.bundle import LARGEST_TOKENIZER, TokenId
from pocket_diffusion.errors import CheckpointError, TokenizerNotFoundError
from pocket_diffusion.files import read_regular

START = "<|startoftext|>"
END = "<|endoftext|>"
"""What OpenAI's CLIP fills a prompt up with."""
OPEN_CLIP_PADDING = "!"
"""OpenCLIP fills up with zeros, and this is the token of that id."""
_CLIP_MERGES = Path(__file__).parent / "clip" / "merges.txt.gz"
_CLIP_TOKENS = 49408
# What stands for each of the 256 bytes: printable characters of Latin-1 for themselves, then others for the rest.
_BYTES = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
_SHOWN = 100  # how much of a line from the file an error shows


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


def read_bpe(vocab: bytes, merges: bytes) -> models.BPE:
    """Return the byte-pair encoding that the contents of `vocab.json` and `merges.txt` describe.

    Raises:
        ValueError: they are not CLIP's two files; says why.

    """
    ids = msgspec.json.decode(vocab, type=dict[str, TokenId])
    for token in (START, END):
        if token not in ids:
            raise ValueError(f"vocab.json lacks {token!r}, which CLIP's has")
    if len(set(ids.values())) < len(ids):
        raise ValueError("vocab.json has two tokens of one id")
    pairs = []
    for line in merges.decode().removesuffix("\n").split("\n"):
        if not line.startswith("#version"):
            pair = tuple(line.removesuffix("\r").split(" "))
            if len(pair) != 2:
                raise ValueError(f"merges.txt has the line {line[:_SHOWN]!a}, which is no pair of tokens")
            pairs.append(pair)
    try:
        return models.BPE(ids, pairs, unk_token=END, end_of_word_suffix="</w>")
    except Exception as error:  # the library raises bare Exception
        raise ValueError(ascii(str(error)[:_SHOWN])[1:-1]) from None  # a token must not steer the terminal


def find_tokenizer(
    given: Path | None, places: Iterable[Path], vocab_size: int, *, padding: str = END
) -> TokenizerFiles:
    """Read the tokenizer from a folder that is given, or else from the first of some places that has one.

    Where none has, CLIP's own stands in, if the text encoder has as many tokens. `padding` is the token that a prompt
    is filled up with where the files do not say it.

    Raises:
        TokenizerNotFoundError: none has; says where it was looked for.
        CheckpointError: files are there, but they are not CLIP's, or not those of a text encoder of `vocab_size`.

    """
    places = list(places) if given is None else [given]
    found = next((files for place in places if (files := _read_place(place, padding)) is not None), None)
    if found is None and given is None and vocab_size == _CLIP_TOKENS:
        found = _clip_files(padding)
    if found is None:
        raise TokenizerNotFoundError(
            f"no tokenizer (vocab.json and merges.txt) in {', '.join(map(str, places))}; "
            "name the folder that has them with --tokenizer"
        )
    if found.size > vocab_size:
        raise CheckpointError(
            f"the tokenizer has {found.size} tokens, the text encoder knows {vocab_size}; name the tokenizer that "
            "belongs to it with --tokenizer"
        )
    return found


def _clip_files(padding: str) -> TokenizerFiles:
    """Return CLIP's files: two tokens a byte, within a word and at its end, one a merge, and the two that frame."""
    merges = gzip.decompress(_CLIP_MERGES.read_bytes())
    pairs = merges.decode().splitlines()[1:]
    tokens = [*_BYTES, *(byte + "</w>" for byte in _BYTES), *(pair.replace(" ", "") for pair in pairs), START, END]
    ids = {token: number for number, token in enumerate(tokens)}
    vocab = json.dumps(ids, ensure_ascii=False)
    return TokenizerFiles(vocab.encode(), merges, _CLIP_TOKENS, ids[START], ids[END], ids[padding])


def _read_place(place: Path, padding: str) -> TokenizerFiles | None:
    if (place / "vocab.json").is_file() and (place / "merges.txt").is_file():
        return _check(place, _read(place / "vocab.json"), _read(place / "merges.txt"), padding)
    if (place / "tokenizer.json").is_file():
        return _check(place, *_split_tokenizer_json(place / "tokenizer.json"), padding)
    return None


def _check(place: Path, vocab: bytes, merges: bytes, padding: str) -> TokenizerFiles:
    try:
        read_bpe(vocab, merges)
    except ValueError as error:
        raise CheckpointError(f"{place}: vocab.json or merges.txt is not CLIP's ({error}); fetch them again") from None
    ids: dict[str, int] = msgspec.json.decode(vocab)
    pad = ids.get(_pad_token(place, padding), ids[END])
    return TokenizerFiles(vocab, merges, 1 + max(ids.values()), ids[START], ids[END], pad)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, LARGEST_TOKENIZER)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None


def _split_tokenizer_json(path: Path) -> tuple[bytes, bytes]:
    """Return the two files' contents from the one that transformers 5 writes in their place."""
    try:
        model = json.loads(_read(path))["model"]
        pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        vocab = json.dumps(model["vocab"], ensure_ascii=False)
        return vocab.encode(), "\n".join(["#version: 0.2", *pairs, ""]).encode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not a byte-pair tokenizer ({error!r}); fetch it again") from None


def _pad_token(place: Path, default: str) -> str:
    """Return what a prompt is filled up with.

    Stable Diffusion 2's folders name OpenCLIP's padding in the first of the files and CLIP's in the second;
    transformers takes the first.
    """
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        try:
            token: Any = json.loads(_read(place / name)).get("pad_token")
        except (ValueError, AttributeError, RecursionError):  # missing or damaged, it says nothing
            continue
        if token is not None:
            return str(token.get("content", default) if isinstance(token, dict) else token)
    return default
