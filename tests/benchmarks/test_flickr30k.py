"""flickr30k.py on a small data set in Flickr30K's layout, and the CLIP score beside transformers' own."""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flickr30k
from clip_score import ClipFolderError, ClipScore
from conftest import CLIP_FILES
from flickr30k_sample import LINE_ENDS, write_sample
from pocket_diffusion.batch.flickr30k import captions_of
from pocket_diffusion.batch.prompts import PromptsWarning, read_prompts
from pocket_diffusion.batch.row import seed_of
from pocket_diffusion.machine.cpu import products_fault
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from settings import Setting

PHOTOGRAPHS = 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flickr30k") / "data"
    write_sample(folder, PHOTOGRAPHS, line_end=LINE_ENDS["windows"])
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model with random weights, with CLIP's own words."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = CLIPTokenizer.from_pretrained(CLIP_FILES, model_max_length=77)
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    config = CLIPConfig(
        text_config={**small, **ids, "vocab_size": 49408},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)
    return folder


def measure(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", ["flickr30k.py", *map(str, options)])
    flickr30k.main()


@pytest.fixture(scope="module")
def ran(dataset: Path, clip_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("ran") / "results.json"
    options = ["--size", "64x64", "--limit", 2, "--clip", clip_folder, "--output", output]
    for setting in ("steps=2", "steps=1,memory=low", "vae=tiny", "sampler=eulr"):
        options += ["--setting", setting]
    with pytest.MonkeyPatch.context() as patch:
        measure(patch, dataset, *options, "--reference", "arithmetic=exact,steps=2")
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def test_photographs_pass_through_each_vae_that_can_be_had(ran: dict[str, Any]) -> None:
    (ways,) = ran["photographs"].values()
    assert "taken whole" in ways.pop("tiled")["absent"]
    assert "has no tiny VAE" in ways.pop("tiny")["absent"]
    if products_fault() is not None:
        assert ways.pop("int8")["absent"]
    else:
        assert abs(ways["int8"]["difference"]["psnr_db"]["mean"]) < 1
    assert ways["exact"]["mean"]["psnr_db"]["mean"] > 20
    assert ways["exact"]["difference"]["ssim"]["mean"] == 0
    for way in ways.values():
        assert list(way["each"]) == [one["photograph"] for one in ran["sample"].values()]
        values = [one["ssim"] for one in way["each"].values()]
        assert way["mean"]["ssim"]["mean"] == pytest.approx(np.mean(values))


def test_a_large_photograph_is_measured_in_tiles(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flickr30k, "VAES", {name: flickr30k.VAES[name] for name in ("exact", "tiled")})
    with Image.open(next((dataset / "flickr30k_images").iterdir())) as photograph:
        ways = flickr30k.measure_photographs({"a": photograph.resize((320, 320))}, None, None)
    assert ways["tiled"]["mean"]["psnr_db"]["mean"] > 20
    assert ways["tiled"]["difference"]["psnr_db"]["mean"] != 0


def test_all_captions_are_counted_in_tokens_and_words(ran: dict[str, Any]) -> None:
    (found,) = ran["captions"].values()
    assert found["captions"] == sum(found["lengths"].values()) == 5 * PHOTOGRAPHS
    assert found["too_long"] == 1
    assert found["tokens"]["100"] > found["room"] == 77
    assert found["words"]["captions_all_known"] == 5 * PHOTOGRAPHS - 2
    assert {"sign", "café", "湖"} < found["words"]["most_frequent_unknown"].keys()
    assert 0 < found["words"]["known"] < found["words"]["each_once_a_caption"]


def test_pictures_are_compared_with_the_references_of_the_same_captions(ran: dict[str, Any]) -> None:
    ways = ran["pairs"]["settings"]
    assert list(ways) == ["steps=2", "steps=1,memory=low", "vae=tiny", "sampler=eulr"]
    assert ways["steps=2"]["mean"]["psnr_db"] == {"mean": 100, "low": 100, "high": 100, "size": 2}, (
        "the reference's own"
    )
    assert ways["steps=2"]["mean"]["clip_score_difference"]["mean"] == 0
    assert ways["steps=1,memory=low"]["lowest_psnr_db"] <= ways["steps=1,memory=low"]["mean"]["psnr_db"]["mean"] < 60
    assert list(ways["steps=2"]["each"]) == list(ran["sample"])
    assert "has no tiny VAE" in ways["vae=tiny"]["absent"]
    assert "did you mean euler" in ways["sampler=eulr"]["absent"]
    assert all(one["seed"] == seed_of(key, 0) for key, one in ran["sample"].items())


def test_the_report_has_what_was_measured(ran: dict[str, Any]) -> None:
    text = "\n".join(flickr30k.tables(ran))
    scores = ran["pairs"]["reference"]["clip_score"]
    assert f"{scores['mean']:.2f} [{scores['low']:.2f}, {scores['high']:.2f}]" in text
    assert "sampler=eulr (" in text
    assert "| 2 photographs through the embedded model's VAE" in text
    assert str(DEFAULT_BUNDLE.parent) not in json.dumps(ran), "no paths"


def test_two_bundles_are_compared(dataset: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other, output = shutil.copytree(bundle, tmp_path / "other"), tmp_path / "results.json"
    options = ("--size", "64x64", "--limit", 1, "--setting", "steps=1", "--reference", "arithmetic=exact,steps=1")
    monkeypatch.setattr(flickr30k, "VAES", {"exact": {}})
    measure(monkeypatch, dataset, bundle, other, *options, "--output", output)
    figures = json.loads(output.read_text())
    assert list(figures["captions"]) == list(figures["photographs"]) == ["bundle", "other"]
    assert figures["pairs"]["settings"]["bundle other"]["lowest_psnr_db"] == 100


def test_a_sample_is_in_flickr30ks_layout(dataset: Path) -> None:
    content = captions_of(dataset).read_bytes()
    assert content.startswith(b"image_name| comment_number| comment\r\n1000092795.jpg| 0| ")
    assert content.count(b"\r\n") == content.count(b"\n") == 1 + 5 * PHOTOGRAPHS
    with pytest.warns(PromptsWarning, match="line 11: the separator after the caption's number is missing"):
        rows = list(read_prompts(captions_of(dataset)))
    assert [row.carried["comment_number"] for row in rows] == list("01234") * PHOTOGRAPHS
    assert not any(row.error for row in rows)
    assert '"No, swimming"' in rows[1].fields["prompt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere"], "has no results.csv; give the folder"),
        (["DATASET", "--clip", "nowhere"], "is no folder of a CLIP model (it has no config.json); give one"),
        (["DATASET", "--reference", "sampler=eulr", "--limit", "1", "--size", "64x64"], "did you mean euler"),
    ],
    ids=["data set", "CLIP", "reference"],
)
def test_what_is_wrong_is_one_line(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as found:
        measure(monkeypatch, *(str(dataset) if one == "DATASET" else one for one in options))
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_a_setting_is_read_and_an_unknown_name_refused() -> None:
    setting = Setting.parse("steps=8,cache=reuse:2,vae=tiny")
    assert setting.machine == {"vae": "tiny"}
    assert setting.order == {"steps": "8", "cache": "reuse:2"}
    over = setting.over(Setting.parse("arithmetic=exact,steps=4"))
    assert over.machine == {"arithmetic": "exact", "vae": "tiny"}
    assert over.order["steps"] == "8"
    with pytest.raises(argparse.ArgumentTypeError, match="'step' of 'step=8' is not NAME=VALUE with one of arithmetic"):
        Setting.parse("step=8")


def test_photographs_without_captions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sample(tmp_path, 1)
    (photograph,) = (tmp_path / "flickr30k_images").iterdir()
    photograph.rename(photograph.with_name("other.jpg"))
    with pytest.raises(SystemExit, match="none of the photographs has a caption"):
        measure(monkeypatch, tmp_path)


def test_the_clip_score_is_transformers_own(clip_folder: Path, dataset: Path) -> None:
    """A hundredth of the model's logit, whose factor is exp(logit_scale)."""
    import torch
    from transformers import CLIPModel, CLIPProcessor

    with Image.open(next((dataset / "flickr30k_images").iterdir())) as picture:
        pictures, texts = [picture, picture.rotate(180)], ["a lake", "a lake " * 100]
        found = ClipScore(clip_folder).scores(pictures, texts)
        model, processor = CLIPModel.from_pretrained(clip_folder), CLIPProcessor.from_pretrained(clip_folder)
        inputs = processor(images=pictures, text=texts, return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        logits = model(**inputs).logits_per_image.diagonal() / model.logit_scale.exp()
    assert found == pytest.approx([max(100 * float(one), 0) for one in logits], abs=1e-3)


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ClipFolderError, match="is no folder of a CLIP model"):
        ClipScore(tmp_path)
