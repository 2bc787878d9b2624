"""From prompts to contexts: chunks, weights, schedules, and what is not encoded twice."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pocket_diffusion.bundle import TokenizerSpec
from pocket_diffusion.drawing.conditioning import MAX_CHUNKS, MAX_ENCODED, Conditioner
from pocket_diffusion.drawing.prompt import PromptTruncatedWarning, PromptWarning
from pocket_diffusion.drawing.tokenizer import ClipTokenizer
from pocket_diffusion.errors import InvalidRequestError

CLIP_FILES = Path(__file__).parents[2] / "data" / "clip"
START, END, PAD = 49406, 49407, 0  # Stable Diffusion 2's padding, so that a mistaken one shows
SPEC = TokenizerSpec(vocab="vocab.json", merges="merges.txt", max_tokens=77, start_id=START, end_id=END, pad_id=PAD)
TOKENIZER = ClipTokenizer(CLIP_FILES / "vocab.json", CLIP_FILES / "merges.txt", SPEC)
DIM = 4
COMMA = TOKENIZER.tokens(",")[0]
A = TOKENIZER.tokens("a")[0]

Ids = NDArray[np.int64]


class Encoder:
    """Stands in for a text encoder: a vector for each id and place, so that contexts tell what was encoded."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.vectors = generator.normal(0.3, 1, (END + 1, DIM)).astype(np.float32)
        self.places = generator.uniform(0.5, 1.5, (SPEC.max_tokens, 1)).astype(np.float32)
        self.batches: list[list[list[int]]] = []

    def __call__(self, ids: Ids, clip_skip: int) -> NDArray[np.float32]:
        assert ids.dtype == np.int64
        self.batches.append(ids.tolist())
        return self.vectors[ids] * self.places * np.float32(clip_skip)

    @property
    def encoded(self) -> list[list[int]]:
        return [ids for batch in self.batches for ids in batch]


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def conditioner(encoder: Encoder) -> Conditioner:
    return Conditioner(TOKENIZER, encoder, max_chunks=MAX_CHUNKS)


def framed(tokens: list[int]) -> list[int]:
    return [START, *tokens, END, *[PAD] * (75 - len(tokens))]


def chunks(encoder: Encoder, context: NDArray[np.float32]) -> list[list[int]]:
    """Return the tokens of each chunk of a context that no weights were applied to."""
    found = []
    for chunk in context.reshape(-1, SPEC.max_tokens, DIM):
        ids = next(ids for ids in encoder.encoded if np.array_equal(encoder.vectors[ids] * encoder.places, chunk))
        found.append(ids[1 : ids.index(END)])
    return found


@pytest.mark.parametrize("text", ["", "a lake under snowy mountains", "A lake, b: c | d <e> 🏔️", "a " * 75])
def test_a_prompt_of_one_chunk_is_framed_as_diffusers_does(
    conditioner: Conditioner, encoder: Encoder, text: str
) -> None:
    context = conditioner.condition(text, steps=3).at(2)
    assert encoder.batches == [TOKENIZER.frame(TOKENIZER.tokens(text)).tolist()] == [[framed(TOKENIZER.tokens(text))]]
    assert (context.shape, context.dtype) == ((1, 77, DIM), np.float32)
    np.testing.assert_array_equal(context, encoder(TOKENIZER.frame(TOKENIZER.tokens(text)), 1))


def test_clip_skip_reaches_the_text_encoder(conditioner: Conditioner, encoder: Encoder) -> None:
    once = conditioner.condition("a lake", steps=1).at(0)
    np.testing.assert_array_equal(conditioner.condition("a lake", steps=1, clip_skip=2).at(0), 2 * once)


# Chunks


def test_a_long_prompt_is_read_in_chunks(conditioner: Conditioner, encoder: Encoder) -> None:
    context = conditioner.condition("a " * 160, steps=1).at(0)
    assert context.shape == (1, 3 * 77, DIM)
    assert chunks(encoder, context) == [[A] * 75, [A] * 75, [A] * 10]


@pytest.mark.parametrize(
    ("before", "after", "lengths"),
    [
        (55, 20, [56, 21]),  # the comma is the 20th token from the end
        (54, 21, [75, 2]),  # the 21st: too far
        (74, 3, [75, 3]),
    ],
)
def test_a_chunk_ends_at_a_comma_among_its_last_twenty_tokens(
    conditioner: Conditioner, encoder: Encoder, before: int, after: int, lengths: list[int]
) -> None:
    context = conditioner.condition("a " * before + "," + " a" * (after + 1), steps=1).at(0)
    lengths[-1] += before + after + 2 - sum(lengths)
    assert [len(tokens) for tokens in chunks(encoder, context)] == lengths


