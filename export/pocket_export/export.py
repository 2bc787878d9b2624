"""The story on one page: read → build → trace → rewrite → write → check → (certify) → publish."""

import datetime
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
import onnx_ir as ir

from pocket_diffusion.bundle import (
    FORMAT_VERSION,
    TOKEN_DOWNSAMPLING,
    Bundle,
    Component,
    LatentSpec,
    Manifest,
    Provenance,
    Target,
    TensorSpec,
    TokenizerSpec,
    WeightStorage,
    sha256_of,
)
from pocket_diffusion.machine.cpu import products_are_right
from pocket_diffusion.machine.session import onnxruntime
from pocket_export.certify import Certifier
from pocket_export.checkpoint import Checkpoint, read_checkpoint
from pocket_export.graph_file import write_graph
from pocket_export.memory import measure_memory
from pocket_export.parity import measure_parity
from pocket_export.parts import PARTS, Part, check_tensors
from pocket_export.sensitivity import measure_int8_errors
from pocket_export.targets import OLDEST_ONNXRUNTIME, Recipe, recipe
from pocket_export.tokenizer_files import TokenizerFiles
from pocket_export.trace import trace
from pocket_export.writer import BundleWriter

OnProgress = Callable[[str, float], None]
"""Called with what is being done and the share of the work that is done, 0…1."""

_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
# Measured on two cores with Stable Diffusion 1.5's shape and with the embedded model; for the estimate alone.
_FIXED_SECONDS, _SECONDS_PER_PARAMETER = 30, 1.1e-7
_SHARE_OF_EXACT = 0.4  # of the time, where 8-bit graphs are made as well
_OPTIONS = (TensorSpec(name=TOKEN_DOWNSAMPLING, dtype="int64", shape=(1,)),)
_TOKENIZER = ("tokenizer/vocab.json", "tokenizer/merges.txt")


