"""What the U-Net is told of a prompt, step by step."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.drawing.prompt import PromptTruncatedWarning, PromptWarning, read_prompt, shorten
from pocket_diffusion.drawing.prompt_grammar import Part, Sections
from pocket_diffusion.drawing.tokenizer import ClipTokenizer
from pocket_diffusion.errors import InvalidRequestError

Array = NDArray[np.float32]
Encode = Callable[[NDArray[np.int64], int], Array]
"""(ids `[n, max_tokens]`, clip skip) → what the text encoder makes of them, `[n, max_tokens, dim]`."""

MAX_CHUNKS = 32
"""How many chunks of a prompt are read where the U-Net takes contexts of any length."""
MAX_ENCODED = 128
"""How many chunks the contexts of one prompt may have together; with 77 tokens of 768 numbers they take 30 MB."""
MAX_READ = 250_000
"""How many characters all variants of a prompt may have together."""
_BATCH = 16
_REMEMBERED = 32
"""Chunks of the prompts that were encoded last."""
_COMMA_BACKTRACK = 20
"""A chunk ends early at a comma among its last 20 tokens, so that a phrase is not torn apart; A1111's default."""


@dataclass(frozen=True)
class Conditioning:
    """A prompt's contexts, and which of them each step is drawn with."""

    contexts: tuple[Array, ...]
    """Each `[1, max_tokens · chunks, dim]`; all have the same shape."""
    by_step: tuple[int, ...]
    """For each step an index of `contexts`."""

    def at(self, step: int) -> Array:
        """Return the context of a step, counted from 0."""
        return self.contexts[self.by_step[step]]


_Ids = tuple[int, ...]


class _Token(NamedTuple):
    id: int
    weight: float
    start: int
    """Where it begins in the text of its section."""


class _Chunk(NamedTuple):
    """What the text encoder reads at once, without the tokens that frame it."""

    ids: _Ids = ()
    weights: tuple[float, ...] = ()


_Chunks = tuple[_Chunk, ...]


@dataclass(frozen=True)
class _Plan:
    """A prompt, cut into chunks but not encoded."""

    variants: list[_Chunks]
    by_step: tuple[int, ...]
    warnings: list[PromptWarning]


