"""Models by their id on a hub: what is needed of them is downloaded, or found in the hub's cache."""

import contextlib
import re
from pathlib import Path

from pocket_diffusion.checkpoint.source import WEIGHT_STEMS, choose_weights
from pocket_diffusion.errors import CheckpointError, CheckpointNotFoundError, UnsupportedModelError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_CONFIG_FILES = (
    "model_index.json",
    "generation_config.json",
    "README.md",
    "*/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/*",
)


def is_hub_id(source: str) -> bool:
    """Whether this may be the id of a model, with or without a revision: `owner/name@revision`."""
    return _HUB_ID.fullmatch(source) is not None


def fetch(hub_id: str) -> Path:
    """Return the diffusers folder of a model, without what is not needed of it.

    Raises:
        CheckpointNotFoundError: the hub does not answer, or has no such model, or no weights of it.
        UnsupportedModelError: it is no diffusers folder.

    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    repo, _, revision = hub_id.partition("@")
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision or None)
        names = [file.rfilename for file in info.siblings or ()]
        if "model_index.json" not in names:
            raise UnsupportedModelError(f"{hub_id} is no diffusers folder (it has no model_index.json)")
        weights = [f"{part}/{choose_weights(part, _names_below(f'{part}/', names), hub_id)}" for part in WEIGHT_STEMS]
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision or None, allow_patterns=[*_CONFIG_FILES, *weights], max_workers=4
            )
        )
    except CheckpointError:
        raise
    except Exception as error:  # the client's and its HTTP library's errors have no common root
        if not isinstance(error, HfHubHTTPError):  # no answer, but perhaps it was fetched before
            with contextlib.suppress(Exception):
                return Path(huggingface_hub.snapshot_download(repo, revision=revision or None, local_files_only=True))
        reason = " ".join(str(error).split())[:200]
        raise CheckpointNotFoundError(
            f"{hub_id} is no local path and cannot be fetched from the hub ({reason}); "
            "check its name and your connection"
        ) from None


def _names_below(folder: str, names: list[str]) -> list[str]:
    return [name.removeprefix(folder) for name in names if name.startswith(folder)]
