"""Templates of networks, from which the runtime imports checkpoints without PyTorch.

    python -m pocket_export.templates [PLACE ...]

traces the networks of these places (`unet/lcm`, say; all of `NETWORKS` without one) anew, with random weights, and puts
them into the runtime's archive. Weights matter only to the figures that imported bundles inherit, parity and memory,
which are measured here.
"""

import ast
import hashlib
import io
import lzma
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import click
import msgspec
import torch
from msgspec.structs import replace

import pocket_models
from pocket_diffusion.bundle import FORMAT_VERSION, Component, Defaults, FileRecord, NoiseSchedule, WeightStorage
from pocket_diffusion.calibration import Evaluation, errors_of
from pocket_diffusion.certificate import Certificate
from pocket_diffusion.checkpoint.architecture import TextEncoderSpec, UNetSpec, VAESpec
from pocket_diffusion.checkpoint.source import Network, Source
from pocket_diffusion.checkpoint.tokenizer_files import find_tokenizer
from pocket_diffusion.cli.progress import WorkProgress
from pocket_diffusion.importing import templates
from pocket_diffusion.importing.templates import ARCHIVE, NETWORK_NAME, SPEC_NAME, Spec, read_archive
from pocket_diffusion.machine.session import GraphSession
from pocket_diffusion.writer import BundleWriter, OnProgress
from pocket_export.certify import Certifier
from pocket_export.checkpoint import Checkpoint
from pocket_export.export import export_part, tool_versions
from pocket_export.parts import PARTS, Part
from pocket_export.progress import Progress
from pocket_export.rewrite.int8_products import Form
from pocket_export.sensitivity import RoundingErrors
from pocket_export.targets import OLDEST_ONNXRUNTIME, recipe
from pocket_models import VAE, TextEncoder, TextEncoderConfig, UNet, UNetConfig, VAEConfig

_CLIP = TextEncoderSpec(
    vocab_size=49408,
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    max_position_embeddings=77,
)
_UNET = UNetSpec(
    in_channels=4,
    out_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    layers_per_block=2,
    attention_levels=(True, True, True, False),
    attention_heads=(8, 8, 8, 8),
    cross_attention_dim=768,
    use_linear_projection=False,
)
_UNET_2 = replace(_UNET, cross_attention_dim=1024, attention_heads=(5, 10, 20, 20), use_linear_projection=True)
_SMALL = replace(_UNET, layers_per_block=1)
_TINY = replace(
    _SMALL,
    block_out_channels=(320, 640, 1280),
    attention_levels=(True, True, True),
    attention_heads=(8, 8, 8),
    mid_block=False,
)
_OPEN_CLIP = replace(
    _CLIP, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"
)
_VAE = VAESpec(block_out_channels=(128, 256, 512, 512), layers_per_block=2)
NETWORKS: dict[str, Spec] = {
    "text_encoder/stable-diffusion-1": _CLIP,
    "text_encoder/stable-diffusion-2": _OPEN_CLIP,
    "vae/stable-diffusion": _VAE,
    "unet/stable-diffusion-1": _UNET,
    "unet/inpainting": replace(_UNET, in_channels=9),
    "unet/instruct-pix2pix": replace(_UNET, in_channels=8),
    "unet/latent-consistency": replace(_UNET, time_cond_proj_dim=256),
    "unet/bk-sdm-base": _SMALL,
    "unet/bk-sdm-small": replace(_SMALL, mid_block=False),
    "unet/bk-sdm-tiny": _TINY,
    "unet/stable-diffusion-2": _UNET_2,
    "unet/stable-diffusion-2-inpainting": replace(_UNET_2, in_channels=9),
}
"""What comes along, by its place in the archive."""
COMPONENTS_OF = {"text_encoder": ("text_encoder",), "unet": ("unet",), "vae": ("vae_encoder", "vae_decoder")}
"""The components of a bundle that a network is."""
_HERE = Path(__file__).parent
_MAKES_GRAPHS = ("graph_file.py", "int8_graph.py", "parts.py", "shallow.py", "targets.py", "trace.py")
"""With the rewrites and the models, all that graphs come from."""
_SIZES = {"batch": 1, "contexts": 2, "height": 32, "width": 32, "tokens": 77}
"""At which 8-bit graphs are compared with exact ones."""


def write_template(place: str, spec: Spec, report: OnProgress) -> dict[str, bytes]:
    """Export a network in each storage, and return all but the weights, by the names in the archive.

    Raises:
        ExportError, ParityError: see `export_part`.

    """
    kind, _, _ = place.partition("/")
    checkpoint = random_checkpoint(spec)
    files = {f"{place}/{SPEC_NAME}": msgspec.json.encode(spec)}
    for storage in get_args(WeightStorage):
        how = recipe("cpu", storage)
        with tempfile.TemporaryDirectory() as folder, BundleWriter(Path(folder, "network"), force=False) as writer:
            progress = Progress(lambda what, done: report(f"{place} in {storage}: {what}", done), {})  # noqa: B023 - used at once
            components = {}
            for make in (make for make in PARTS if make.__name__ in COMPONENTS_OF[kind]):
                part = make(checkpoint)
                component = export_part(part, how, writer, progress)
                if part.name in how.in_8_bits:
                    measured = RandomInputs(part, writer.folder, component)
                    component = Certifier(writer.folder, measured, progress, form_for_all).certify(part, component)
                components[part.name] = component
            files |= {
                f"{place}/{storage}/{name}": content
                for name, content in template_files(components, writer.folder, writer.records()).items()
            }
    return files


