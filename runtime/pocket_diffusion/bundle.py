"""The contract between exporter and runtime: `bundle.json` ⇄ frozen structs, and the files beside it."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NoReturn

import msgspec

from pocket_diffusion.certificate import Certificate
from pocket_diffusion.errors import (
    BundleDamagedError,
    BundleFileMissingError,
    BundleFormatError,
    BundleNotFoundError,
)
from pocket_diffusion.files import leads_out, read_regular
from pocket_diffusion.graph import LARGEST_GRAPH, graph_fault
from pocket_diffusion.layers import LARGEST_TABLE, LayerTable
from pocket_diffusion.strict import Strict
from pocket_diffusion.vocabulary import LARGEST_VOCABULARY, Vocabulary

FORMAT_VERSION: Literal[3] = 3
"""Version 2 had no layer tables; its bundles draw, but their weights cannot be changed."""
_READ_VERSIONS = (2, 3)
MANIFEST_NAME = "bundle.json"
LARGEST_MANIFEST = 2**22
"""Bytes. Stable Diffusion 1.5's takes a hundredth of it."""
LARGEST_TOKENIZER = 2**25
"""Bytes of either file. CLIP's have 1 MB."""
_SHOWN = 100  # how much of a name from the manifest an error shows
TOKEN_DOWNSAMPLING = "token_downsampling"  # noqa: S105 - no secret
"""The U-Net's option by which self-attention at the finest level looks at fewer tokens."""
CONCEPTS = "concepts"
"""The text encoder's option that holds the vectors of words that are not in its vocabulary, `[concepts, width]`."""
GUIDANCE = "guidance"
"""The U-Net's input `[batch]` for a guidance scale that a distilled model has learnt (Meng et al. 2023)."""
MASK = "mask"
"""The U-Net's input `[batch, 1, h, w]` of a model trained to repaint: 1 where it does."""
MASKED_LATENTS = "masked_latents"
"""The latents of the rest of that picture, like `latents`."""
IMAGE_LATENTS = "image_latents"
"""The latents of the picture that an instruction changes, like `latents` but unscaled (Brooks et al. 2023)."""
DEEP = "deep"
"""What a U-Net's deep layers make of the latents: an output of the whole graph, and an input of the shallow one."""
SHALLOW_UNET = "unet_shallow"
"""The role of the U-Net's shallow graph; see `Component.shallow`."""
COMPONENTS = ("text_encoder", "unet", "vae_encoder", "vae_decoder")
_TAKEN = {
    "text_encoder": ("ids",),
    "unet": ("latents", "timestep", "context"),
    "vae_encoder": ("picture",),
    "vae_decoder": ("latents",),
}
_GIVEN = {"text_encoder": ("context",), "unet": ("noise",), "vae_encoder": ("moments",), "vae_decoder": ("picture",)}
_AXES = {
    **dict.fromkeys(("timestep", GUIDANCE), 1),
    "ids": 2,
    "context": 3,
    **dict.fromkeys(("layers", "latents", MASK, MASKED_LATENTS, IMAGE_LATENTS, "noise", "picture", "moments"), 4),
}
"""All that whole graphs must be given, and all that they give: how many axes each has. Rewrites add options."""

Target = Literal["cpu", "cuda"]
WeightStorage = Literal["fp16", "fp32", "int8"]
Architecture = Literal["stable-diffusion-1", "stable-diffusion-2"]
"""What the text encoder and the U-Net's width of context are of; what else the U-Net takes, its inputs say."""
SIDES = (64, 4096)
"""The shortest and the longest side of a picture, in pixels."""
MAX_GUIDANCE = 100.0
"""The largest guidance scale, of a prompt or a picture."""
Positive = Annotated[int, msgspec.Meta(gt=0, le=2**40)]
Few = Annotated[int, msgspec.Meta(gt=0, le=64)]
Size = Annotated[int, msgspec.Meta(gt=0, le=2**31)]
TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**50)]
GRAPH_ENDING = ".onnx"
"""By which ONNX Runtime knows the format of a file."""
GraphName = Annotated[str, msgspec.Meta(pattern=rf"\{GRAPH_ENDING}\Z")]
Side = Annotated[int, msgspec.Meta(ge=SIDES[0], le=SIDES[1])]
Probability = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Version = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){1,2}\Z")]


