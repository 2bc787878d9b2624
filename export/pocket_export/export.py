"""The story on one page: read → build → trace → rewrite → write → check → (certify, or to float16) → publish."""

import datetime
import gc
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
import onnx_ir as ir

from pocket_diffusion.addon import TINY_VAE, check_latents
from pocket_diffusion.bundle import (
    CONCEPTS,
    FORMAT_VERSION,
    TOKEN_DOWNSAMPLING,
    Bundle,
    Component,
    FileRecord,
    LatentSpec,
    Manifest,
    Provenance,
    Target,
    TensorSpec,
    TokenizerSpec,
    WeightStorage,
    sha256_of,
)
from pocket_diffusion.calibration import PROMPTS, calibrate
from pocket_diffusion.checkpoint.noise_schedule import Prediction
from pocket_diffusion.checkpoint.tiny_vae import read_tiny_vae
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.machine.cpu import products_are_right
from pocket_diffusion.machine.session import onnxruntime
from pocket_diffusion.model.lora import LoraSpec
from pocket_diffusion.writer import BundleWriter, OnProgress
from pocket_export.certify import Certifier, captions_to_draw
from pocket_export.checkpoint import Checkpoint, read_checkpoint
from pocket_export.graph_file import layer_table, write_graph
from pocket_export.memory import measure_memory
from pocket_export.parity import measure_parity
from pocket_export.parts import PARTS, Part, check_tensors, part_sizes
from pocket_export.progress import Progress, plan
from pocket_export.ranges import Ranges
from pocket_export.rewrite.cuda import portable
from pocket_export.sensitivity import measure_int8_errors
from pocket_export.shallow import give_deep, with_shallow_memory, write_shallow
from pocket_export.targets import OLDEST_ONNXRUNTIME, Recipe, recipe
from pocket_export.tiny_vae import export_tiny_vae
from pocket_export.trace import trace

_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
_OPTIONS = (TOKEN_DOWNSAMPLING, CONCEPTS)