class Conditioner:
    """Reads prompts, and keeps what the text encoder made of the last ones.

    The order of operations is A1111's: schedules and alternations give the text of a step, its tokens are cut into
    chunks, each chunk is encoded alone, and weights are applied to the text encoder's output.
    """

    def __init__(self, tokenizer: ClipTokenizer, encode: Encode, *, max_chunks: int, takes_loras: bool = False) -> None:
        """Read at most `max_chunks` chunks of a prompt; the rest is dropped with a warning.

        With `takes_loras`, prompts may name LoRAs, which whoever draws sees to.
        """
        self._tokenizer = tokenizer
        self._encode = encode
        self._max_chunks = max_chunks
        self._takes_loras = takes_loras
        self._encoded: dict[tuple[tuple[_Ids, ...], int], Mapping[_Ids, Array]] = {}
        """By a prompt's chunks and clip skip, least recently used first: what each chunk became."""

    def condition(self, text: str, *, steps: int, clip_skip: int = 1, name: str = "prompt") -> Conditioning:
        """Return the contexts of a prompt.

        Raises:
            InvalidRequestError: see `prompt.read_prompt`, or the prompt changes more often than is encoded.

        """
        plan = self._plan(text, steps, name)
        chunks = {chunk for variant in plan.variants for chunk in variant}
        encoded = self._encode_all(tuple(sorted({chunk.ids for chunk in chunks})), clip_skip)
        weighted = {chunk: self._weigh(encoded[chunk.ids], chunk.weights) for chunk in chunks}
        contexts = [np.concatenate([weighted[chunk] for chunk in variant])[None] for variant in plan.variants]
        return Conditioning(tuple(contexts), plan.by_step)

    def forget(self) -> None:
        """Keep nothing of what the text encoder made: it has other weights now."""
        self._encoded.clear()

    def warnings(self, text: str, steps: int, name: str = "prompt") -> list[PromptWarning]:
        """Return a warning of each part that is not drawn as it is written; nothing is encoded. Safe in any thread.

        Raises:
            InvalidRequestError: as `condition` does.

        """
        return self._plan(text, steps, name).warnings

    def _plan(self, text: str, steps: int, name: str) -> _Plan:
        prompt = read_prompt(text, steps, name, takes_loras=self._takes_loras)
        found: list[PromptWarning] = [PromptWarning(line) for line in prompt.warnings]
        indices: dict[Sections, int] = {}
        variants: list[_Chunks] = []
        by_step = []
        most, read = 1, 0
        for step in range(steps):
            sections = prompt.at(step)
            if sections not in indices:
                indices[sections] = len(variants)
                read += sum(len(part.text) for section in sections for part in section)
                if read > MAX_READ:
                    raise InvalidRequestError(
                        f"the {name} changes too often: its variants have more than {MAX_READ:,} characters together; "
                        "use fewer schedules and alternations, or a shorter prompt"
                    )
                chunks, dropped = self._cut(sections)
                if dropped and not any(isinstance(warning, PromptTruncatedWarning) for warning in found):
                    found.append(self._truncation(dropped, name))
                variants.append(chunks)
                most = max(most, len(chunks))
                if len(variants) * most > MAX_ENCODED:
                    raise InvalidRequestError(
                        f"the {name} changes too often: its schedules and alternations need more than {MAX_ENCODED} "
                        f"chunks of {self._tokenizer.room} tokens; use fewer of them, or a shorter prompt"
                    )
            by_step.append(indices[sections])
        # As A1111 does: a prompt that is shorter at some steps is filled up with empty chunks.
        variants = [chunks + (_Chunk(),) * (most - len(chunks)) for chunks in variants]
        return _Plan(variants, tuple(by_step), found)

    def _cut(self, sections: Sections) -> tuple[_Chunks, str]:
        """Return at most `max_chunks` chunks, and the text that they have no room for."""
        chunks: list[_Chunk] = []
        dropped: list[str] = []
        for i, section in enumerate(sections):
            tokens = self._tokens(section)
            if not tokens and chunks and i == len(sections) - 1:
                break  # a final BREAK begins no chunk
            for start, end in self._spans(tokens, self._max_chunks - len(chunks)):
                if len(chunks) == self._max_chunks:
                    text = "".join(part.text for part in section)
                    dropped.append(text[tokens[start].start :] if tokens else text)
                    break
                ids, weights, _ = zip(*tokens[start:end], strict=True) if tokens else ((), (), ())
                chunks.append(_Chunk(ids, weights))
        return tuple(chunks), " ".join(dropped).strip()

    def _spans(self, tokens: Sequence[_Token], chunks_left: int) -> Iterator[tuple[int, int]]:
        """Yield where each chunk of a section begins and ends; a section without tokens is one empty chunk."""
        start = 0
        while start == 0 or start < len(tokens):
            end = start + self._tokenizer.room
            chunks_left -= 1
            if chunks_left > 0 and end < len(tokens):  # the last chunk ends with what is dropped, so it is filled
                end = self._behind_comma(tokens, start, end)
            end = self._whole_words(tokens, start, end)
            yield start, end
            start = end

    def _behind_comma(self, tokens: Sequence[_Token], start: int, end: int) -> int:
        """Return the end of a chunk, moved back to behind its last comma where that is near."""
        comma = self._tokenizer.comma_id
        if tokens[end].id == comma:
            return end
        nearby = range(end, max(start, end - _COMMA_BACKTRACK), -1)
        return next((i for i in nearby if tokens[i - 1].id == comma), end)

    def _whole_words(self, tokens: Sequence[_Token], start: int, end: int) -> int:
        """Return the end of a chunk, moved back to the beginning of a learned word that it would tear apart."""
        whole = end
        while start < whole < len(tokens) and tokens[whole].start == tokens[whole - 1].start:
            if not self._tokenizer.is_learned(tokens[whole].id):
                return end
            whole -= 1
        return whole if whole > start else end

    def _tokens(self, section: Iterable[Part]) -> list[_Token]:
        tokens: list[_Token] = []
        offset = 0
        for text, weight in section:
            ids, starts = self._tokenizer.tokens_and_starts(text)
            tokens += [_Token(i, weight, offset + start) for i, start in zip(ids, starts, strict=True)]
            offset += len(text)
        return tokens

    def _truncation(self, dropped: str, name: str) -> PromptTruncatedWarning:
        limit = f"{self._tokenizer.spec.max_tokens} tokens"
        if self._max_chunks > 1:
            limit = f"{self._max_chunks} chunks of {limit}"
        return PromptTruncatedWarning(f"the {name} is longer than {limit}; dropped: {shorten(dropped)!r}; shorten it")

    def _encode_all(self, wanted: tuple[_Ids, ...], clip_skip: int) -> Mapping[_Ids, Array]:
        """Return `[max_tokens, dim]` for each tuple of tokens of a prompt; only those of a new prompt are encoded.

        Batches go by the prompt alone, and never by what is known already: where several threads share the work, the
        last bits of an output depend on how many are encoded together.
        """
        found = self._encoded.pop((wanted, clip_skip), None)
        if found is None:
            found = {}
            for start in range(0, len(wanted), _BATCH):
                batch = wanted[start : start + _BATCH]
                outputs = self._encode(np.concatenate([self._tokenizer.frame(ids) for ids in batch]), clip_skip)
                found.update(zip(batch, outputs, strict=True))
        self._encoded[wanted, clip_skip] = found
        while sum(map(len, self._encoded.values())) > _REMEMBERED:
            del self._encoded[next(iter(self._encoded))]
        return found

    def _weigh(self, output: Array, weights: Sequence[float]) -> Array:
        """Return a chunk's output with each token's vector multiplied by its weight, and the mean as it was.

        A1111's emphasis "Original"; where all weights are 1, the very same array.
        """
        if all(weight == 1 for weight in weights):
            return output
        factors = np.ones((len(output), 1), np.float32)
        factors[1 : 1 + len(weights), 0] = weights
        weighted = output * factors
        mean = float(weighted.mean(dtype=np.float64))
        return weighted * (float(output.mean(dtype=np.float64)) / mean) if mean else weighted