class FileRecord(Strict, frozen=True):
    """What a file of the bundle must be."""

    size: Bytes
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class TensorSpec(Strict, frozen=True):
    """A named input or output of a graph."""

    name: str
    dtype: Literal["float16", "float32", "int64"]
    shape: Annotated[tuple[Size | str, ...], msgspec.Meta(max_length=8)]
    """Fixed sizes as numbers, dynamic ones by name."""


class ParityFigure(Strict, frozen=True):
    """ONNX Runtime against PyTorch on the same inputs, both from the source's weights."""

    inputs: dict[str, tuple[Size, ...]]
    """The shapes it was measured at."""
    relative_error: float
    """‖ours − theirs‖ / ‖theirs‖, of the output that is furthest off."""
    max_abs_error: float
    tolerance: float
    """The relative error at which the export would have been refused."""


class ComponentMemory(Strict, frozen=True):
    """What running a component takes of memory that no file backs, in bytes; measured on a CPU by the exporter."""

    base: Bytes
    """For a picture that is not small, without what grows; the weights are mapped from their file."""
    per_pixel: Bytes
    """More for each pixel of the picture and sample of the batch."""
    expanded_weights: Bytes
    """More where the weights are held in memory as float32."""
    least: Bytes
    """However small the picture: weights on their way through Casts."""


class FloatRange(Strict, frozen=True):
    """How far the numbers of a network that computes in float16 reach; measured in float32 by the exporter."""

    peak: Annotated[float, msgspec.Meta(ge=0)]
    """The largest magnitude that an operator wrote while pictures were drawn. Float16 ends at 65,504."""
    where: str
    """Which operator wrote it, and the published weight nearest before that."""
    limit: Annotated[float, msgspec.Meta(gt=0)]
    """Operators that read or write larger magnitudes compute in float32."""
    in_float32: Annotated[int, msgspec.Meta(ge=0)]
    """How many operators compute in float32: these, and those of the timestep's angles."""
    operators: Positive
    """How many there are."""


class Int8Graph(Strict, frozen=True, omit_defaults=True):
    """A second graph of a component that multiplies in 8 bits. Its inputs, outputs and weights file are the same."""

    graph: GraphName
    certificate: str
    """The file that holds its `Certificate`."""
    memory: ComponentMemory | None
    """None where it was not measured."""
    scales: str | None = None
    """The file with the largest magnitudes of activations, where these were measured beforehand."""
    shallow: "Component | None" = None
    """See `Component.shallow`."""


class Component(Strict, frozen=True, omit_defaults=True):
    """One network: an ONNX graph with its weights in a file of its own."""

    graph: GraphName
    weights: str
    inputs: tuple[TensorSpec, ...]
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(min_length=1)]
    parameters: Positive
    parity: tuple[ParityFigure, ...]
    memory: ComponentMemory | None = None
    """None where it was not measured: made for another target than the CPU, or on a system that does not tell."""
    int8: Int8Graph | None = None
    options: tuple[TensorSpec, ...] = ()
    """Inputs that may be left out."""
    layers: str | None = None
    """The file that holds its `LayerTable`. None in bundles of format 2."""
    portable: GraphName | None = None
    """The file of a second graph, which computes the same with operators that every machine has. None where `graph` is
    one of these."""
    range: FloatRange | None = None
    """None where the network computes in float32, and in bundles of older versions."""
    is_small: bool = False
    """Whether its weights are so few that ONNX Runtime may hold them in whatever form it computes fastest with."""
    shallow: "Component | None" = None
    """Of a U-Net: the graph of the layers that are left where the output of the others, `DEEP`, is kept from an earlier
    evaluation (Ma et al. 2023, "DeepCache"). Its weights lie in the same file, and the whole graph returns `DEEP` to
    those who ask for it."""

    @property
    def outputs_on_request(self) -> tuple[TensorSpec, ...]:
        """What the graph computes anyway and returns to those who ask for it."""
        return () if self.shallow is None else tuple(spec for spec in self.shallow.inputs if spec.name == DEEP)

    def on(self, machine: Target) -> "Component":
        """Return it with the graph that can be computed there."""
        if machine == "cuda" or self.portable is None:
            return self
        return msgspec.structs.replace(self, graph=self.portable)

    def needs(self, name: str) -> bool:
        """Tell whether there is such an input that must be given."""
        return any(spec.name == name for spec in self.inputs)

    def takes(self, option: str) -> bool:
        """Tell whether there is such an input that may be left out."""
        return any(spec.name == option for spec in self.options)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files that belong to the component, each once."""
        layers = () if self.layers is None else (self.layers,)
        portable = () if self.portable is None else (self.portable,)
        int8 = () if self.int8 is None else (self.int8.graph, self.int8.certificate)
        scales = () if self.int8 is None or self.int8.scales is None else (self.int8.scales,)
        shallow = [one.shallow for one in (self, self.int8) if one is not None and one.shallow is not None]
        own = (self.graph, *portable, self.weights, *layers, *int8, *scales)
        return tuple(dict.fromkeys((*own, *(file for one in shallow for file in one.files))))


class TokenizerSpec(Strict, frozen=True):
    """CLIP's two files and the ids that frame a prompt."""

    vocab: str
    merges: str
    max_tokens: Annotated[int, msgspec.Meta(ge=3, le=4096)]
    start_id: TokenId
    end_id: TokenId
    pad_id: TokenId