def export(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    target: Target = "cpu",
    weights: WeightStorage = "fp16",
    tokenizer: str | os.PathLike[str] | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Bundle:
    """Turn a checkpoint into a bundle; it appears at `output` complete and checked, or not at all.

    Raises:
        CheckpointError: the source cannot be read or is no Stable Diffusion 1.x; see those below it.
        InvalidRequestError: no bundle is made for that target with that storage of weights.
        OutputExistsError, OutputError: the output is taken or cannot be written.
        ParityError: the graphs do not compute what PyTorch does.

    """
    report = on_progress or (lambda _what, _done: None)
    how = recipe(target, weights)
    onnxruntime()  # needed for the check at the end; better missed now than then
    if how.in_8_bits and not products_are_right():
        report("no 8-bit graphs: this CPU's 8-bit products overflow; export on a CPU with VNNI to have them", 0.0)
        how = replace(how, in_8_bits=())
    with BundleWriter(Path(output), force=force) as writer:
        checkpoint = read_checkpoint(os.fspath(source), None if tokenizer is None else Path(tokenizer))
        check_tensors(checkpoint)
        numbers = sum(
            t.numel() for part in (checkpoint.text_encoder, checkpoint.unet, checkpoint.vae) for t in part.values()
        )
        writer.require_space(numbers * _BYTES[weights])
        share = _SHARE_OF_EXACT if how.in_8_bits else 1.0
        seconds = (_FIXED_SECONDS + numbers * _SECONDS_PER_PARAMETER) / share
        report(f"{checkpoint.name}: {numbers / 1e6:.0f} M parameters, about {seconds:.0f} s on two cores", 0.0)

        writer.write(_TOKENIZER[0], checkpoint.tokenizer.vocab)
        writer.write(_TOKENIZER[1], checkpoint.tokenizer.merges)
        components: dict[str, Component] = {}
        done = 0
        for make in PARTS:
            part = make(checkpoint)
            tell = partial(_report_share, report, share * done / numbers)
            components[part.name] = _export_part(part, how, writer, tell)
            done += part.parameters
            del part
            gc.collect()  # before the next network is built: two of them need not fit
        if how.in_8_bits:
            exact = Bundle(writer.folder, _manifest(checkpoint, components, target, weights, writer))
            certifier = Certifier(exact, partial(_report_share, report, share))
            for make in (make for make in PARTS if make.__name__ in how.in_8_bits):
                part = make(checkpoint)
                components[part.name] = certifier.certify(part)
                del part
                gc.collect()

        report("hashing the files", 0.99)
        writer.publish(_manifest(checkpoint, components, target, weights, writer))
    report("done", 1.0)
    return Bundle.open(output)


def _report_share(report: OnProgress, done: float, what: str) -> None:
    report(what, done)


def _export_part(part: Part, how: Recipe, writer: BundleWriter, report: Callable[[str], None]) -> Component:
    size = f"{part.name}, {part.parameters / 1e6:.1f} M parameters"
    report(f"tracing {size}")
    model = trace(part, how.compute)
    if how.weights == "int8":
        report(f"measuring int8 on {size}")
        model.meta["int8_errors"] = measure_int8_errors(part)
    for rewrite in how.rewrites:
        model = rewrite(model)
    if how.weights == "int8" and part.name not in how.in_8_bits:
        writer.write(f"{part.name}.int8.json", msgspec.json.format(msgspec.json.encode(model.meta["int8_layers"])))
    report(f"writing {size}")
    component = Component(
        graph=f"{part.name}.onnx",
        weights=f"{part.name}.weights",
        inputs=_tensor_specs(model.graph.inputs, part.inputs),
        outputs=_tensor_specs(model.graph.outputs, part.outputs),
        parameters=part.parameters,
        parity=(),
        options=tuple(spec for spec in _OPTIONS if spec.name in {value.name for value in model.graph.inputs}),
    )
    write_graph(model, writer.folder / component.graph, component.weights)
    del model
    report(f"checking {size}")
    figures = measure_parity(part, writer.folder, component, how.tolerance)
    memory = measure_memory(part, writer.folder, component) if how.target == "cpu" else None
    return msgspec.structs.replace(component, parity=figures, memory=memory)


def _tensor_specs(values: Sequence[ir.Value], like: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    """Describe a graph's inputs or outputs: our names for the sizes, the graph's types."""
    by_name = {value.name: value for value in values}
    return tuple(
        TensorSpec(name=spec.name, dtype=str(by_name[spec.name].dtype.numpy().name), shape=spec.shape)  # type: ignore[union-attr, arg-type] # the exporter gives every one a type; msgspec checks that we know it
        for spec in like
    )


def _manifest(
    checkpoint: Checkpoint,
    components: dict[str, Component],
    target: Target,
    weights: WeightStorage,
    writer: BundleWriter,
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        architecture="stable-diffusion-1",
        target=target,
        weights=weights,
        onnxruntime=OLDEST_ONNXRUNTIME,
        **components,
        tokenizer=_tokenizer_spec(checkpoint.tokenizer, checkpoint.text_encoder_config.max_position_embeddings),
        schedule=checkpoint.schedule,
        latents=LatentSpec(
            channels=checkpoint.unet_config.in_channels,
            downscale=checkpoint.vae_config.downscale,
            scaling_factor=checkpoint.vae_config.scaling_factor,
        ),
        defaults=checkpoint.defaults,
        provenance=Provenance(
            source=checkpoint.name,
            source_sha256={name: sha256_of(path) for name, path in checkpoint.files.items()},
            license=checkpoint.license,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            tools={name: version(name) for name in ("pocket-diffusion", "torch", "onnx", "onnxscript")},
        ),
        files=writer.records(),
    )


def _tokenizer_spec(files: TokenizerFiles, max_tokens: int) -> TokenizerSpec:
    vocab, merges = _TOKENIZER
    return TokenizerSpec(
        vocab=vocab,
        merges=merges,
        max_tokens=max_tokens,
        start_id=files.start_id,
        end_id=files.end_id,
        pad_id=files.pad_id,
    )
