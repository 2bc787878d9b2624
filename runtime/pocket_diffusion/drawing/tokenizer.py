"""CLIP's byte-pair encoding: text to token ids."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from pocket_diffusion.bundle import LARGEST_TOKENIZER, TokenizerSpec
from pocket_diffusion.checkpoint.tokenizer_files import END, START, read_bpe
from pocket_diffusion.errors import BundleFormatError
from pocket_diffusion.files import read_regular

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_NOT_BEHIND, _NOT_BEFORE = r"(?<![^\W_])", r"(?![^\W_])"
"""Letters and digits around a learned word make another word of it."""


class ClipTokenizer:
    """transformers' `CLIPTokenizer`, from the same two files."""

    def __init__(self, vocab: Path, merges: Path, spec: TokenizerSpec) -> None:
        """Read `vocab.json` and `merges.txt`; raises BundleFormatError where they are not CLIP's."""
        self.spec = spec
        self._tokenizer = _clip_bpe(vocab, merges)
        self._learned: tuple[re.Pattern[str], Mapping[str, tuple[int, ...]]] | None = None
        self.comma_id: int | None = self._tokenizer.token_to_id(",</w>")
        """None where the vocabulary has no comma."""
        for token in (spec.start_id, spec.end_id, spec.pad_id):
            if self._tokenizer.id_to_token(token) is None:
                raise BundleFormatError(f"{vocab.name} has no token {token}, which the bundle frames a prompt with")

    @property
    def room(self) -> int:
        """How many tokens of a text fit between the start and the end token."""
        return self.spec.max_tokens - 2

    def tokens(self, text: str) -> list[int]:
        """Return the ids of a text, unframed and of any length."""
        return self.tokens_and_starts(text)[0]

    def tokens_and_starts(self, text: str) -> tuple[list[int], list[int]]:
        """Return the ids of a text, unframed and of any length, and where in the text each begins.

        The ids of a learned word all begin where the word does.
        """
        ids: list[int] = []
        starts: list[int] = []

        def read(begin: int, end: int) -> None:
            encoding = self._tokenizer.encode(text[begin:end], add_special_tokens=False)
            ids.extend(encoding.ids)
            starts.extend(begin + start for start, _ in encoding.offsets)

        end = 0
        for begin, behind, learned in self._learned_words(text):
            read(end, begin)
            ids.extend(learned)
            starts.extend([begin] * len(learned))
            end = behind
        read(end, len(text))
        return ids, starts

    def knows(self, word: str) -> bool:
        """Tell whether a word is a single token of the vocabulary."""
        ids: list[int] = self._tokenizer.encode(word, add_special_tokens=False).ids
        return len(ids) == 1 and ids[0] != self._tokenizer.token_to_id(END)

    def learn(self, words: Mapping[str, tuple[int, ...]]) -> None:
        """Read words, given in small letters, as these ids from now on, in whatever letters they are written."""
        longest_first = sorted(words, key=len, reverse=True)
        pattern = "|".join(
            (_NOT_BEHIND if word[0].isalnum() else "") + re.escape(word) + (_NOT_BEFORE if word[-1].isalnum() else "")
            for word in longest_first
        )
        self._learned = (re.compile(pattern, re.IGNORECASE), words) if words else None

    def is_learned(self, token: int) -> bool:
        """Tell whether an id is a learned word's."""
        return self._learned is not None and any(token in ids for ids in self._learned[1].values())

    def learned_in(self, text: str) -> list[str]:
        """Return the learned words that a text has, in small letters."""
        return list(dict.fromkeys(text[begin:end].lower() for begin, end, _ in self._learned_words(text)))

    def _learned_words(self, text: str) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Yield where each begins and ends, and its ids."""
        learned = self._learned  # another thread may give new ones
        if learned is None:
            return
        pattern, words = learned
        for match in pattern.finditer(text):
            ids = words.get(match[0].lower())
            if ids is not None:  # some letters have more than two cases
                yield match.start(), match.end(), ids

    def frame(self, tokens: Sequence[int]) -> NDArray[np.int64]:
        """Return `[1, max_tokens]`: start, as many tokens as fit, end, padding."""
        spec = self.spec
        ids = [spec.start_id, *tokens[: self.room], spec.end_id]
        ids += [spec.pad_id] * (spec.max_tokens - len(ids))
        return np.array([ids], np.int64)


def _clip_bpe(vocab: Path, merges: Path) -> Tokenizer:
    try:
        contents = (read_regular(path, LARGEST_TOKENIZER) for path in (vocab, merges))
        tokenizer = Tokenizer(read_bpe(*contents))
    except (OSError, ValueError) as error:
        raise BundleFormatError(
            f"{vocab.name} and {merges.name} are not CLIP's two files ({error}); export the bundle again"
        ) from None
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (START, END)])
    return tokenizer
