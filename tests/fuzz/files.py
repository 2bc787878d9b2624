"""Readers of files: each function makes one, in an empty folder that is its own."""

import hashlib
import shutil
from pathlib import Path

import msgspec
import numpy as np

from fuzz.bounded import Read
from fuzz.mutate import BETWEEN
from pocket_diffusion import Pipeline
from pocket_diffusion.addon import ADDON_NAME, TINY_VAE, read_addon
from pocket_diffusion.bundle import MANIFEST_NAME, Bundle, FileRecord, TokenizerSpec
from pocket_diffusion.checkpoint.noise_schedule import recognise_schedule
from pocket_diffusion.checkpoint.source import read_source
from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.checkpoint.tokenizer_files import find_tokenizer
from pocket_diffusion.drawing.defaults import with_our_names
from pocket_diffusion.drawing.picture_file import open_picture, read_texts, transparency_as_mask
from pocket_diffusion.drawing.tokenizer import ClipTokenizer
from pocket_diffusion.errors import BundleFormatError
from pocket_diffusion.machine.session import GraphSession
from pocket_diffusion.model.concepts import read_concept
from pocket_diffusion.model.lora import CHANGEABLE, read_lora_for
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from weights_files import make_arrays, write_safetensors

CONFIGS = (
    "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
    "scheduler/scheduler_config.json", "generation_config.json",
)  # fmt: skip
"""Of a diffusers folder, in the order of an input's files."""
SMALLEST = "text_encoder"
"""The component whose graph and tables are changed."""
_CLIP_TOKENS = 49408


def torch_file() -> Read:
    """Read all numbers of a checkpoint of PyTorch's."""
    return _tensors(Path("model.ckpt"))


def safetensors() -> Read:
    """Read all numbers of a safetensors file."""
    return _tensors(Path("model.safetensors"))


def _tensors(path: Path) -> Read:
    def read(content: bytes) -> None:
        path.write_bytes(content)
        for tensor in read_tensor_file(path).tensors.values():
            tensor.read()

    return read


def lora() -> Read:
    """Read a LoRA and find the layers that it changes."""
    path, pipeline = Path("lora.safetensors"), Pipeline.load(provider="cpu", threads=1)
    tables = {role: pipeline.bundle.layers(role) for role in CHANGEABLE}

    def read(content: bytes) -> None:
        path.write_bytes(content)
        read_lora_for(path, tables)  # refuses most inputs, before the bundle's own tables are read again
        pipeline.set_loras([path])

    return read


def embedding() -> Read:
    """Read an embedding and learn its words."""
    path, bundle = Path("cat-toy.safetensors"), Bundle.open(DEFAULT_BUNDLE)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        read_concept(path, bundle)  # likewise
        Pipeline.load(provider="cpu", threads=1, embeddings=[path])

    return read


def folder() -> Read:
    """Read a diffusers folder of these configs, whose weights are some tensors."""
    root = Path("model")
    for weights in (
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    ):  # fmt: skip
        (root / weights).parent.mkdir(parents=True)
        write_safetensors(root / weights, make_arrays())
    (root / "scheduler").mkdir()
    shutil.copytree(DEFAULT_BUNDLE / "tokenizer", root / "tokenizer")

    def read(content: bytes) -> None:
        for name, config in zip(CONFIGS, content.split(BETWEEN), strict=False):
            (root / name).write_bytes(config)
        read_source(root, check_defaults=with_our_names)

    return read