class NoiseSchedule(Strict, frozen=True):
    """How noise was added in training (Ho et al. 2020, section 2) and how timesteps are picked when drawing."""

    train_timesteps: Annotated[int, msgspec.Meta(gt=0, le=100_000)] = 1000
    beta_start: Probability = 0.00085
    beta_end: Probability = 0.012
    beta_schedule: Literal["linear", "scaled_linear"] = "scaled_linear"
    trained_betas: tuple[Probability, ...] | None = None
    """Given one by one, in place of a formula."""
    rescale_betas_zero_snr: bool = False
    """Nothing is left of the picture at the last timestep (Lin et al. 2023, algorithm 1)."""
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    # how diffusers' schedulers pick timesteps; None: as each does by itself
    timestep_spacing: Literal["leading", "linspace", "trailing"] | None = None
    steps_offset: Annotated[int, msgspec.Meta(ge=0, le=1)] = 1
    set_alpha_to_one: bool | None = False
    """Whether DDIM's and PNDM's last step ends without noise, not at timestep 0."""
    # what the predicted picture is held to at each step; latents are held to nothing
    clip_sample: bool = False
    clip_sample_range: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    thresholding: bool = False
    """Dynamic thresholding (Saharia et al. 2022, section 2.3)."""
    dynamic_thresholding_ratio: Probability = 0.995
    sample_max_value: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class LatentSpec(Strict, frozen=True):
    """The space that the U-Net works in."""

    channels: Few
    downscale: Few
    """Pixels per latent along a side."""
    scaling_factor: Annotated[float, msgspec.Meta(gt=0)]
    """What the VAE's latents are multiplied by for the U-Net."""


class Defaults(Strict, frozen=True, omit_defaults=True):
    """What is drawn when nothing else is asked for."""

    width: Side
    height: Side
    steps: Annotated[int, msgspec.Meta(gt=0, le=100_000)] = 50
    guidance_scale: Annotated[float, msgspec.Meta(ge=0, le=MAX_GUIDANCE)] = 7.5
    sampler: str = "ddpm"
    scheduler: str | None = None
    """None: the sampler's own."""
    image_guidance_scale: Annotated[float, msgspec.Meta(ge=1, le=MAX_GUIDANCE)] = 1.5
    """How far a model that follows instructions keeps to the picture (Brooks et al. 2023, equation 3)."""


class Provenance(Strict, frozen=True):
    """Where the weights came from and what made the graphs."""

    source: str
    """The name of the source: a file or folder without those above it, or a hub id."""
    source_sha256: dict[str, str]
    """Of each weights file that was read."""
    license: str | None
    created: str
    """UTC, ISO 8601."""
    tools: dict[str, str]
    notes: tuple[str, ...] = ()
    """What was chosen where the source left a choice, and why."""