def random_checkpoint(spec: Spec) -> Checkpoint:
    """Return a checkpoint whose network of that spec has random weights; the others have none."""
    text_encoder = spec if isinstance(spec, TextEncoderSpec) else _CLIP
    unet = spec if isinstance(spec, UNetSpec) else _UNET
    vae = spec if isinstance(spec, VAESpec) else _VAE
    configs = (
        TextEncoderConfig(**msgspec.structs.asdict(text_encoder)),
        UNetConfig(**msgspec.structs.asdict(unet)),
        VAEConfig(**msgspec.structs.asdict(vae)),
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        tensors = (
            dict(TextEncoder(configs[0]).state_dict()) if spec is text_encoder else {},
            dict(UNet(configs[1]).state_dict()) if spec is unet else {},
            dict(VAE(configs[2]).state_dict()) if spec is vae else {},
        )
    name = "random weights"
    source = Source(
        name=name,
        files={},
        text_encoder=Network(name, text_encoder, {}),
        unet=Network(name, unet, {}),
        vae=Network(name, vae, {}),
        schedule=NoiseSchedule(),
        tokenizer=find_tokenizer(None, (), _CLIP.vocab_size),
        defaults=Defaults(width=512, height=512),
        license=None,
        notes=(),
    )
    return Checkpoint(source, *tensors, *configs)


class RandomInputs:
    """What a network makes of random inputs, for its 8-bit graph to be compared with; see `Measured`."""

    what = "random inputs"

    def __init__(self, part: Part, folder: Path, component: Component) -> None:
        """Run a written component once."""
        inputs = {spec.name: x.numpy() for spec, x in zip(part.inputs, part.example(_SIZES), strict=True)}
        outputs = GraphSession(folder, part.name, component, "cpu").run(**inputs)
        self._folder = folder
        self.evaluations = {part.name: [Evaluation(inputs, outputs)]}

    def errors(self, role: str, component: Component, evaluations: Sequence[Evaluation]) -> list[float]:
        """See `Calibration.errors`."""
        return errors_of(self._folder, role, component, evaluations)

    def psnr(self, _role: str, _component: Component) -> None:
        """Nothing is drawn."""


def form_for_all(errors: RoundingErrors) -> Form:
    """Return the form of a layer that suits checkpoints that nobody has measured.

    One scale a token bears large tokens, which real activations have. Convolutions cannot have it; their inputs come
    from norms.
    """
    return "tensor" if errors.token is None else "token"


def template_files(
    components: Mapping[str, Component], folder: Path, records: Mapping[str, FileRecord]
) -> dict[str, bytes]:
    """Return all that a template has of written components, by the names in a bundle.

    Of certificates, it has no figures of layers.
    """
    weights = {component.weights for component in components.values()}
    kept = {name for component in components.values() for name in component.files} - weights
    files = {name: (folder / name).read_bytes() for name in kept}
    for component in components.values():
        if component.int8 is not None:
            name = component.int8.certificate
            certificate = msgspec.json.decode(files[name], type=Certificate)
            layers = tuple(replace(one, storage_error=None, error=None) for one in certificate.layers)
            files[name] = msgspec.json.encode(replace(certificate, layers=layers))
    network = templates.Network(
        format_version=FORMAT_VERSION,
        onnxruntime=OLDEST_ONNXRUNTIME,
        tools=tool_versions(),
        code_sha256=fingerprint(),
        components=dict(components),
        files={name: record for name, record in records.items() if name in kept | weights},
    )
    return files | {NETWORK_NAME: msgspec.json.encode(network)}


def pack(files: Mapping[str, bytes]) -> bytes:
    """Return an archive; the same files make the same bytes."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, file in sorted(files.items(), key=lambda one: (Path(one[0]).name, one[0])):  # alike beside alike
            member = tarfile.TarInfo(name)
            member.size = len(file)
            archive.addfile(member, io.BytesIO(file))
    return lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def fingerprint() -> str:
    """Return the sha256 of all code that graphs depend on, comments and docstrings aside."""
    models, rewrites = Path(pocket_models.__file__).parent, _HERE / "rewrite"
    digest = hashlib.sha256((rewrites / "convolution_costs.json").read_bytes())
    others = (*sorted(rewrites.glob("*.py")), *sorted(models.glob("*.py")))
    for path in (*(_HERE / name for name in _MAKES_GRAPHS), *others):
        digest.update(ast.unparse(_without_docstrings(ast.parse(path.read_text()))).encode())
    return digest.hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]  # type: ignore[attr-defined] # it has one
    return tree


@click.command()
@click.argument("places", nargs=-1, type=click.Choice(list(NETWORKS)))
def main(places: tuple[str, ...]) -> None:
    """Trace the networks of PLACES anew, or all that come along."""
    with WorkProgress(hidden=False) as progress:
        for place in places or NETWORKS:
            made = write_template(place, NETWORKS[place], progress)
            others = read_archive(ARCHIVE) if ARCHIVE.exists() else {}
            kept = {name: file for name, file in others.items() if not name.startswith(f"{place}/")}
            unfinished = ARCHIVE.with_suffix(".part")
            unfinished.write_bytes(pack(kept | made))
            unfinished.replace(ARCHIVE)


if __name__ == "__main__":
    main()
