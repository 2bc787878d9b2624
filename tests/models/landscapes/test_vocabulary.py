import json
from pathlib import Path

import numpy as np
import pytest

from pocket_models.landscapes.captions import caption
from pocket_models.landscapes.pictures import scene_of
from pocket_models.landscapes.vocabulary import END, START, Vocabulary, train_vocabulary

ODD_TEXTS = [
    "",
    "A Lake under snowy MOUNTAINS at sunset",
    "Zürich ☃ 日本 42 don't it's!!! ('RE)",
    "naïve\tcafé\n\nÀ",
    "x" * 300,
]


def _captions() -> list[str]:
    return [caption(scene_of(index), np.random.default_rng(index)).text for index in range(1500)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary")
    train_vocabulary(_captions(), folder)
    return folder


def test_ids_are_those_of_transformers_clip_tokenizer(folder: Path) -> None:
    from transformers import CLIPTokenizer

    reference = CLIPTokenizer.from_pretrained(folder)
    texts = [*_captions()[:200], *ODD_TEXTS]
    expected = reference(texts, padding="max_length", max_length=77, truncation=True)["input_ids"]
    np.testing.assert_array_equal(Vocabulary(folder).encode(texts), expected)


def test_the_files_have_clips_form(folder: Path) -> None:
    entries = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#version: 0.2"
    assert list(entries.values()) == list(range(len(entries)))
    assert list(entries)[-2:] == [START, END]
    assert list(entries)[:2] == ["!", '"']
    assert list(entries)[256] == "!</w>"
    assert list(entries)[512:-2] == ["".join(line.split(" ")) for line in lines[1:]]


def test_common_words_are_one_token(folder: Path) -> None:
    ids = Vocabulary(folder).encode(["snowy mountains lake sunset"])
    assert (ids[0] != ids[0, -1]).sum() == 1 + 4


def test_an_empty_prompt_is_start_and_ends(folder: Path) -> None:
    vocabulary = Vocabulary(folder)
    assert vocabulary.encode([""])[0].tolist() == [vocabulary.size - 2] + [vocabulary.size - 1] * 76
