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
    with pytest.raises(CheckpointError, match="is no file of CLIP's tokenizer: it has over 32 MB"):
        find_tokenizer(place, [], CLIP_TOKENS)


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