def test_a_comma_that_has_no_room_begins_the_next_chunk(conditioner: Conditioner, encoder: Encoder) -> None:
    context = conditioner.condition("a " * 60 + "," + " a" * 14 + ", a", steps=1).at(0)
    assert chunks(encoder, context) == [[A] * 60 + [COMMA] + [A] * 14, [COMMA, A]]


def test_the_nearest_comma_is_taken(conditioner: Conditioner, encoder: Encoder) -> None:
    context = conditioner.condition("a " * 60 + ", a a a, " + "a " * 20, steps=1).at(0)
    assert chunks(encoder, context) == [[A] * 60 + [COMMA, A, A, A, COMMA], [A] * 20]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a BREAK a a", [[A], [A, A]]),
        ("a BREAK", [[A]]),
        ("BREAK a", [[], [A]]),
        ("a BREAK BREAK a", [[A], [], [A]]),
        ("a BREAK BREAK", [[A], []]),
        ("BREAK", [[]]),
        ("a " * 76 + "BREAK a", [[A] * 75, [A], [A]]),
    ],
)
def test_break_ends_a_chunk(conditioner: Conditioner, encoder: Encoder, text: str, expected: list[list[int]]) -> None:
    assert chunks(encoder, conditioner.condition(text, steps=1).at(0)) == expected


@pytest.mark.parametrize(
    ("most", "kept", "limit"), [(1, 75, "77 tokens"), (2, 150, "2 chunks of 77 tokens")], ids=["one", "two"]
)
def test_what_has_no_room_is_dropped_with_a_warning(encoder: Encoder, most: int, kept: int, limit: str) -> None:
    conditioner = Conditioner(TOKENIZER, encoder, max_chunks=most)
    text = "a " * kept + r"\(hills\), (sky)"
    (warning,) = conditioner.warnings(text, 1)
    assert isinstance(warning, PromptTruncatedWarning)
    assert str(warning) == f"the prompt is longer than {limit}; dropped: '(hills), sky'; shorten it"
    context = conditioner.condition(text, steps=1).at(0)
    assert chunks(encoder, context) == [[A] * 75] * most


def test_the_last_chunk_is_filled_to_the_end(encoder: Encoder) -> None:
    text = "a " * 70 + ", supercalifragilisticexpialidocious"
    Conditioner(TOKENIZER, encoder, max_chunks=1).condition(text, steps=1)
    assert encoder.encoded == TOKENIZER.frame(TOKENIZER.tokens(text)).tolist()
    assert len(TOKENIZER.tokens(text)) > 75


def test_sections_that_have_no_room_are_dropped_with_a_warning(encoder: Encoder) -> None:
    conditioner = Conditioner(TOKENIZER, encoder, max_chunks=1)
    assert [str(warning) for warning in conditioner.warnings("a BREAK b (c) BREAK d", 1, "negative prompt")] == [
        "the negative prompt is longer than 77 tokens; dropped: 'b c d'; shorten it"
    ]
    assert conditioner.warnings("a BREAK BREAK BREAK BREAK", 1) == []
    assert conditioner.warnings("a " * 75 + "  \n ", 1) == []


def test_a_rest_is_found_behind_text_of_other_weight(encoder: Encoder) -> None:
    (warning,) = Conditioner(TOKENIZER, encoder, max_chunks=1).warnings(f"({'a ' * 74}:1.2) lake sky [hill]", 1)
    assert "dropped: 'sky hill';" in str(warning)


def test_a_long_rest_is_shown_in_part_and_once(encoder: Encoder) -> None:
    (warning,) = Conditioner(TOKENIZER, encoder, max_chunks=1).warnings(", " * 1000 + "[b|c]", 20)
    assert "…" in str(warning)
    assert len(str(warning)) < 200


# Weights


def test_weights_multiply_the_vectors_and_keep_the_mean(conditioner: Conditioner, encoder: Encoder) -> None:
    context = conditioner.condition("a (lake:1.5) and [hills]", steps=1).at(0)
    ids = framed([token for text in ("a ", "lake", " and ", "hills") for token in TOKENIZER.tokens(text)])
    weights = np.ones(77)
    weights[2], weights[4] = 1.5, 1 / 1.1
    output = (encoder.vectors[ids] * encoder.places).astype(np.float64)
    expected = output * weights[:, None]
    expected *= output.mean() / expected.mean()
    assert encoder.encoded == [ids]
    assert context.dtype == np.float32
    # Two roundings of a weight and two of a product in float32 are 4 · 6e-8.
    np.testing.assert_allclose(context[0], expected, rtol=3e-7)
    assert context.mean(dtype=np.float64) == pytest.approx(output.mean(), rel=1e-6)