class Manifest(Strict, frozen=True, omit_defaults=True):
    """All that the runtime must know; the content of `bundle.json`."""

    format_version: Literal[2, 3]
    architecture: Architecture
    target: Target
    weights: WeightStorage
    onnxruntime: Version
    """The oldest version of ONNX Runtime that has the operators of the graphs; named when one fails to load."""
    text_encoder: Component
    unet: Component
    vae_encoder: Component
    vae_decoder: Component
    tokenizer: TokenizerSpec
    schedule: NoiseSchedule
    latents: LatentSpec
    defaults: Defaults
    provenance: Provenance
    files: dict[str, FileRecord]
    """Every file of the bundle but the manifest itself, by its path in the bundle."""
    vocabulary: str | None = None
    """The file that holds its `Vocabulary`. None where the model knows too many words to tell."""

    @property
    def guides_itself(self) -> bool:
        """Whether the U-Net is told the guidance scale, in place of a second evaluation without the prompt."""
        return self.unet.needs(GUIDANCE)

    @property
    def repaints(self) -> bool:
        """Whether the U-Net is shown a mask and the picture around it."""
        return self.unet.needs(MASK)

    @property
    def follows_instructions(self) -> bool:
        """Whether the U-Net is shown the picture that a prompt changes."""
        return self.unet.needs(IMAGE_LATENTS)

    @property
    def sees_pictures(self) -> bool:
        """Whether the U-Net is shown a picture, which the VAE encodes, whatever is drawn."""
        return self.repaints or self.follows_instructions

    @property
    def has_tiny_vae(self) -> bool:
        """Whether the VAE is a tiny one: its encoder gives scaled latents and not their distribution."""
        return any(spec.name == "latents" for spec in self.vae_encoder.outputs)

    @property
    def takes_long_contexts(self) -> bool:
        """Whether the U-Net takes contexts of any number of tokens, not one chunk alone."""
        context = next((spec for spec in self.unet.inputs if spec.name == "context"), None)
        return context is not None and isinstance(context.shape[1], str)

    def component(self, name: str) -> Component:
        """Return one of `COMPONENTS`, or the `SHALLOW_UNET` where the bundle has one."""
        component: Component | None = self.unet.shallow if name == SHALLOW_UNET else getattr(self, name)
        assert component is not None  # noqa: S101 - the callers looked
        return component

    @property
    def computes_in_float16(self) -> bool:
        """Whether the networks compute in float16 on a GPU, and do not only store their weights in it."""
        return self.target == "cuda" and self.weights == "fp16"

    @property
    def int8_graphs(self) -> dict[str, Int8Graph]:
        """The 8-bit graphs by the names of their components; the components that have none are left out."""
        graphs = {name: self.component(name).int8 for name in COMPONENTS}
        return {name: graph for name, graph in graphs.items() if graph is not None}

    def in_int8(self, names: Collection[str]) -> "Manifest":
        """Return the manifest that has, for these components, their 8-bit graphs in place of the exact ones."""
        changed = {
            name: msgspec.structs.replace(
                self.component(name), graph=int8.graph, portable=None, memory=int8.memory, shallow=int8.shallow
            )
            for name, int8 in self.int8_graphs.items()
            if name in names
        }
        return msgspec.structs.replace(self, **changed)


