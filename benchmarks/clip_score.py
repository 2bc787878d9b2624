"""How well a picture shows its caption, by a CLIP model: the score of Hessel et al. (2021), through transformers."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

MODELS = "such as a copy of openai/clip-vit-base-patch32"


class ClipFolderError(ValueError):
    """What was given is no CLIP model, or cannot be run."""


class ClipScore:
    """A CLIP model that judges pairs of picture and caption."""

    def __init__(self, folder: Path) -> None:
        """Load a model that `save_pretrained` wrote, with its processor; nothing is fetched.

        Raises:
            ClipFolderError: it is none, or transformers is not installed.

        """
        try:
            from transformers import CLIPModel, CLIPProcessor
        except ImportError as error:
            raise ClipFolderError(f"--clip needs {error.name}; install this package with [peers]") from None
        try:
            if not (folder / "config.json").is_file():
                raise OSError("it has no config.json")
            self._model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
            self._processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = str(error).strip().partition("\n")[0]
            raise ClipFolderError(f"{folder} is no folder of a CLIP model ({why}); give one, {MODELS}") from None

    def scores(self, pictures: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        """Return 100 · cosine of each picture and its caption, at least 0; captions are cut after CLIP's 77 tokens."""
        import torch

        scores = []
        for picture, text in zip(pictures, captions, strict=True):  # one by one: memory stays small
            inputs = self._processor(images=picture, text=text, return_tensors="pt", truncation=True)
            with torch.inference_mode():
                found = self._model(**inputs)
            cosine = torch.nn.functional.cosine_similarity(found.image_embeds, found.text_embeds)
            scores.append(max(100 * float(cosine[0]), 0.0))
        return scores