def test_weights_change_nothing_of_other_chunks(conditioner: Conditioner, encoder: Encoder) -> None:
    context = conditioner.condition("(a:2) BREAK b", steps=1).at(0)
    np.testing.assert_array_equal(context[:, 77:], encoder(TOKENIZER.frame(TOKENIZER.tokens("b")), 1))
    assert not np.allclose(context[:, :77], encoder(TOKENIZER.frame([A]), 1), rtol=1e-2)


@pytest.mark.parametrize("text", ["(a lake:1)", "((a lake:2):0.5)", "([:a lake:0]:1.0)"])
def test_a_weight_of_one_leaves_the_output_as_it_is(conditioner: Conditioner, encoder: Encoder, text: str) -> None:
    context = conditioner.condition(text, steps=1).at(0)
    np.testing.assert_array_equal(context, encoder(TOKENIZER.frame(TOKENIZER.tokens("a lake")), 1))


def test_a_mean_of_zero_is_not_divided_by() -> None:
    conditioner = Conditioner(
        TOKENIZER, lambda ids, _: np.where(ids == A, 1, 0)[..., None].astype(np.float32), max_chunks=1
    )
    np.testing.assert_array_equal(conditioner.condition("(a:0)", steps=1).at(0), 0)


# Schedules


def test_each_step_has_the_context_of_its_text(conditioner: Conditioner, encoder: Encoder) -> None:
    conditioning = conditioner.condition("a [lake:[hill|sky]:0.5]", steps=6)
    assert conditioning.by_step == (0, 0, 0, 1, 2, 1)
    assert len(conditioning.contexts) == 3
    for step, text in {0: "a lake", 2: "a lake", 3: "a sky", 4: "a hill", 5: "a sky"}.items():
        assert chunks(encoder, conditioning.at(step)) == [TOKENIZER.tokens(text)]


