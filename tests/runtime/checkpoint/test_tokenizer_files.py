"""CLIP's tokenizer files: found where a checkpoint keeps them, else the package's own."""

import json
from pathlib import Path

import pytest

from pocket_diffusion.checkpoint.tokenizer_files import OPEN_CLIP_PADDING, find_tokenizer
from pocket_diffusion.errors import CheckpointError, TokenizerNotFoundError

CLIP_FILES = Path(__file__).parents[2] / "data" / "clip"
CLIP_TOKENS = 49408


def write_tokenizer(folder: Path) -> Path:
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({"<|startoftext|>": 49406, "<|endoftext|>": 49407}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def test_clips_files_come_along_byte_for_byte(tmp_path: Path) -> None:
    files = find_tokenizer(None, [tmp_path], CLIP_TOKENS)
    assert files.vocab == (CLIP_FILES / "vocab.json").read_bytes()
    assert files.merges == (CLIP_FILES / "merges.txt").read_bytes()
    assert files == find_tokenizer(CLIP_FILES, [], CLIP_TOKENS)
    assert (files.size, files.start_id, files.end_id, files.pad_id) == (49408, 49406, 49407, 49407)


def test_a_tokenizer_that_is_found_wins(tmp_path: Path) -> None:
    place = write_tokenizer(tmp_path / "place")
    assert find_tokenizer(None, [tmp_path, place], CLIP_TOKENS).vocab == (place / "vocab.json").read_bytes()
    given = find_tokenizer(CLIP_FILES, [place], CLIP_TOKENS)
    assert given.vocab == (CLIP_FILES / "vocab.json").read_bytes()


def test_clips_files_stand_in_for_no_other_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(TokenizerNotFoundError, match=r"no tokenizer \(vocab\.json and merges\.txt\) in .*--tokenizer"):
        find_tokenizer(None, [tmp_path], CLIP_TOKENS + 1)


def test_a_folder_that_is_given_must_have_one(tmp_path: Path) -> None:
    with pytest.raises(TokenizerNotFoundError, match=str(tmp_path)):
        find_tokenizer(tmp_path, [CLIP_FILES], CLIP_TOKENS)


def test_refuses_more_tokens_than_the_text_encoder_knows() -> None:
    with pytest.raises(CheckpointError, match="the tokenizer has 49408 tokens, the text encoder knows 49407"):
        find_tokenizer(CLIP_FILES, [], CLIP_TOKENS - 1)


def test_refuses_files_that_are_none(tmp_path: Path) -> None:
    place = write_tokenizer(tmp_path / "place")
    (place / "vocab.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"vocab\.json or merges\.txt is not CLIP's"):
        find_tokenizer(place, [], CLIP_TOKENS)
    with (place / "vocab.json").open("wb") as file:
        file.truncate(2**35)  # sparse
    with pytest.raises(CheckpointError, match="cannot be read: Over 33,554,432 bytes"):
        find_tokenizer(place, [], CLIP_TOKENS)


FRAMES = {"<|startoftext|>": 0, "<|endoftext|>": 1}


@pytest.mark.parametrize(
    ("vocab", "merges", "why"),
    [
        ({"a": 2}, "#version: 0.2\nno merge at all\n", r"the line 'no merge at all', which is no pair of tokens"),
        ({"a": 2}, "#version: 0.2\n\n", r"the line '', which is no pair"),
        ({"a": 2, "b": 3}, "a b\n", "Token `ab` out of vocabulary"),
        ({"a": 2, "ab": 3}, "a b\n", "Token `b` out of vocabulary"),
        ({"a": 2}, "\x1b[2J \x1b\n", r"Token `.x1b\[2J` out of vocabulary"),
        ({"a": 2, "b": 2}, "", "two tokens of one id"),
        ({"a": 2.5}, "", "Expected `int`"),
        ({"a": -1}, "", "Expected `int` >= 0"),
        ({"a": json.loads('{"a":' * 500 + "1" + "}" * 500)}, "", "Expected `int`, got `object`"),
    ],
    ids=["words", "empty line", "no token", "no part", "terminal", "two of one id", "fraction", "negative", "nested"],
)
def test_refuses_files_that_no_prompt_can_be_read_with(
    tmp_path: Path, vocab: dict[str, object], merges: str, why: str
) -> None:
    place = write_tokenizer(tmp_path / "place")
    (place / "vocab.json").write_text(json.dumps(FRAMES | vocab))
    (place / "merges.txt").write_text(merges)
    with pytest.raises(CheckpointError, match=f"is not CLIP's .*{why}") as caught:
        find_tokenizer(place, [], CLIP_TOKENS)
    assert str(caught.value).isprintable()


def test_lines_may_end_as_windows_ends_them(tmp_path: Path) -> None:
    place = write_tokenizer(tmp_path / "place")
    (place / "vocab.json").write_text(json.dumps(FRAMES | {"a": 2, "b": 3, "ab": 4}))
    (place / "merges.txt").write_bytes(b"#version: 0.2\r\na b\r\n")
    assert find_tokenizer(place, [], CLIP_TOKENS).size == 5


@pytest.mark.parametrize("name", ["special_tokens_map.json", "tokenizer_config.json"])
def test_what_a_prompt_is_filled_up_with_is_read_from_either_file(tmp_path: Path, name: str) -> None:
    place = write_tokenizer(tmp_path / "place")
    (place / name).write_text(json.dumps({"pad_token": {"content": "<|startoftext|>"}}))
    assert find_tokenizer(place, [], CLIP_TOKENS).pad_id == 49406


def test_openclip_fills_up_with_zeros_where_no_file_says_otherwise(tmp_path: Path) -> None:
    assert find_tokenizer(None, [tmp_path], CLIP_TOKENS, padding=OPEN_CLIP_PADDING).pad_id == 0
    assert find_tokenizer(CLIP_FILES, [], CLIP_TOKENS, padding=OPEN_CLIP_PADDING).pad_id == 0
    place = write_tokenizer(tmp_path / "place")
    (place / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    assert find_tokenizer(place, [], CLIP_TOKENS, padding=OPEN_CLIP_PADDING).pad_id == 49407


def test_a_hostile_file_says_nothing_of_it(tmp_path: Path) -> None:
    place = write_tokenizer(tmp_path / "place")
    (place / "special_tokens_map.json").write_text("[" * 100_000)
    with (place / "tokenizer_config.json").open("wb") as file:
        file.truncate(2**35)  # sparse
    assert find_tokenizer(place, [], CLIP_TOKENS).pad_id == 49407
