"""A small CLIP tokenizer: byte-level BPE in the two files, vocab.json and merges.txt, that CLIP's own has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

CONTEXT_LENGTH = 77
START = "<|startoftext|>"
END = "<|endoftext|>"
_WORD_END = "</w>"
# Radford et al. 2021's simple_tokenizer.py: contractions, words, single digits, runs of anything else.
_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_MAX_ENTRIES = 1024


def train_vocabulary(texts: Iterable[str], folder: Path) -> None:
    """Learn merges from ``texts`` and make ``folder``: files as transformers' CLIPTokenizer reads them."""
    learner = _tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    alphabet = _byte_symbols()
    trainer = trainers.BpeTrainer(
        vocab_size=_MAX_ENTRIES - 2,
        initial_alphabet=[*alphabet, *(symbol + _WORD_END for symbol in alphabet)],
        end_of_word_suffix=_WORD_END,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    merges = merges[: _MAX_ENTRIES - 2 - 2 * len(alphabet)]
    # CLIP's order: bytes, bytes that end a word, merges by rank, the two marks.
    entries = [*alphabet, *(symbol + _WORD_END for symbol in alphabet), *map("".join, merges), START, END]
    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    files = {
        "merges.txt": "\n".join(lines) + "\n",
        "tokenizer_config.json": json.dumps(_TOKENIZER_CONFIG, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(_SPECIAL_TOKENS, indent=2) + "\n",
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False) + "\n",
    }
    for name, content in files.items():
        (unfinished / name).write_text(content, encoding="utf-8")
    unfinished.rename(folder)


class Vocabulary:
    """Turns prompts into the ids that the text encoder takes."""

    def __init__(self, folder: Path) -> None:
        """Read vocab.json and merges.txt from ``folder``; raises FileNotFoundError when they are not there."""
        entries: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
        merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
        model = models.BPE(entries, merges, end_of_word_suffix=_WORD_END, continuing_subword_prefix="", unk_token=END)
        self._tokenizer = _tokenizer(model)
        self._start, self._end = entries[START], entries[END]
        self.size = len(entries)

    def encode(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return ids int64 [texts, 77]: start mark, text (cut if too long), end mark, padded with end marks."""
        ids = np.full((len(texts), CONTEXT_LENGTH), self._end, np.int64)
        ids[:, 0] = self._start
        for row, encoding in zip(ids, self._tokenizer.encode_batch(list(texts)), strict=True):
            words = encoding.ids[: CONTEXT_LENGTH - 2]
            row[1 : 1 + len(words)] = words
        return ids


def _tokenizer(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, the printable bytes first (as CLIP numbers them)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


_SPECIAL_TOKENS = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
_TOKENIZER_CONFIG = {
    "tokenizer_class": "CLIPTokenizer",
    "model_max_length": CONTEXT_LENGTH,
    "do_lower_case": True,
    "add_prefix_space": False,
    "errors": "replace",
    **_SPECIAL_TOKENS,
}