class Bundle:
    """A folder with a manifest whose files are all there and have their right sizes."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    def open(cls, root: str | os.PathLike[str]) -> "Bundle":
        """Read and check a bundle; the files' contents are left for `damaged_files`.

        Raises:
            BundleNotFoundError: there is no `bundle.json` in that folder; see `read_manifest`.
            BundleFormatError: the manifest is not understood, or names a file outside the folder.
            BundleDamagedError: a file is missing or has the wrong size.

        """
        bundle = cls(Path(root), read_manifest(Path(root)))
        bundle.check_files(*bundle.manifest.files)
        return bundle

    def check_files(self, *names: str) -> None:
        """Make sure that files are there and have their right sizes: mapped, a shorter one would crash the process.

        Raises:
            BundleDamagedError: a file is missing or has the wrong size.

        """
        for name in names:
            fault = self._fault(name, hashed=False)
            if fault:
                kind = BundleFileMissingError if fault.endswith("is missing") else BundleDamagedError
                raise kind(f"{self.root}: {fault}; export the bundle again or fetch a fresh copy")

    def path(self, name: str) -> Path:
        """Where a file of the bundle is."""
        return self.root / name

    def certificate(self, name: str) -> Certificate:
        """Read how exact the 8-bit graph of a component is; `Manifest.int8_graphs` has those components.

        Raises:
            BundleDamagedError: the certificate is not the file that was written, or belongs to other graphs.

        """
        component, files = self.manifest.component(name), self.manifest.files
        int8 = self.manifest.int8_graphs[name]

        def refuse(why: str) -> NoReturn:
            raise BundleDamagedError(f"{self.root}: {why}; export the bundle again, or draw with --arithmetic exact")

        fault = self._fault(int8.certificate, hashed=True, most=LARGEST_TABLE)
        if fault:
            refuse(fault)
        try:
            certificate = msgspec.json.decode(self.path(int8.certificate).read_bytes(), type=Certificate)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            refuse(f"{int8.certificate} is not understood ({error})")
        for file, sha256 in ((int8.graph, certificate.graph_sha256), (component.weights, certificate.weights_sha256)):
            if sha256 != files[file].sha256:
                refuse(f"{int8.certificate} was not made for {file}: the sha256 differs")
        return certificate

    def vocabulary(self) -> Vocabulary | None:
        """Read which words the model knows, or return None where the bundle does not tell.

        Raises:
            BundleDamagedError: the vocabulary is not the file that was written.

        """
        name = self.manifest.vocabulary
        if name is None:
            return None
        fault = self._fault(name, hashed=True, most=LARGEST_VOCABULARY)
        if not fault:
            try:
                return msgspec.json.decode(self.path(name).read_bytes(), type=Vocabulary)
            except (OSError, ValueError, RecursionError) as error:
                fault = f"{name} is not understood ({error})"
        raise BundleDamagedError(f"{self.root}: {fault}; export the bundle again or fetch a fresh copy")

    def layers(self, name: str) -> LayerTable:
        """Read where the published weights of a component lie in its weights file.

        Raises:
            BundleFormatError: the bundle was made before there were such tables.
            BundleDamagedError: the table is not the file that was written, or does not fit the weights file.

        """
        component, files = self.manifest.component(name), self.manifest.files
        if component.layers is None:
            raise BundleFormatError(
                f"{self.root} is of format version {self.manifest.format_version}, which does not tell where the "
                f"weights of {name} lie, so that they cannot be changed; export the bundle again"
            )
        fault = self._fault(component.layers, hashed=True, most=LARGEST_TABLE)
        if not fault:
            try:
                table = msgspec.json.decode(self.path(component.layers).read_bytes(), type=LayerTable)
                table.check(files[component.weights].size)
                return table
            except (OSError, ValueError, RecursionError) as error:
                fault = f"{component.layers} is not understood ({error})"
        raise BundleDamagedError(f"{self.root}: {fault}; export the bundle again or fetch a fresh copy")

    def damaged_files(self) -> dict[str, str]:
        """Compare every file with its sha256, and see that graphs read no others; return what is wrong with which."""
        faults = {name: self._fault(name, hashed=True) or self._graph_fault(name) for name in self.manifest.files}
        return {name: fault for name, fault in faults.items() if fault}

    def _fault(self, name: str, *, hashed: bool, most: int | None = None) -> str | None:
        path, record = self.path(name), self.manifest.files[name]
        if most is not None and record.size > most:
            return f"{name} has over {most:,} bytes, more than any needs"
        try:
            if not path.is_file():
                return f"{name} is missing"
            if leads_out(path, self.root):
                return f"{name} is a link out of the bundle"
            if path.stat().st_size != record.size:
                return f"{name} has {path.stat().st_size} bytes, not {record.size}"
            if hashed and sha256_of(path) != record.sha256:
                return f"{name} is not the file that was written: its sha256 differs"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
        return None

    def _graph_fault(self, name: str) -> str | None:
        """Return what is wrong with a file if it is a graph, or None."""
        if not name.endswith(GRAPH_ENDING):
            return None
        try:
            return graph_fault(read_regular(self.path(name), LARGEST_GRAPH), name, self.manifest.files)
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"


def read_manifest(root: Path) -> Manifest:
    """Read and check a folder's `bundle.json`, but none of the files beside it.

    Raises:
        BundleNotFoundError: there is none, or what is there is no regular file of the folder, or is too large.
        BundleFormatError: with the field that is not understood, the input or output of a network that is missing, or
            the file that lies outside the folder.

    """
    text = _read_manifest_text(root)

    def refuse(why: str) -> NoReturn:
        raise BundleFormatError(f"{root / MANIFEST_NAME}: {why}")

    try:
        version = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("format_version")
        if version is not None and bytes(version) not in [str(known).encode() for known in _READ_VERSIONS]:
            refuse(
                f"format version {bytes(version).decode('utf-8', 'replace')[:20]} is not known; this version of "
                f"pocket-diffusion reads versions {' and '.join(map(str, _READ_VERSIONS))}; update pocket-diffusion or "
                "export again"
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        refuse(f"not understood: {error}; export the bundle again")
    for name in manifest.files:
        if not is_inside(name):
            refuse(f"names a file outside the bundle: {name!r}; do not use a bundle that does this")
    components = {name: manifest.component(name) for name in COMPONENTS}
    for name, component in components.items():
        fault = _interface_fault(name, component) or _shallow_fault(name, component)
        if fault:
            refuse(f"{fault}; export the bundle again")
    channels = manifest.latents.channels
    for name in ("unet", "vae_decoder"):
        spec = next(spec for spec in components[name].inputs if spec.name == "latents")
        if spec.shape[1] != channels:
            refuse(f"{name} takes latents of {spec.shape[1]} channels, not of {channels}; export the bundle again")
    tokenizer = (manifest.tokenizer.vocab, manifest.tokenizer.merges)
    vocabulary = () if manifest.vocabulary is None else (manifest.vocabulary,)
    for name in (*(file for component in components.values() for file in component.files), *tokenizer, *vocabulary):
        if name not in manifest.files:
            refuse(f"uses {name!r} but does not list it under files; export the bundle again")
    for name in tokenizer:
        if manifest.files[name].size > LARGEST_TOKENIZER:
            refuse(f"has {name!r} of {manifest.files[name].size:,} bytes, which no tokenizer of CLIP's has")
    betas, timesteps = manifest.schedule.trained_betas, manifest.schedule.train_timesteps
    if betas is not None and len(betas) != timesteps:
        refuse(f"has {len(betas)} trained_betas for {timesteps} train_timesteps; export the bundle again")
    return manifest


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_inside(name: str) -> bool:
    """Tell whether a file's name leads into the folder that it is relative to."""
    path = PurePosixPath(name)
    clean = "\\" not in name and ":" not in name and name.isprintable()
    return clean and bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def axes_fault(role: str, component: Component) -> str | None:
    """Return what is wrong with an input or output of a component, or None."""
    for spec in (*component.inputs, *component.outputs):
        if len(spec.shape) != _AXES.get(spec.name):
            return f"gives {role} an input or output {spec.name[:_SHOWN]!r} of {len(spec.shape)} axes, which none has"
    return None


