"""Text to token ids as CLIP's tokenizer does it."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocket_diffusion.bundle import TokenizerSpec
from pocket_diffusion.drawing.tokenizer import ClipTokenizer
from pocket_diffusion.errors import BundleFormatError

CLIP_FILES = Path(__file__).parents[2] / "data" / "clip"
START, END = 49406, 49407
SPEC = TokenizerSpec(vocab="vocab.json", merges="merges.txt", max_tokens=77, start_id=START, end_id=END, pad_id=END)
TOKENIZER = ClipTokenizer(CLIP_FILES / "vocab.json", CLIP_FILES / "merges.txt", SPEC)

TRICKY = [
    "",
    " ",
    "a lake under snowy mountains at sunset",
    "A LAKE\tUnder\n\n  Snowy   mountains ",
    "it's we'll they're I'd don't 'S 's",
    "1234567 3.14 10**6 x86_64",
    "(a:1.2), [b], {c}; <d>!!! --- ... $#@%^&*",
    "naïve café Ångström ﬁne ǅ İstanbul ẞ",
    "e\u0301 \u0041\u030a",  # to be composed
    "山水画 富士山 ภูเขา हिमालय горы",
    "🏔️🌅 👩‍👩‍👧‍👦 🇨🇭",
    "a\u00a0b\u2003c\u3000d\u200be",
    "<|startoftext|>a<|endoftext|> b",
    "<|ENDOFTEXT|>",
    "supercalifragilisticexpialidocious" * 9,
    "a lake, " * 60,
    "\x01\x7f\ufffd",
]


@pytest.mark.parametrize("text", TRICKY)
def test_ids_are_those_of_transformers(text: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPTokenizer.from_pretrained(CLIP_FILES, model_max_length=77, pad_token="<|endoftext|>")
    expected = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
    assert TOKENIZER.frame(TOKENIZER.tokens(text)).tolist() == [expected]


def test_known_ids() -> None:
    # a photo of a cat, as in CLIP's paper's repository
    assert TOKENIZER.tokens("a photo of a cat") == [320, 1125, 539, 320, 2368]


@given(st.lists(st.integers(0, END), max_size=200))
def test_a_frame_is_as_long_as_the_text_encoder_reads(tokens: list[int]) -> None:
    framed = TOKENIZER.frame(tokens)
    assert framed.shape == (1, SPEC.max_tokens)
    assert framed.dtype == "int64"
    kept = tokens[: SPEC.max_tokens - 2]
    assert framed[0].tolist() == [START, *kept, *[END] * (SPEC.max_tokens - 1 - len(kept))]


@settings(max_examples=50)
@given(st.text(max_size=300))
def test_tokens_begin_where_their_text_does(text: str) -> None:
    ids, starts = TOKENIZER.tokens_and_starts(text)
    assert ids == TOKENIZER.tokens(text)
    assert len(starts) == len(ids)
    assert starts == sorted(starts)
    assert all(0 <= start < len(text) for start in starts)


def test_starts_count_the_characters_of_the_text_as_it_was() -> None:
    text = "a  \u0041\u030a 🏔️, LAKE"
    ids, starts = TOKENIZER.tokens_and_starts(text)
    assert text[starts[1] :] == text[3:]  # composed to one character
    assert text[starts[ids.index(TOKENIZER.comma_id)] :] == ", LAKE"
    assert text[starts[-1] :] == "LAKE"


def test_the_tokens_of_a_word_begin_inside_it() -> None:
    word = "supercalifragilisticexpialidocious"
    _, starts = TOKENIZER.tokens_and_starts(f"a {word}")
    assert starts[:2] == [0, 2]
    assert all(2 < start < len(word) for start in starts[2:])


def test_the_comma_is_known_where_there_is_one(tmp_path: Path) -> None:
    assert [TOKENIZER.comma_id] == TOKENIZER.tokens(",")
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "<|startoftext|>": 1, "<|endoftext|>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    spec = TokenizerSpec(vocab="v", merges="m", max_tokens=77, start_id=1, end_id=2, pad_id=2)
    assert ClipTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt", spec).comma_id is None


def test_ids_may_leave_gaps(tmp_path: Path) -> None:
    """An export takes such a vocabulary, so that drawing has to."""
    (tmp_path / "vocab.json").write_text(json.dumps({"a</w>": 7, "a": 8, "<|startoftext|>": 9, "<|endoftext|>": 11}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    spec = TokenizerSpec(vocab="v", merges="m", max_tokens=77, start_id=9, end_id=11, pad_id=11)
    assert ClipTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt", spec).tokens("a") == [7]


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    spec = TokenizerSpec(vocab="v", merges="m", max_tokens=77, start_id=START, end_id=END, pad_id=END + 1)
    with pytest.raises(BundleFormatError, match="has no token 49408, which the bundle frames a prompt with"):
        ClipTokenizer(CLIP_FILES / "vocab.json", CLIP_FILES / "merges.txt", spec)


@pytest.mark.parametrize(
    ("vocab", "merges", "why"),
    [
        ("not json", "#version: 0.2\n", "not CLIP's two files"),
        ("[]", "#version: 0.2\n", "not CLIP's two files"),
        ('{"a": 0}', "#version: 0.2\na b c d\n", "not CLIP's two files"),
        (json.dumps({"a": 0, "a</w>": 1}), "#version: 0.2\n", "lacks '<|startoftext|>'"),
        (json.dumps({"a": 0, "<|startoftext|>": 1}), "#version: 0.2\n", "lacks '<|endoftext|>'"),
    ],
)
def test_files_that_are_not_clips_are_refused(tmp_path: Path, vocab: str, merges: str, why: str) -> None:
    (tmp_path / "vocab.json").write_text(vocab)
    (tmp_path / "merges.txt").write_text(merges)
    with pytest.raises(BundleFormatError) as caught:
        ClipTokenizer(tmp_path / "vocab.json", tmp_path / "merges.txt", SPEC)
    assert why in str(caught.value)


def test_learned_words_are_read_as_their_ids_wherever_they_stand() -> None:
    tokenizer = ClipTokenizer(CLIP_FILES / "vocab.json", CLIP_FILES / "merges.txt", SPEC)
    tokenizer.learn({"catstyle": (90000, 90001), "catstyle-2": (90002,), "<cat-toy>": (90003,)})
    a, comma, lake = (TOKENIZER.tokens(text) for text in ("a", ",", "lake"))
    for text, ids in (
        ("a CatStyle, lake", [*a, 90000, 90001, *comma, *lake]),
        ("catstyle-2", [90002]),
        ("a<cat-toy>,lake", [*a, 90003, *comma, *lake]),
    ):
        assert tokenizer.tokens(text) == ids
    for text in ("mycatstyle", "catstyles", "cat style", "catstyl"):  # are other words
        assert tokenizer.tokens(text) == TOKENIZER.tokens(text)
    assert tokenizer.tokens_and_starts("a  catstyle lake")[1] == [0, 3, 3, 12]
    assert tokenizer.learned_in("CATSTYLE, a <cat-toy>, catstyle") == ["catstyle", "<cat-toy>"]
    tokenizer.learn({})
    assert tokenizer.tokens("a catstyle") == TOKENIZER.tokens("a catstyle")


def test_knows_the_words_that_are_one_token() -> None:
    assert TOKENIZER.knows("lake") and TOKENIZER.knows("Lake")
    assert not TOKENIZER.knows("catstyle") and not TOKENIZER.knows("<lake>")
