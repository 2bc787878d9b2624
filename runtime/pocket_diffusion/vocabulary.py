"""What a model of few words can draw: the words that it was trained on, and prompts to begin with."""

import re
from collections.abc import Collection
from typing import Annotated

import msgspec

from pocket_diffusion.strict import Strict

VOCABULARY_NAME = "vocabulary.json"
LARGEST_VOCABULARY = 2**20
"""Bytes of the file. The embedded model's has 2 kB."""
_WORD = re.compile(r"[^\W\d_]+")
_SYNTAX = re.compile(r"<[^<>]*>|\bBREAK\b")
"""What a prompt says to the program and not to the model: names of LoRAs, and where a chunk ends."""

Word = Annotated[str, msgspec.Meta(pattern=r"^[^\W\d_A-Z]{1,40}\Z")]
Example = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Vocabulary(Strict, frozen=True):
    """The content of `vocabulary.json`."""

    words: Annotated[tuple[Word, ...], msgspec.Meta(max_length=20_000)]
    """In lower case, letters alone."""
    examples: Annotated[tuple[Example, ...], msgspec.Meta(max_length=100)]
    """Prompts that the model draws well."""

    def unknown_words(self, prompt: str, learned: Collection[str] = ()) -> list[str]:
        """Return the words of a prompt that the model was not trained on, each once, in lower case.

        `learned` are the words of embeddings, as prompts write them.
        """
        known = {*self.words, *words_in(" ".join(learned))}
        return [word for word in words_in(_SYNTAX.sub(" ", prompt)) if word not in known]


def words_in(text: str) -> list[str]:
    """Return the words of a text, each once, in lower case; signs and digits part them."""
    return list(dict.fromkeys(_WORD.findall(text.lower())))