def _interface_fault(role: str, component: Component) -> str | None:
    """Return which input or output of a component is missing, or makes no sense, or None."""
    for kind, specs, needed in (("input", component.inputs, _TAKEN), ("output", component.outputs, _GIVEN)):
        names = {spec.name for spec in specs}
        for name in needed[role]:
            if name not in names:
                return f"has no {kind} {name!r} of {role}"
    return axes_fault(role, component)


def _shallow_fault(role: str, component: Component) -> str | None:
    """Return what is wrong with the shallow graphs of a component, exact and in 8 bits, or None."""
    for whole in (component, component.int8):
        if whole is None or whole.shallow is None:
            continue
        shallow = whole.shallow
        what = f"has the shallow graph {shallow.graph!r}"
        if role != "unet":
            return f"{what} of {role}; unet alone has one"
        if shallow.shallow is not None or shallow.int8 is not None:
            return f"{what} with further graphs of its own"
        if shallow.weights != component.weights:
            return f"{what} over {shallow.weights!r}, not over {component.weights!r}"
        deep = [spec for spec in shallow.inputs if spec.name == DEEP]
        others = {spec.name for spec in shallow.inputs} - {DEEP}
        if len(deep) != 1 or others != {spec.name for spec in component.inputs}:
            return f"{what} with other inputs than those of unet and {DEEP}"
        if {spec.name for spec in shallow.outputs} != {spec.name for spec in component.outputs}:
            return f"{what} with other outputs than those of unet"
        if sum(isinstance(size, int) for size in deep[0].shape) != 1:
            return f"{what} with {DEEP} of no one number of channels"
    return None


def _read_manifest_text(root: Path) -> bytes:
    try:
        return read_regular(root / MANIFEST_NAME, LARGEST_MANIFEST, inside=root)
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        hint = "make one with `pocket-diffusion export SOURCE OUTPUT`"
        if isinstance(error, NotADirectoryError):
            hint = "a bundle is a folder; if this is a checkpoint, " + hint
        why = getattr(error, "strerror", None) or error
        raise BundleNotFoundError(f"no bundle at {root} ({MANIFEST_NAME}: {why}); {hint}") from None
