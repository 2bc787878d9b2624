"""Prompts: text of a sane length, cut with a warning where it is longer than is read."""

import warnings

import numpy as np
import pytest

from pocket_diffusion import Pipeline
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.prompt import MAX_CHARACTERS, PromptTruncatedWarning, check_prompt, encode


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x" * 2**20, r"has 1,048,576 characters; at most 20,000 are read; shorten it"),
        ("\0" * 100, "contains a NUL character, which is not text; remove it"),
        ("a \udce9 lake", "contains half a surrogate pair, which is not text; remove it"),
        (None, "must be text, not NoneType"),
        (b"a lake", "must be text, not bytes"),
    ],
)
@pytest.mark.parametrize("name", ["prompt", "negative prompt"])
def test_what_is_no_prompt_is_refused(text: object, why: str, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^the {name} {why}$"):
        check_prompt(text, name)


@pytest.mark.parametrize("text", ["", "🏔️🌅 👩‍👩‍👧‍👦", "x" * MAX_CHARACTERS, "\n\t"])
def test_what_is_text_is_let_through(text: str) -> None:
    check_prompt(text)


def test_a_prompt_that_fits_is_not_warned_about(pipeline: Pipeline) -> None:
    limit = pipeline.tokenizer.spec.max_tokens
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = encode("🏔️ a lake", pipeline.tokenizer)
    assert ids.shape == (1, limit)


def test_a_prompt_beyond_the_limit_is_cut_and_the_rest_shown(pipeline: Pipeline) -> None:
    room = pipeline.tokenizer.spec.max_tokens - 2
    text = ", " * room + "mountains"  # a token each, in any vocabulary
    with pytest.warns(PromptTruncatedWarning, match=r"the prompt is longer than \d+ tokens; dropped: 'mountains'"):
        ids = encode(text, pipeline.tokenizer)
    np.testing.assert_array_equal(ids, encode(", " * room, pipeline.tokenizer))


def test_a_word_that_straddles_the_limit_keeps_the_tokens_it_had(pipeline: Pipeline) -> None:
    room = pipeline.tokenizer.spec.max_tokens - 2
    text = "a lake " + ", " * (room - 1 - len(pipeline.tokenizer.tokens("a lake"))) + "qxzjqxzjqxzj"
    with pytest.warns(PromptTruncatedWarning):
        ids = encode(text, pipeline.tokenizer)
    assert ids[0, 1:-1].tolist() == pipeline.tokenizer.tokens(text)[:room]


def test_a_long_rest_is_shown_in_part(pipeline: Pipeline) -> None:
    with pytest.warns(PromptTruncatedWarning) as caught:
        encode(", " * 1000, pipeline.tokenizer, "negative prompt")
    (warning,) = caught
    assert str(warning.message).startswith("the negative prompt")
    assert "…" in str(warning.message)
    assert len(str(warning.message)) < 200