def test_a_text_that_is_shorter_at_some_steps_is_filled_up_with_empty_chunks(
    conditioner: Conditioner, encoder: Encoder
) -> None:
    conditioning = conditioner.condition("[a: BREAK a a:1]", steps=2)
    assert chunks(encoder, conditioning.at(0)) == [[A], []]
    assert chunks(encoder, conditioning.at(1)) == [[], [A, A]]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("[" + "|".join("abcdefgh"[i % 8] * (i // 8 + 1) for i in range(MAX_ENCODED + 1)) + "]", MAX_ENCODED + 1),
        (" BREAK " * 31 + "[a|b|c|d|e]", 5),
    ],
    ids=["texts", "chunks"],
)
def test_a_prompt_that_changes_too_often_is_refused(
    conditioner: Conditioner, encoder: Encoder, text: str, steps: int
) -> None:
    with pytest.raises(InvalidRequestError, match=r"^the prompt changes too often: .* more than 128 chunks of 75 tok"):
        conditioner.condition(text, steps=steps)
    assert encoder.batches == []
    assert len(conditioner.condition(text, steps=steps - 1).contexts) == steps - 1


def test_a_prompt_whose_variants_are_very_long_is_refused_before_it_is_cut(encoder: Encoder) -> None:
    conditioner = Conditioner(TOKENIZER, encoder, max_chunks=1)
    with pytest.raises(InvalidRequestError, match=r"changes too often: .* more than 250,000 characters together"):
        conditioner.warnings("😀" * 3900 + "[a|b][c|d|e][f|g|h|i|j][k|l|m|n|o|p|q]", 100)


# What is not encoded twice


def test_a_prompt_is_not_encoded_again(conditioner: Conditioner, encoder: Encoder) -> None:
    first = [conditioner.condition(text, steps=9).contexts for text in ("a [lake|(hill:1.2)]", "")]
    encoder.batches.clear()
    again = [conditioner.condition(text, steps=9).contexts for text in ("a [lake|(hill:1.2)]", "")]
    assert encoder.batches == []
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_weights_need_no_encoding(conditioner: Conditioner, encoder: Encoder) -> None:
    conditioner.condition("a (lake:1.2)", steps=1)
    changed = conditioner.condition("a (lake:1.3)", steps=1).at(0)
    assert len(encoder.encoded) == 1
    np.testing.assert_array_equal(
        changed, Conditioner(TOKENIZER, encoder, max_chunks=1).condition("a (lake:1.3)", steps=1).at(0)
    )


def test_another_clip_skip_is_encoded(conditioner: Conditioner, encoder: Encoder) -> None:
    for clip_skip in (1, 2, 1, 2):
        conditioner.condition("a lake", steps=1, clip_skip=clip_skip)
    assert len(encoder.batches) == 2


def test_who_changes_a_context_changes_no_later_one(conditioner: Conditioner) -> None:
    first = conditioner.condition("a lake", steps=1).at(0)
    before = first.copy()
    first[:] = 0
    np.testing.assert_array_equal(conditioner.condition("a lake", steps=1).at(0), before)


def test_a_prompts_chunks_are_encoded_together_in_batches_of_sixteen(
    conditioner: Conditioner, encoder: Encoder
) -> None:
    conditioner.condition("a BREAK a a BREAK a", steps=1)
    assert sorted(encoder.batches[0]) == sorted([framed([A]), framed([A, A])])
    conditioner.condition(" BREAK ".join("a " * i for i in range(1, 21)), steps=1)
    assert [len(batch) for batch in encoder.batches] == [2, 16, 4]


def test_contexts_do_not_go_by_what_was_encoded_before() -> None:
    class Threaded(Encoder):
        """Its last bits go by the size of the batch, as ONNX Runtime's do with several threads."""

        def __call__(self, ids: Ids, clip_skip: int) -> NDArray[np.float32]:
            return super().__call__(ids, clip_skip) * np.float32(1 + 1e-6 * len(ids))

    alone, after = (Conditioner(TOKENIZER, Threaded(), max_chunks=MAX_CHUNKS) for _ in range(2))
    after.condition("a lake", steps=1)
    contexts = [each.condition("a lake BREAK a boat", steps=1).at(0) for each in (alone, after)]
    np.testing.assert_array_equal(*contexts)


def test_the_least_recently_used_are_forgotten(conditioner: Conditioner, encoder: Encoder) -> None:
    conditioner.condition("", steps=1)
    conditioner.condition("old", steps=1)
    for i in range(1, 32):
        conditioner.condition("", steps=1)
        conditioner.condition("a " * i, steps=1)
    encoder.batches.clear()
    conditioner.condition("", steps=1)
    assert encoder.batches == []
    conditioner.condition("old", steps=1)
    assert len(encoder.batches) == 1


# Warnings


def test_warnings_are_known_before_anything_is_encoded(encoder: Encoder) -> None:
    conditioner = Conditioner(TOKENIZER, encoder, max_chunks=1)
    text = "(a <lora:film:1> [b:c:30]" + ", a" * 80
    said = conditioner.warnings(text, 20, "negative prompt")
    assert encoder.batches == []
    assert [type(warning) for warning in said] == [PromptWarning] * 3 + [PromptTruncatedWarning]
    assert all("negative prompt" in str(warning) and "\n" not in str(warning) for warning in said)


def test_a_good_prompt_is_not_warned_about(conditioner: Conditioner) -> None:
    assert conditioner.warnings("a (lake:1.2), [hill:sky:0.5] BREAK [b|c] " + "a, " * 200, 20) == []


@pytest.mark.parametrize("max_chunks", [1, MAX_CHUNKS])
def test_a_learned_word_of_many_tokens_stays_in_one_chunk(encoder: Encoder, max_chunks: int) -> None:
    tokenizer = ClipTokenizer(CLIP_FILES / "vocab.json", CLIP_FILES / "merges.txt", SPEC)
    word = tuple(range(100, 110))
    tokenizer.learn({"catstyle": word})
    conditioner = Conditioner(tokenizer, encoder, max_chunks=max_chunks)
    context = conditioner.condition("a " * 70 + "catstyle a", steps=1).at(0)
    found = chunks(encoder, context)
    assert found == [[A] * 70, [*word, A]][:max_chunks]
    if max_chunks == 1:
        (warning,) = conditioner.warnings("a " * 70 + "catstyle a", 1)
        assert "dropped: 'catstyle a'" in str(warning)


def test_what_was_encoded_is_forgotten_on_demand(conditioner: Conditioner, encoder: Encoder) -> None:
    for _ in range(2):
        conditioner.condition("a lake", steps=1)
    assert len(encoder.batches) == 1
    conditioner.forget()
    conditioner.condition("a lake", steps=1)
    assert len(encoder.batches) == 2
