"""Textual inversion (Gal et al. 2022): words that mean vectors from a file, in place of the vocabulary's."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import CONCEPTS, Bundle
from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.errors import BundleFormatError, InvalidRequestError
from pocket_diffusion.model.file_hash import FileHash

Vectors = NDArray[np.float32]

MAX_VECTORS = 75
"""Of a word: more would not fit between the start and the end of a chunk."""
MAX_WORD = 100
"""Characters."""
_UNNAMED = re.compile(r"emb_params|clip_l|string_to_param\.\*")
"""What A1111 and other trainers call the vectors, where the file's name is the word."""
_SDXL = "clip_g"
_LEFTOVERS = re.compile(r"string_to_token\..*")
"""What A1111 keeps beside them."""
_MODELS = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    1280: "Stable Diffusion XL",
    4096: "a model with T5",
}
"""By the width of their vectors."""
_VOCABULARY = "text_model.embeddings.token_embedding.weight"
_SHOWN = 60


@dataclass(frozen=True)
class Concept:
    """A word, or several that mean the same, and its vectors."""

    words: tuple[str, ...]
    vectors: Vectors
    """`[vectors, width]`: each is read as a token of its own."""
    hash: FileHash


def read_concept(path: Path, bundle: Bundle) -> Concept:
    """Read and check an embedding file for a bundle's text encoder.

    The word is the file's name without its ending; a name for the vectors in the file, such as `<cat-toy>`, is a second
    one.

    Raises:
        CheckpointError: the file is not there, or cannot be read; see `read_tensor_file`.
        InvalidRequestError: it holds no vectors, or too many, or such as do not fit; or the bundle takes none.
        BundleFormatError: see `embedding_width`.

    """
    width = embedding_width(bundle)
    tensors = read_tensor_file(path).tensors
    word = path.stem

    def refuse(why: str) -> InvalidRequestError:
        return InvalidRequestError(f"embedding {word}: {why}")

    if _SDXL in tensors:
        raise refuse(_made_for("Stable Diffusion XL", width))
    tensors = {name: tensor for name, tensor in tensors.items() if not _LEFTOVERS.fullmatch(name)}
    if len(tensors) != 1:
        shown = ", ".join(ascii(name[:_SHOWN])[1:-1] for name in list(tensors)[:3])
        raise refuse(f"one tensor with its vectors is wanted, but it holds {len(tensors)}: {shown or 'none'}")
    ((name, tensor),) = tensors.items()
    shape = (1, *tensor.shape) if tensor.ndim == 1 else tensor.shape
    if len(shape) != 2 or not tensor.size or not tensor.is_floating_point:
        raise refuse(f"it holds {tensor.dtype} {list(tensor.shape)}, but vectors are float [{width}] or [n, {width}]")
    if shape[1] != width:
        if shape[1] in _MODELS:
            raise refuse(_made_for(_MODELS[shape[1]], width))
        raise refuse(
            f"its vectors have {shape[1]} numbers, and this text encoder's {width}; choose one made for this model"
        )
    if shape[0] > MAX_VECTORS:
        raise refuse(f"it has {shape[0]} vectors, and a word at most {MAX_VECTORS}; get a smaller one")
    with np.errstate(over="ignore"):  # a float64 that float32 cannot hold becomes infinity, which is found here
        vectors = np.asarray(tensor.read(), np.float32).reshape(shape)
    if not np.isfinite(vectors).all():
        raise refuse("it holds NaN or infinity; its training failed, or the file is damaged")
    words = (word,) if _UNNAMED.fullmatch(name) else (word, name)
    for each in words:
        if not each.strip() or len(each) > MAX_WORD or not each.isprintable():
            raise refuse(f"{each[:_SHOWN]!a} cannot be a word; name it with 1 to {MAX_WORD} letters")
    return Concept(tuple(dict.fromkeys(words)), vectors, FileHash.of(path))


def embedding_width(bundle: Bundle) -> int:
    """Return how many numbers a word's vector has.

    Raises:
        InvalidRequestError: the bundle was exported before its text encoder took any.
        BundleFormatError: the manifest describes that input otherwise than as `[vectors, width]`.

    """
    spec = next((spec for spec in bundle.manifest.text_encoder.options if spec.name == CONCEPTS), None)
    if spec is None:
        raise InvalidRequestError(
            "this bundle's text encoder takes no embeddings: it was made before there were any; export the bundle again"
        )
    width = spec.shape[-1] if len(spec.shape) == 2 else None
    if not isinstance(width, int):
        raise BundleFormatError(
            f"{bundle.root}: the input {CONCEPTS} of the text encoder is {list(spec.shape)}, not [vectors, width]; "
            "export the bundle again"
        )
    return width


class Concepts:
    """The words of a text encoder beyond its vocabulary: what ids they have, and which vectors those are.

    Words are added and never taken away, so that tokens once made keep their meaning.
    """

    def __init__(self, bundle: Bundle) -> None:
        """Start with no word.

        Raises:
            InvalidRequestError: the bundle takes none.
            BundleFormatError: the bundle's vocabulary is not where a text encoder has it; see also `Bundle.layers`.
            BundleDamagedError: see there.

        """
        width = embedding_width(bundle)
        vocabulary = bundle.layers("text_encoder").layers.get(_VOCABULARY)
        if vocabulary is None or len(vocabulary.shape) != 2 or vocabulary.shape[1] != width:
            found = "is missing" if vocabulary is None else f"is {list(vocabulary.shape)}"
            raise BundleFormatError(
                f"{bundle.root}: {_VOCABULARY} {found}, not [words, {width}]; export the bundle again"
            )
        self.vectors: Vectors = np.zeros((0, width), np.float32)
        """`[vectors, width]`, by id."""
        self.ids: Mapping[str, tuple[int, ...]] = {}
        """By word, in small letters, as the tokenizer reads all text."""
        self.known: Mapping[str, Concept] = {}
        """Likewise."""
        self._first_id = vocabulary.shape[0]

    def are_in(self, ids: NDArray[np.int64]) -> bool:
        """Tell whether some ids are of such words."""
        return bool((ids >= self._first_id).any())

    def add(self, concepts: Iterable[Concept]) -> None:
        """Add concepts; one whose word is known takes its place."""
        ids, known = dict(self.ids), dict(self.known)
        for concept in concepts:
            first = self._first_id + len(self.vectors)
            self.vectors = np.concatenate([self.vectors, concept.vectors])
            for word in concept.words:
                ids[word.lower()] = tuple(range(first, first + len(concept.vectors)))
                known[word.lower()] = concept
        self.ids, self.known = ids, known


def _made_for(model: str, width: int) -> str:
    ours = _MODELS.get(width, f"a model whose vectors have {width} numbers")
    return f"it was made for {model}, and this is {ours}; choose one made for this model"
