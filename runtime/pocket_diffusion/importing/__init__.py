"""A checkpoint to a bundle without PyTorch: read → find the template → place the weights → check → publish.

A network has the same graph in all checkpoints of its family. The exporter has traced it once, and its layer table says
where each published weight lies: the two make a template. So a bundle is made by copying numbers.
"""

import datetime
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec

from pocket_diffusion.addon import TINY_VAE, check_latents
from pocket_diffusion.bundle import FORMAT_VERSION, Bundle, LatentSpec, Manifest, Provenance, WeightStorage
from pocket_diffusion.checkpoint.noise_schedule import Prediction
from pocket_diffusion.checkpoint.source import Source, read_source
from pocket_diffusion.checkpoint.tiny_vae import read_tiny_vae
from pocket_diffusion.drawing.defaults import with_our_names
from pocket_diffusion.errors import CheckpointNotFoundError
from pocket_diffusion.importing.checking import certify, check_evaluations
from pocket_diffusion.importing.placing import place_weights
from pocket_diffusion.importing.templates import Template, find_template
from pocket_diffusion.importing.tiny_vae import write_tiny_vae
from pocket_diffusion.machine.session import onnxruntime
from pocket_diffusion.model.lora import Lora, LoraSpec, read_lora
from pocket_diffusion.version import __version__
from pocket_diffusion.writer import BundleWriter, OnProgress

_PLACED = {True: 0.5, False: 0.85}
"""The share of the work that is done when the weights are placed, by whether 8-bit graphs are to be measured then."""


def import_checkpoint(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    weights: WeightStorage = "fp16",
    tokenizer: str | os.PathLike[str] | None = None,
    vae: str | os.PathLike[str] | None = None,
    tiny_vae: str | os.PathLike[str] | None = None,
    prediction: Prediction | None = None,
    loras: Iterable[str | os.PathLike[str] | LoraSpec] = (),
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Bundle:
    """Turn a checkpoint into a bundle for CPUs; it appears at `output` complete and checked, or not at all.

    Args:
        source: a .ckpt, a .safetensors or a diffusers folder.
        output: the folder that the bundle becomes.
        weights: how weights are stored.
        tokenizer: a folder with vocab.json and merges.txt, in place of the source's or CLIP's.
        vae: a file or folder that has a VAE, in place of the source's.
        tiny_vae: a file or folder of a tiny VAE that is to lie with the bundle; see `add_tiny_vae`.
        prediction: what the model predicts, in place of what the source says.
        loras: what is added to the weights for good; each is `FILE`, `FILE:SCALE` or a `LoraSpec`.
        force: replace a bundle that is there; its tiny VAE stays, unless another is given.
        on_progress: is told what is being done, and the share of the work that is done.

    Raises:
        CheckpointError: the source cannot be read, or there is no template of its architecture; see those below it.
        InvalidRequestError: a LoRA or the tiny VAE does not fit.
        OutputExistsError, OutputError: the output is taken or cannot be written.
        BundleFormatError: the templates belong to another version.
        RuntimeUnavailableError, OperatorUnavailableError: ONNX Runtime is missing, or too old for the graphs.

    """
    report = on_progress or (lambda _what, _done: None)
    onnxruntime()  # needed for the check at the end; better missed now than then
    with BundleWriter(Path(output), force=force) as writer:
        if not Path(source).exists():
            raise CheckpointNotFoundError(f"there is no {source}; give a .ckpt, a .safetensors or a diffusers folder")
        checkpoint = read_source(
            Path(source),
            tokenizer=_path(tokenizer),
            vae=_path(vae),
            prediction=prediction,
            check_defaults=with_our_names,
        )
        template = find_template(checkpoint, weights)
        writer.require_space(template.size)
        for note in checkpoint.notes:
            report(f"{checkpoint.name}: {note}", 0.0)
        for name, content in template.files.items():
            writer.write(name, content)
        manifest = _manifest(checkpoint, template, weights, writer)
        if tiny_vae is not None:
            report("adding the tiny VAE", 0.0)
            check_latents(write_tiny_vae(read_tiny_vae(Path(tiny_vae)), writer.folder / TINY_VAE), manifest.latents)
        used = [_use(LoraSpec.of(given), Bundle(writer.folder, manifest)) for given in loras]

        share = _PLACED[bool(manifest.int8_graphs)]
        placed = place_weights(checkpoint, template, used, writer.folder, lambda what, done: report(what, share * done))
        manifest = msgspec.structs.replace(
            manifest,
            provenance=_provenance(checkpoint, template, used, placed.sources_sha256),
            files=writer.records(placed.files_sha256),
        )
        if manifest.int8_graphs:
            report("comparing 8-bit with exact arithmetic on a picture", share)
            certify(Bundle(writer.folder, manifest), placed.int8_errors, checkpoint.name)
        else:
            report("computing once with each network", share)
            check_evaluations(Bundle(writer.folder, manifest), checkpoint.name)
        report("making sure that all is on the disk", 0.95)
        writer.publish(msgspec.structs.replace(manifest, files=writer.records(placed.files_sha256)))
    report("done", 1.0)
    return Bundle.open(output)


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


def _use(spec: LoraSpec, bundle: Bundle) -> Lora:
    return Lora(read_lora(spec.path, bundle), spec.scale, spec.text_encoder_scale)


def _manifest(checkpoint: Source, template: Template, weights: WeightStorage, writer: BundleWriter) -> Manifest:
    """Return the manifest of the template's networks with what the checkpoint says of itself."""
    vae = checkpoint.vae.spec
    return Manifest(
        format_version=FORMAT_VERSION,
        architecture=checkpoint.architecture,
        target="cpu",
        weights=weights,
        onnxruntime=template.onnxruntime,
        **template.components,
        tokenizer=writer.write_tokenizer(checkpoint.tokenizer, checkpoint.text_encoder.spec.max_position_embeddings),
        schedule=checkpoint.schedule,
        latents=LatentSpec(channels=vae.latent_channels, downscale=vae.downscale, scaling_factor=vae.scaling_factor),
        defaults=checkpoint.defaults,
        provenance=_provenance(checkpoint, template),
        files=template.records,
        vocabulary=writer.write_vocabulary(checkpoint.vocabulary),
    )


def _provenance(
    checkpoint: Source,
    template: Template,
    loras: Iterable[Lora] = (),
    sources: Mapping[str, str] = MappingProxyType({}),
) -> Provenance:
    tools = template.networks[0].tools
    inherited = (
        f"imported into graphs that pocket-diffusion {tools['pocket-diffusion']} traced with torch {tools['torch']}; "
        "parity and memory were measured then, on random weights of these networks"
    )
    return Provenance(
        source=checkpoint.name,
        source_sha256=dict(sources),
        license=checkpoint.license,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        tools=tools | {"pocket-diffusion": __version__},
        notes=(*checkpoint.notes, *map(str, loras), inherited),
    )