def export(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    target: Target = "cpu",
    weights: WeightStorage = "fp16",
    tokenizer: str | os.PathLike[str] | None = None,
    vae: str | os.PathLike[str] | None = None,
    tiny_vae: str | os.PathLike[str] | None = None,
    prediction: Prediction | None = None,
    calibration: str | os.PathLike[str] | None = None,
    loras: Iterable[str | os.PathLike[str] | LoraSpec] = (),
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Bundle:
    """Turn a checkpoint into a bundle; it appears at `output` complete and checked, or not at all.

    Args:
        source: a .ckpt, a .safetensors, a diffusers folder or a hub id.
        output: the folder that the bundle becomes.
        target: what it is tuned for.
        weights: how weights are stored.
        tokenizer: a folder with vocab.json and merges.txt, in place of the source's or CLIP's.
        vae: a file or folder that has a VAE, in place of the source's.
        tiny_vae: a file or folder of a tiny VAE that is to lie with the bundle.
        prediction: what the model predicts, in place of what the source says.
        calibration: a file of prompts, or the folder of Flickr30K, whose captions 8-bit arithmetic, or the range of
            float16, is measured on.
        loras: what is added to the weights for good; each is `FILE`, `FILE:SCALE` or a `LoraSpec`.
        force: replace a bundle that is there; its tiny VAE stays, unless another is given.
        on_progress: is told what is being done, and the share of the work that is done.

    Raises:
        CheckpointError: the source cannot be read or is no Stable Diffusion; see those below it.
        InvalidRequestError: no bundle is made for that target with that storage of weights, or a LoRA does not fit; or
            prompts are given that cannot be read, or that nothing would be measured on.
        OutputExistsError, OutputError: the output is taken or cannot be written.
        ParityError: the graphs do not compute what PyTorch does.

    """
    report = on_progress or (lambda _what, _done: None)
    how = recipe(target, weights)
    prompts = PROMPTS if calibration is None else captions_to_draw(Path(calibration))
    if calibration is not None and not (how.in_8_bits or how.in_float16):
        raise InvalidRequestError(
            "calibration is for arithmetic in 8 bits or float16; add --weights int8 or --target cuda, or leave it out"
        )
    onnxruntime()  # needed for the check at the end; better missed now than then
    if how.in_8_bits and not products_are_right():
        report("no 8-bit graphs: this CPU's 8-bit products overflow; export on a CPU with VNNI to have them", 0.0)
        how = replace(how, in_8_bits=())
    with BundleWriter(Path(output), force=force) as writer:
        checkpoint = read_checkpoint(
            os.fspath(source),
            _path(tokenizer),
            vae=_path(vae),
            prediction=prediction,
            loras=map(LoraSpec.of, loras),
        )
        check_tensors(checkpoint)
        sizes = part_sizes(checkpoint)
        numbers = sum(size.parameters for size in sizes.values())
        writer.require_space(numbers * _BYTES[weights])
        progress = Progress(
            report,
            plan(
                sizes,
                in_int8=weights == "int8",
                for_cpu=target == "cpu",
                in_8_bits=how.in_8_bits,
                in_float16=how.in_float16,
            ),
        )
        extent = f"{numbers / 1e6:.0f} M parameters, about {progress.seconds:.0f} s on two cores"
        for note in (*checkpoint.source.notes, extent):
            progress.tell(f"{checkpoint.source.name}: {note}")

        if tiny_vae is not None:
            progress.tell("adding the tiny VAE")
            addon = export_tiny_vae(read_tiny_vae(Path(tiny_vae)), writer.folder / TINY_VAE)
            check_latents(addon, _latents(checkpoint))
        max_tokens = checkpoint.text_encoder_config.max_position_embeddings
        manifest = partial(
            _manifest,
            checkpoint,
            target,
            weights,
            writer.write_tokenizer(checkpoint.source.tokenizer, max_tokens),
            writer.write_vocabulary(checkpoint.source.vocabulary),
        )
        components: dict[str, Component] = {}
        for make in PARTS:
            part = make(checkpoint)
            components[part.name] = export_part(part, how, writer, progress)
            del part
            gc.collect()  # before the next network is built: two of them need not fit
        if how.in_8_bits:
            progress.begin("", "draw", f"drawing {len(prompts)} pictures to measure 8-bit arithmetic on")
            bundle = Bundle(writer.folder, manifest(components, writer.records()))
            drawn = calibrate(bundle, prompts, encode=True)
            certifier = Certifier(writer.folder, drawn, progress)
            for make in (make for make in PARTS if make.__name__ in how.in_8_bits):
                part = make(checkpoint)
                components[part.name] = certifier.certify(part, components[part.name])
                del part
                gc.collect()

        if how.in_float16:
            progress.begin("", "draw", f"drawing {len(prompts)} pictures to measure how far numbers reach")
            ranges = Ranges(writer.folder, components)
            drawn_with = Bundle(writer.folder, manifest(components, writer.records()))
            calibrate(drawn_with, prompts, encode=True, open_network=ranges.open)
            for make in PARTS:
                part = make(checkpoint)
                progress.begin(part.name, "float16", f"checking {part.name} in float16")
                components[part.name] = ranges.to_float16(part, how.tolerance)
                del part
                gc.collect()

        progress.begin("", "finish", "hashing the files")
        writer.publish(manifest(components, writer.records()))
    report("done", 1.0)
    return Bundle.open(output)


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


def export_part(part: Part, how: Recipe, writer: BundleWriter, progress: Progress) -> Component:
    """Write one network, and measure it; it has no 8-bit graph yet.

    Raises:
        ExportError, ParityError: see `trace` and `measure_parity`.

    """
    begin = partial(progress.begin, part.name)
    size = f"{part.name}, {part.parameters / 1e6:.1f} M parameters"
    begin("trace", f"tracing {size}")
    model = trace(part)
    if how.weights == "int8":
        begin("int8", f"measuring int8 on {size}")
        model.meta["int8_errors"] = measure_int8_errors(part)
    for rewrite in how.rewrites:
        model = rewrite(model)
    if how.weights == "int8" and part.name not in how.in_8_bits:
        writer.write(f"{part.name}.int8.json", msgspec.json.format(msgspec.json.encode(model.meta["int8_layers"])))
    begin("write", f"writing {size}")
    component = Component(
        graph=f"{part.name}.onnx",
        weights=f"{part.name}.weights",
        inputs=_tensor_specs(model.graph.inputs, part.inputs),
        outputs=_tensor_specs(model.graph.outputs, part.outputs),
        parameters=part.parameters,
        parity=(),
        options=_options(model),
        layers=f"{part.name}.layers.json",
        portable=f"{part.name}.portable.onnx" if how.target == "cuda" else None,
    )
    if part.name == "unet":
        give_deep(model)
    write_graph(model, writer.folder / component.graph, component.weights)
    if component.portable is not None:
        write_graph(portable(model.clone()), writer.folder / component.portable)
    table = layer_table(model)
    writer.write(f"{part.name}.layers.json", msgspec.json.encode(table))
    if part.name == "unet":
        shallow = write_shallow(model, writer.folder, component, table)
        component = msgspec.structs.replace(component, shallow=shallow)
    del model
    begin("parity", f"checking {size}")
    figures = measure_parity(part, writer.folder, component, how.tolerance)
    memory = None
    if how.target == "cpu":
        begin("memory", f"measuring the memory of {size}")
        memory = measure_memory(part, writer.folder, component)
    return with_shallow_memory(msgspec.structs.replace(component, parity=figures, memory=memory))


def tool_versions() -> dict[str, str]:
    """Return the versions of what makes graphs."""
    return {name: version(name) for name in ("pocket-diffusion", "torch", "onnx", "onnxscript")}


def _tensor_specs(values: Sequence[ir.Value], like: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Describe a graph's inputs or outputs: our names for the sizes, the graph's types."""
    by_name = {value.name: value for value in values}
    return tuple(
        TensorSpec(name=spec.name, dtype=str(by_name[spec.name].dtype.numpy().name), shape=spec.shape)  # type: ignore[union-attr, arg-type] # the exporter gives every one a type; msgspec checks that we know it
        for spec in like
    )


def _options(model: ir.Model) -> tuple[TensorSpec, ...]:
    """Describe the inputs that callers may leave out; others that rewrites have added are none of theirs."""
    added = [value for value in model.graph.inputs if value.name in _OPTIONS]
    shapes = [[size if isinstance(size, int) else str(size.value) for size in value.shape or ()] for value in added]
    like = (TensorSpec(name=str(x.name), dtype="int64", shape=tuple(s)) for x, s in zip(added, shapes, strict=True))
    return _tensor_specs(added, tuple(like))


def _latents(checkpoint: Checkpoint) -> LatentSpec:
    config = checkpoint.vae_config
    return LatentSpec(channels=config.latent_channels, downscale=config.downscale, scaling_factor=config.scaling_factor)


def _manifest(
    checkpoint: Checkpoint,
    target: Target,
    weights: WeightStorage,
    tokenizer: TokenizerSpec,
    vocabulary: str | None,
    components: dict[str, Component],
    files: dict[str, FileRecord],
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        architecture=checkpoint.source.architecture,
        target=target,
        weights=weights,
        onnxruntime=OLDEST_ONNXRUNTIME,
        **components,
        tokenizer=tokenizer,
        schedule=checkpoint.source.schedule,
        latents=_latents(checkpoint),
        defaults=checkpoint.source.defaults,
        provenance=Provenance(
            source=checkpoint.source.name,
            source_sha256={name: sha256_of(path) for name, path in checkpoint.source.files.items()},
            license=checkpoint.source.license,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            tools=tool_versions(),
            notes=checkpoint.source.notes,
        ),
        files=files,
        vocabulary=vocabulary,
    )