def tokenizer() -> Read:
    """Read `vocab.json` and `merges.txt`, or `tokenizer.json`, and split a prompt by what an export would write."""
    written = Path("written")
    written.mkdir()

    def read(content: bytes) -> None:
        for name in ("vocab.json", "merges.txt", "tokenizer.json"):
            Path(name).unlink(missing_ok=True)
        names = ("vocab.json", "merges.txt") if BETWEEN in content else ("tokenizer.json",)
        for name, file in zip(names, content.split(BETWEEN), strict=False):
            Path(name).write_bytes(file)
        files = find_tokenizer(Path(), [], _CLIP_TOKENS)
        (written / "vocab.json").write_bytes(files.vocab)
        (written / "merges.txt").write_bytes(files.merges)
        ids = {"start_id": files.start_id, "end_id": files.end_id, "pad_id": files.pad_id}
        spec = TokenizerSpec(vocab="vocab.json", merges="merges.txt", max_tokens=77, **ids)
        try:
            drawn_with = ClipTokenizer(written / "vocab.json", written / "merges.txt", spec)
        except BundleFormatError as error:
            raise AssertionError(f"exported as good, but a bundle refuses it: {error}") from None
        ids_of_prompt = drawn_with.frame(drawn_with.tokens("a lake under snowy mountains"))
        assert 0 <= ids_of_prompt.min() <= ids_of_prompt.max() < files.size, "ids that no token has"

    return read


def manifest() -> Read:
    """Open a bundle with this manifest, and draw."""
    root = Path(shutil.copytree(DEFAULT_BUNDLE, "bundle"))

    def read(content: bytes) -> None:
        (root / MANIFEST_NAME).write_bytes(content)
        pipeline = Pipeline.load(root, provider="cpu", threads=1, memory="balanced")
        pipeline.generate("a lake", width=64, height=64, steps=1, seed=1)

    return read


def graph() -> Read:
    """Load a network with this graph, and run it."""
    bundle = _copy()
    component, ids = bundle.manifest.component(SMALLEST), np.zeros((1, 77), np.int64)

    def read(content: bytes) -> None:
        bundle.path(component.graph).write_bytes(content)
        session = GraphSession(bundle.root, SMALLEST, component, "cpu", threads=1)
        session.run(ids=ids)

    return read


def layer_table() -> Read:
    """Read where a network's weights lie, of a bundle that vouches for the file."""
    bundle = _copy()
    name = str(bundle.manifest.component(SMALLEST).layers)
    return lambda content: _vouching(bundle, name, content).layers(SMALLEST)


def certificate() -> Read:
    """Read how exact an 8-bit graph is, of a bundle that vouches for the file."""
    bundle = _copy()
    name = bundle.manifest.int8_graphs["unet"].certificate
    return lambda content: _vouching(bundle, name, content).certificate("unet")


def addon() -> Read:
    """Read the manifest of a tiny VAE."""
    path = Path(TINY_VAE, ADDON_NAME)
    path.parent.mkdir()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        read_addon(Path())

    return read


def prediction() -> Read:
    """Read what a `.yaml` beside a checkpoint says that the model predicts."""

    def read(content: bytes) -> None:
        Path("model.yaml").write_bytes(content)
        recognise_schedule(Path("model.ckpt"), {}, {}, None)

    return read


def vocabulary() -> Read:
    """Read which words a model knows, of a bundle that vouches for the file, and look for those of a prompt."""
    bundle = _copy()
    name = str(bundle.manifest.vocabulary)

    def read(content: bytes) -> None:
        known = _vouching(bundle, name, content).vocabulary()
        assert known is not None
        known.unknown_words("a lake, <lora:b:1> BREAK a", ["c"])

    return read


def picture() -> Read:
    """Decode a picture, and what of it is transparent."""

    def read(content: bytes) -> None:
        open_picture(content)
        transparency_as_mask(content)

    return read


def picture_text() -> Read:
    """Read what a picture says of itself."""
    return read_texts


def _copy() -> Bundle:
    return Bundle.open(shutil.copytree(DEFAULT_BUNDLE, "bundle"))


def _vouching(bundle: Bundle, name: str, content: bytes) -> Bundle:
    """Return the bundle with a file that has this content, of the size and sha256 that its manifest says."""
    bundle.path(name).write_bytes(content)
    record = FileRecord(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return Bundle(bundle.root, msgspec.structs.replace(bundle.manifest, files={**bundle.manifest.files, name: record}))
