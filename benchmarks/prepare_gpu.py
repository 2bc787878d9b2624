"""Write what gpu.py's systems read: the same weights, each system's files as its users have them, float16.

    python benchmarks/prepare_gpu.py FOLDER checkpoint|ours|peers TARGET [CHECKPOINT]

Without CHECKPOINT, weights are random and have Stable Diffusion 1.5's shape. What is there stays; each kind of files
appears whole or not at all.
"""

import argparse
import shutil
import warnings
from pathlib import Path

import torch

from report import progress

ROOT = Path(__file__).parents[1]
TOKENIZER = ROOT / "tests" / "data" / "clip"


def write_checkpoint(path: Path) -> None:
    """Write a checkpoint of random weights that are float16 already, so that no system has others."""
    from synthetic_checkpoint import Sizes, save_checkpoint, synthetic_state_dict

    unfinished = path.with_name(f"unfinished-{path.name}")
    save_checkpoint(synthetic_state_dict(Sizes(), 0, torch.float16), unfinished)
    unfinished.rename(path)


def write_ours(checkpoint: Path, folder: Path, target: str) -> None:
    """Export the bundle."""
    from pocket_export.export import export

    tokenizer = None if checkpoint.is_dir() else TOKENIZER
    export(checkpoint, folder, target="cuda" if target == "cuda" else "cpu", tokenizer=tokenizer)


def write_peers(checkpoint: Path, folder: Path) -> None:
    """Write diffusers' folder, and ONNX Runtime's graphs."""
    from prepare_peers import write_diffusers, write_onnx
    from systems.reference import load_reference

    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in ("diffusers", "onnx-float16"):
        (unfinished / name).mkdir(parents=True)
    words = unfinished / "tokenizer"  # where `load_reference` looks for a single file's
    shutil.copytree(TOKENIZER, words)
    theirs = load_reference(checkpoint, unfinished).to(dtype=torch.float16)
    write_diffusers(theirs, unfinished / "diffusers")
    write_onnx(theirs, unfinished / "onnx-float16")
    unfinished.rename(folder)


def main() -> None:
    """Run from `gpu.py`'s command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("kind", choices=("checkpoint", "ours", "peers"))
    parser.add_argument("target", choices=("cuda", "cpu"))
    parser.add_argument("checkpoint", type=Path, nargs="?")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # the tracers' talk of what they take for constant
    arguments.folder.mkdir(parents=True, exist_ok=True)
    made = arguments.folder / "checkpoint.safetensors"
    checkpoint, output = arguments.checkpoint or made, arguments.folder / arguments.kind
    if arguments.kind == "checkpoint":
        if not checkpoint.exists():
            write_checkpoint(checkpoint)
    elif not output.exists():
        progress(f"writing {arguments.kind}")
        if arguments.kind == "ours":
            write_ours(checkpoint, output, arguments.target)
        else:
            write_peers(checkpoint, output)


if __name__ == "__main__":
    main()
