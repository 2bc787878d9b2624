"""What a pipeline draws with beyond its bundle: LoRAs, which change weights, and embeddings, which are new words."""

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocket_diffusion.bundle import CONCEPTS
from pocket_diffusion.drawing.conditioning import Conditioner
from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.drawing.tokenizer import ClipTokenizer
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.model.components import Components
from pocket_diffusion.model.concepts import Concept, Concepts, read_concept
from pocket_diffusion.model.library import Library
from pocket_diffusion.model.lora import CHANGEABLE, Lora, LoraSpec, read_lora
from pocket_diffusion.order import LoraUse

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelChanges:
    """What a picture was drawn with beyond the bundle."""

    loras: tuple[Lora, ...] = ()
    """All that changed the weights."""
    unnamed: tuple[LoraUse, ...] = ()
    """Those of them that the order does not name: the pipeline's own, which come first."""
    concepts: Mapping[str, Concept] = field(default_factory=dict)
    """The embeddings that the prompts use, by word."""
    has_tiny_vae: bool = False
    """Whether a tiny VAE stood in for the model's own."""


NO_CHANGES = ModelChanges()


class Adapters:
    """The LoRAs and embeddings of a pipeline, for whoever has the turn unless stated otherwise."""

    def __init__(
        self, components: Components, tokenizer: ClipTokenizer, conditioner: Conditioner, library: Library
    ) -> None:
        """Learn the library's embeddings; those that cannot be used are skipped, and the log says why.

        Raises:
            BundleFormatError, InvalidRequestError: the library has files, and the bundle was exported before it could
                take them.

        """
        self.library = library
        self.loras: tuple[Lora, ...] = ()
        """Those that change every picture."""
        self._components = components
        self._bundle = components.bundle
        self._tokenizer = tokenizer
        self._conditioner = conditioner
        self._concepts: Concepts | None = None
        self._given: set[str] = set()
        """The words of embeddings that are not the library's, in small letters."""
        self.skipped: tuple[str, ...] = ()
        """The embeddings of the library that cannot be used."""
        if library.loras:
            for component in CHANGEABLE:
                self._bundle.layers(component)
        self._learn_library()

    @property
    def concepts(self) -> Mapping[str, Concept]:
        """The embeddings by word."""
        return {} if self._concepts is None else self._concepts.known

    def set_loras(self, loras: Iterable[str | PathLike[str] | LoraSpec]) -> None:
        """See `Pipeline.set_loras`."""
        specs = [LoraSpec.of(each) for each in loras]
        files = [read_lora(spec.path, self._bundle) for spec in specs]
        self.loras = tuple(
            Lora(file, spec.scale, spec.text_encoder_scale) for file, spec in zip(files, specs, strict=True)
        )
        self.use(self.loras)

    def add_embeddings(self, embeddings: Iterable[str | PathLike[str]]) -> None:
        """See `Pipeline.load`."""
        concepts = [self._new_words(read_concept(Path(path), self._bundle)) for path in embeddings]
        self._given.update(word.lower() for concept in concepts for word in concept.words)
        self._learn(concepts)

    def refresh(self) -> None:
        """Look into the library's folders again; safe in any thread.

        Words that are known stay known; those of a file that was overwritten get its new vectors.

        Raises:
            BundleFormatError, InvalidRequestError: there are embeddings now, which the bundle cannot take.

        """
        self.library.refresh()
        self._learn_library()

    def changes(self, drawing: Drawing) -> ModelChanges:
        """Return what a drawing is to be drawn with; safe in any thread.

        Without a folder of LoRAs, those that its prompt names do nothing.

        Raises:
            InvalidRequestError: a LoRA is unknown, cannot be read, or does not fit.

        """
        uses = drawing.all_loras if self.library.has_loras else drawing.loras
        named = [Lora(self.library.lora(use.name, self._bundle), use.scale, use.text_encoder_scale) for use in uses]
        own = ((lora.file.name, lora.scale, lora.text_encoder_scale) for lora in self.loras)
        words = [word for text, _ in drawing.texts for word in self._tokenizer.learned_in(text)]
        return ModelChanges(
            (*self.loras, *named),
            tuple(LoraUse(name=name, scale=scale, text_encoder_scale=other) for name, scale, other in own),
            {word: self.concepts[word] for word in words},
            self._bundle.manifest.has_tiny_vae,
        )

    def use(self, loras: tuple[Lora, ...]) -> None:
        """Have the weights changed by these LoRAs, and by no others."""
        if "text_encoder" in self._components.use_loras(loras):
            self._conditioner.forget()

    def inputs(self, ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return what the text encoder is given to read these ids: with them, the vectors of learned words."""
        if self._concepts is None or not self._concepts.are_in(ids):
            return {"ids": ids}
        return {"ids": ids, CONCEPTS: self._concepts.vectors}

    def _learn_library(self) -> None:
        if self.library.embeddings and self._concepts is None:
            self._concepts = Concepts(self._bundle)
        hashes = {word: concept.hash for word, concept in self.concepts.items()}
        taken = set(self._given)
        found, skipped = [], []
        for name in self.library.embeddings:  # in the order of their paths: the first that has a word keeps it
            try:
                concept = self._new_words(self.library.embedding(name, self._bundle), taken)
            except InvalidRequestError as error:
                _log.warning("embedding %s is skipped: %s", name, error)
                skipped.append(name)
                continue
            words = {word.lower() for word in concept.words}
            taken |= words
            if any(hashes.get(word) != concept.hash for word in words):
                found.append(concept)
        self.skipped = tuple(skipped)
        self._learn(found)

    def _learn(self, concepts: Iterable[Concept]) -> None:
        concepts = list(concepts)
        if not concepts:
            return
        if self._concepts is None:
            self._concepts = Concepts(self._bundle)
        self._concepts.add(concepts)
        self._tokenizer.learn(self._concepts.ids)

    def _new_words(self, concept: Concept, taken: Collection[str] = ()) -> Concept:
        """Return a concept under those of its words that are neither in the vocabulary nor another embedding's.

        Raises:
            InvalidRequestError: it has no such word.

        """
        free = [word for word in concept.words if word.lower() not in taken]
        if not free:
            raise InvalidRequestError(f"embedding {concept.words[0]}: another one has this word; rename the file")
        words = tuple(word for word in free if not self._tokenizer.knows(word))
        if not words:
            raise InvalidRequestError(
                f"embedding {concept.words[0]}: this word is in the vocabulary already, and would lose its meaning; "
                "rename the file"
            )
        return Concept(words, concept.vectors, concept.hash)
