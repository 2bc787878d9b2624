"""Embedding files: what words and vectors they give, and what is refused."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from loras import table, write_safetensors
from pocket_diffusion.bundle import CONCEPTS, Bundle, Manifest, TensorSpec
from pocket_diffusion.errors import BundleFormatError, InvalidRequestError, PocketDiffusionError
from pocket_diffusion.layers import LayerTable
from pocket_diffusion.model.concepts import Concepts, read_concept
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

WIDTH = 768
Given = Callable[..., Path]


@pytest.fixture
def bundle(manifest: Manifest) -> Bundle:
    """Says that its text encoder takes vectors of Stable Diffusion 1's width."""
    return _with(manifest, (_option(WIDTH),))


def _option(width: int) -> TensorSpec:
    return TensorSpec(name=CONCEPTS, dtype="float32", shape=(CONCEPTS, width))


def _with(manifest: Manifest, options: tuple[TensorSpec, ...]) -> Bundle:
    text_encoder = msgspec.structs.replace(manifest.text_encoder, options=options)
    return Bundle(DEFAULT_BUNDLE, msgspec.structs.replace(manifest, text_encoder=text_encoder))


def vectors(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("emb_params", (3, WIDTH), ("cat style",)),
        ("clip_l", (1, WIDTH), ("cat style",)),
        ("<cat-toy>", (WIDTH,), ("cat style", "<cat-toy>")),
        ("cat style", (2, WIDTH), ("cat style",)),
    ],
)
def test_reads_words_and_vectors(
    bundle: Bundle, tmp_path: Path, name: str, shape: tuple[int, ...], words: tuple[str, ...]
) -> None:
    wanted = vectors(*shape)
    concept = read_concept(write_safetensors(tmp_path / "cat style.safetensors", {name: wanted}), bundle)
    assert concept.words == words
    np.testing.assert_array_equal(concept.vectors, np.atleast_2d(wanted))


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        (
            {"clip_l": vectors(1, WIDTH), "clip_g": vectors(1, 1280)},
            "it was made for Stable Diffusion XL, and this is Stable Diffusion 1; choose one made for this model",
        ),
        (
            {"emb_params": vectors(2, 1024)},
            "it was made for Stable Diffusion 2, and this is Stable Diffusion 1; choose one made for this model",
        ),
        (
            {"emb_params": vectors(2, 1280)},
            "it was made for Stable Diffusion XL, and this is Stable Diffusion 1; choose one made for this model",
        ),
        ({"emb_params": vectors(2, 5)},
         "its vectors have 5 numbers, and this text encoder's 768; choose one made for this model"),
        ({"emb_params": vectors(76, WIDTH)}, "it has 76 vectors, and a word at most 75; get a smaller one"),
        ({"emb_params": np.zeros((0, WIDTH), np.float32)},
         "it holds float32 [0, 768], but vectors are float [768] or [n, 768]"),
        ({"emb_params": np.zeros((1, WIDTH), np.int64)},
         "it holds int64 [1, 768], but vectors are float [768] or [n, 768]"),
        ({"emb_params": vectors(1, 1, WIDTH)}, "it holds float32 [1, 1, 768], but vectors are float [768] or [n, 768]"),
        (
            {"emb_params": np.full((1, WIDTH), np.inf, np.float32)},
            "it holds NaN or infinity; its training failed, or the file is damaged",
        ),
        (
            {"emb_params": np.full((1, WIDTH), 1e300)},
            "it holds NaN or infinity; its training failed, or the file is damaged",
        ),
        (
            {"a": vectors(WIDTH), "b": vectors(WIDTH)},
            "one tensor with its vectors is wanted, but it holds 2: a, b",
        ),
        ({"<\n>": vectors(WIDTH)}, r"'<\n>' cannot be a word; name it with 1 to 100 letters"),
    ],
)  # fmt: skip
def test_refuses_what_is_no_embedding_of_this_model(
    bundle: Bundle, tmp_path: Path, tensors: dict[str, NDArray[Any]], why: str
) -> None:
    path = write_safetensors(tmp_path / "style.safetensors", tensors)
    with pytest.raises(InvalidRequestError) as refused:
        read_concept(path, bundle)
    assert str(refused.value) == f"embedding style: {why}"


def test_a_model_of_stable_diffusion_2_refuses_embeddings_of_the_first(manifest: Manifest, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "style.safetensors", {"emb_params": vectors(2, WIDTH)})
    with pytest.raises(InvalidRequestError, match="made for Stable Diffusion 1, and this is Stable Diffusion 2;"):
        read_concept(path, _with(manifest, (_option(1024),)))


def test_refuses_a_bundle_without_that_input(manifest: Manifest, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "style.safetensors", {"emb_params": vectors(1, WIDTH)})
    with pytest.raises(InvalidRequestError, match=r"takes no embeddings.*export the bundle again"):
        read_concept(path, _with(manifest, ()))


@pytest.mark.parametrize("shape", [(), (CONCEPTS,), (CONCEPTS, "width"), (CONCEPTS, 1, WIDTH)])
def test_refuses_a_bundle_that_describes_that_input_otherwise(
    manifest: Manifest, tmp_path: Path, shape: tuple[int | str, ...]
) -> None:
    path = write_safetensors(tmp_path / "style.safetensors", {"emb_params": vectors(1, WIDTH)})
    with pytest.raises(BundleFormatError, match=r"not \[vectors, width\]; export the bundle again"):
        read_concept(path, _with(manifest, (TensorSpec(name=CONCEPTS, dtype="float32", shape=shape),)))


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        (table(conv_in__weight=(4, 4)), "is missing, not"),
        (table(text_model__embeddings__token_embedding__weight=(9, WIDTH + 1)), r"is \[9, 769\], not"),
        (table(text_model__embeddings__token_embedding__weight=(9,)), r"is \[9\], not"),
    ],
)
def test_refuses_a_bundle_whose_vocabulary_is_elsewhere(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, layers: LayerTable, why: str
) -> None:
    monkeypatch.setattr(Bundle, "layers", lambda _bundle, _name: layers)
    with pytest.raises(BundleFormatError, match=rf"token_embedding\.weight {why} \[words, 768\]; export"):
        Concepts(bundle)


class _Runs:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (eval, ("1/0",))


def test_nothing_of_a_pickle_is_run(bundle: Bundle, tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("style/data.pkl", pickle.dumps({"string_to_param": _Runs()}, protocol=2))
    path = tmp_path / "style.pt"
    path.write_bytes(content.getvalue())
    with pytest.raises(PocketDiffusionError, match="eval"):
        read_concept(path, bundle)
