"""Graphs from strangers are refused before they are run, and inputs before they reach ONNX Runtime."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from pocket_diffusion import Pipeline, PocketDiffusionError
from pocket_diffusion import graph as graph_module
from pocket_diffusion.bundle import COMPONENTS, Manifest, Target, read_manifest
from pocket_diffusion.errors import (
    BundleDamagedError,
    InferenceError,
    InvalidRequestError,
    ProviderUnavailableError,
    RuntimeUnavailableError,
)
from pocket_diffusion.machine import session
from pocket_diffusion.machine.cuda import Cuda
from pocket_diffusion.machine.session import GraphSession, check_threads, choose_provider, renew_shared_arena
from pocket_diffusion.pipeline import OtherTargetWarning
from stub_driver import StubDriver


def load_unet(bundle: Path) -> GraphSession:
    return GraphSession(bundle, "unet", read_manifest(bundle).unet, "cpu")


def move_weights(bundle: Path, manifest: Manifest, location: str) -> Path:
    """Let the U-Net's graph name another file, of as many characters; return the file it now means, made readable."""
    graph = bundle / manifest.unet.graph
    old = PurePosixPath(manifest.unet.weights).name.encode()
    assert len(location.encode()) == len(old)
    content = graph.read_bytes()
    assert old in content
    graph.write_bytes(content.replace(old, location.encode()))
    outside = graph.parent / location
    outside.write_bytes((bundle / manifest.unet.weights).read_bytes())
    return outside


@pytest.mark.parametrize("form", ["../{}", "/tmp/{}", "{}"])
def test_a_graph_whose_weights_lie_elsewhere_is_refused_and_they_are_never_mapped(
    bundle: Path, manifest: Manifest, edit_manifest: Callable[..., None], run_cli: Callable[..., Any], form: str
) -> None:
    length = len(PurePosixPath(manifest.unet.weights).name) - len(form.format(""))
    location = form.format("pdtest.weights_of_another_file"[:length])
    outside = move_weights(bundle, manifest, location)
    try:
        edit_manifest(lambda _: None)  # sizes and sha256s that agree
        with pytest.raises(BundleDamagedError, match="which is none of its files in the manifest"):
            load_unet(bundle)
        assert outside.name not in Path("/proc/self/maps").read_text()
        exact = ("-m", bundle, "--arithmetic", "exact")
        outcome = run_cli("generate", "a lake", *exact, "--steps", 1, "--width", 64, "--height", 64)
        assert outcome.code == 2
        assert "unet.onnx" in outcome.error
        outcome = run_cli("verify", bundle)
        assert outcome.code == 1
        assert "unet.onnx reads '" in outcome.err
    finally:
        outside.unlink()


@pytest.mark.parametrize("damage", [b"", b"\xff" * 5000, b"\x00", b"not a graph", "half", "last byte"], ids=repr)
def test_garbage_for_a_graph_is_an_error(
    bundle: Path, manifest: Manifest, edit_manifest: Callable[..., None], damage: bytes | str
) -> None:
    graph = bundle / manifest.unet.graph
    content = graph.read_bytes()
    if isinstance(damage, bytes):
        graph.write_bytes(damage)
    else:
        graph.write_bytes(content[: len(content) // 2] if damage == "half" else content[:-1])
    edit_manifest(lambda _: None)
    with pytest.raises(BundleDamagedError, match=graph.name):
        load_unet(bundle)


@pytest.mark.parametrize("kept", [0, 1, 0.5])
def test_truncated_weights_that_the_manifest_agrees_with_are_an_error_not_a_crash(
    bundle: Path, manifest: Manifest, edit_manifest: Callable[..., None], kept: float
) -> None:
    weights = bundle / manifest.unet.weights
    content = weights.read_bytes()
    weights.write_bytes(content[: int(kept * len(content)) if kept != 1 else -1])
    edit_manifest(lambda _: None)
    code = (
        "import sys; from pocket_diffusion import Pipeline\n"
        "pipeline = Pipeline.load(sys.argv[1], provider='cpu', arithmetic='exact')\n"
        "try: pipeline.generate('a lake', width=64, height=64, steps=1)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "BundleDamagedError\n"), done.stderr


def test_weights_truncated_after_the_bundle_was_opened_are_an_error(bundle: Path, manifest: Manifest) -> None:
    pipeline = Pipeline.load(bundle, provider="cpu")
    with (bundle / manifest.unet.weights).open("r+b") as weights:
        weights.truncate(1000)
    with pytest.raises(BundleDamagedError, match="has 1000 bytes, not"):
        pipeline.generate("a lake", width=64, height=64, steps=1)


@pytest.mark.parametrize("write", ["truncate", "overwrite"])
def test_mapped_weights_that_something_writes_to_are_an_error(bundle: Path, manifest: Manifest, write: str) -> None:
    weights = bundle / manifest.unet.weights
    unet = load_unet(bundle)
    unet.run(**unet_inputs(manifest))
    before = weights.stat()
    with weights.open("r+b") as file:
        if write == "truncate":
            file.truncate(1000)
        else:
            file.write(b"other numbers")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1))  # file systems count time in ticks
    with pytest.raises(BundleDamagedError, match=r"unet\.weights was written to while it was in use; load"):
        unet.run(**unet_inputs(manifest))


@pytest.mark.parametrize("replace", [True, False], ids=["replaced", "gone"])
def test_mapped_weights_outlive_their_name(bundle: Path, manifest: Manifest, replace: bool) -> None:
    """As when another export takes the bundle's place."""
    weights = bundle / manifest.unet.weights
    unet = load_unet(bundle)
    expected = unet.run(**unet_inputs(manifest))["noise"]
    weights.unlink()
    if replace:
        weights.write_bytes(b"other numbers")
    np.testing.assert_array_equal(unet.run(**unet_inputs(manifest))["noise"], expected)


@pytest.mark.parametrize(
    ("old", "new", "lacking"),
    [
        (rb'"\x04Conv', b'"\x04Cozz', "the operator Cozz"),
        (rb'"\x12MultiHeadAttention', b'"\x12MultiHeadAttentiox', "the operator com.microsoft:MultiHeadAttentiox"),
        (rb"B\x04\n\x00\x10[\x01-\x7f]", b"B\x04\n\x00\x10\x63", "ONNX operator set 99"),
        (rb"^\x08[\x01-\x7f]", b"\x08\x63", "ONNX file format 99"),
    ],
    ids=["operator", "contributed operator", "operator set", "file format"],
)
def test_an_operator_that_onnxruntime_lacks_is_named_with_the_version_needed(
    bundle: Path,
    manifest: Manifest,
    edit_manifest: Callable[..., None],
    run_cli: Callable[..., Any],
    old: bytes,
    new: bytes,
    lacking: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = graph_module.OPERATORS | {"Cozz", "com.microsoft:MultiHeadAttentiox"}
    monkeypatch.setattr(graph_module, "OPERATORS", known)
    graph = bundle / manifest.unet.graph
    changed, count = re.subn(old, lambda _: new, graph.read_bytes())
    assert count > 0
    graph.write_bytes(changed)
    edit_manifest(lambda data: data.update(onnxruntime="77.1"))
    exact = ("-m", bundle, "--arithmetic", "exact")
    outcome = run_cli("generate", "a lake", *exact, "--steps", 1, "--width", 64, "--height", 64)
    assert (outcome.code, outcome.out) == (2, "")
    assert f"{graph} uses {lacking}, which ONNX Runtime " in outcome.error
    assert "lacks; the bundle needs version 77.1 or newer: update onnxruntime" in outcome.error


@pytest.mark.parametrize("component", COMPONENTS)
def test_expanded_weights_compute_the_same(pipeline: Pipeline, manifest: Manifest, component: str) -> None:
    folder, spec = pipeline.bundle.root, manifest.component(component)
    sizes = {"batch": 1, "tokens": manifest.tokenizer.max_tokens}
    inputs = {
        tensor.name: np.random.default_rng(0)
        .normal(0, 1, [sizes.get(side, 16) if isinstance(side, str) else side for side in tensor.shape])
        .astype(tensor.dtype)
        for tensor in spec.inputs
    }
    if component == "text_encoder":
        inputs = {name: np.abs(array) for name, array in inputs.items()}
    expected = GraphSession(folder, component, spec, "cpu").run(**inputs)
    renew_shared_arena()
    for options in ({"expand_weights": True}, {"arena": "none"}, {"arena": "shared"}):
        found = GraphSession(folder, component, spec, "cpu", **options).run(**inputs)
        assert list(found) == list(expected)
        for name, output in expected.items():
            np.testing.assert_allclose(found[name], output, atol=1e-5 * np.abs(output).max(), err_msg=str(options))


def test_a_closed_session_cannot_be_run(pipeline: Pipeline, manifest: Manifest) -> None:
    unet = GraphSession(pipeline.bundle.root, "unet", manifest.unet, "cpu", expand_weights=True)
    unet.close()
    with pytest.raises(InferenceError, match="unet was closed"):
        unet.run(**unet_inputs(manifest))


@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_a_graph_that_is_not_the_one_described_is_refused(pipeline: Pipeline, manifest: Manifest, kind: str) -> None:
    first, *others = getattr(manifest.unet, kind)
    described = msgspec.structs.replace(
        manifest.unet, **{kind: (msgspec.structs.replace(first, name="other"), *others)}
    )
    with pytest.raises(BundleDamagedError, match=f"has the {kind} .* not those of the manifest"):
        GraphSession(pipeline.bundle.root, "unet", described, "cpu")


def test_a_graph_that_the_exporter_would_not_write_is_refused(
    bundle: Path, manifest: Manifest, edit_manifest: Callable[..., None], run_cli: Callable[..., Any]
) -> None:
    """Its operator would be run: this ONNX Runtime knows it."""
    graph = bundle / manifest.unet.graph
    changed, count = re.subn(rb'"\x03Sin', b'"\x03Tan', graph.read_bytes())
    assert count > 0
    graph.write_bytes(changed)
    edit_manifest(lambda _: None)
    with pytest.raises(BundleDamagedError, match="uses the operator 'Tan', which no exported graph has; update"):
        load_unet(bundle)
    assert run_cli("verify", bundle).code == 1


def test_a_graph_that_is_a_pipe_or_has_no_end_is_refused(bundle: Path, manifest: Manifest) -> None:
    graph = bundle / manifest.unet.graph
    graph.unlink()
    os.mkfifo(graph)
    with pytest.raises(BundleDamagedError, match="cannot be read: Not a regular file"):
        load_unet(bundle)
    graph.unlink()
    with graph.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BundleDamagedError, match="cannot be read: Over 16,777,216 bytes"):
        load_unet(bundle)


def unet_inputs(manifest: Manifest) -> dict[str, np.ndarray]:
    sizes = {"batch": 1, "contexts": 1, "height": 8, "width": 8, "tokens": manifest.tokenizer.max_tokens}
    return {
        spec.name: np.zeros([sizes.get(side, side) if isinstance(side, str) else side for side in spec.shape], "f4")
        for spec in manifest.unet.inputs
    }


def test_inputs_that_fit_are_computed_as_float32(pipeline: Pipeline, manifest: Manifest) -> None:
    inputs = unet_inputs(manifest)
    output = pipeline.components.run("unet", **inputs)["noise"]
    assert output.shape == inputs["latents"].shape
    assert output.dtype == np.float32
    same = pipeline.components.run("unet", **{name: array.astype(np.float64) for name, array in inputs.items()})
    np.testing.assert_array_equal(output, same["noise"])


@pytest.mark.parametrize(
    ("name", "array", "why"),
    [
        ("latents", np.zeros((1, 4, 8), "f4"), "latents must be"),
        ("latents", np.zeros((1, 9, 8, 8), "f4"), "latents must be"),
        ("latents", np.zeros((0, 4, 8, 8), "f4"), "latents must be"),
        ("latents", np.zeros((2, 4, 8, 8), "f4"), "must be"),  # a batch of two beside batches of one
        ("context", np.zeros((1, 77, 3), "f4"), "context must be"),
        ("mystery", np.zeros(1, "f4"), "takes"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    pipeline: Pipeline, manifest: Manifest, name: str, array: np.ndarray, why: str
) -> None:
    with pytest.raises(InvalidRequestError, match=why) as caught:
        pipeline.components.run("unet", **{**unet_inputs(manifest), name: array})
    assert isinstance(caught.value, ValueError)


def test_ids_must_be_whole_numbers(pipeline: Pipeline, manifest: Manifest) -> None:
    with pytest.raises(InvalidRequestError, match="whole numbers"):
        pipeline.components.run("text_encoder", ids=np.zeros((1, manifest.tokenizer.max_tokens), "f4"))


def test_a_failure_while_computing_is_one_line_with_the_shapes(
    pipeline: Pipeline, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory\nat line 7")

    unet = load_unet(pipeline.bundle.root)
    monkeypatch.setattr(unet, "_session", SimpleNamespace(run=fail))
    with pytest.raises(InferenceError, match=r"unet failed at latents \[1, .*out of memory; .*smaller size") as caught:
        unet.run(**unet_inputs(manifest))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("threads", [0, -1, 10**4, "4", 1.5, True, "9" * 400])
def test_threads_that_make_no_sense_are_refused(threads: object) -> None:
    with pytest.raises(InvalidRequestError, match="threads must be a whole number from 1 to 1024") as caught:
        check_threads(threads)
    assert len(str(caught.value)) < 100


def test_threads_are_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocket_diffusion.pipeline.cores", lambda: 3)
    for threads in (1, 3):
        unet = Pipeline.load(provider="cpu", threads=threads).components.open_session("unet")
        assert unet._session.get_session_options().intra_op_num_threads == threads


@pytest.mark.parametrize(
    ("asked", "found", "target", "chosen"),
    [
        ("cpu", Cuda(), "cuda", "cpu"),
        ("auto", Cuda("no driver"), "cpu", "cpu"),
        ("auto", Cuda("no driver"), "cuda", "cpu"),
        ("auto", Cuda(), "cpu", "cpu"),
        ("auto", Cuda(), "cuda", "cuda"),
        ("cuda", Cuda(), "cpu", "cuda"),
    ],
)
def test_auto_means_cuda_where_machine_and_bundle_agree(
    monkeypatch: pytest.MonkeyPatch, asked: str, found: Cuda, target: Target, chosen: str
) -> None:
    monkeypatch.setattr(session, "usable_cuda", lambda: found)
    assert choose_provider(asked, target) == chosen


def test_an_unknown_provider_is_refused_with_those_allowed() -> None:
    with pytest.raises(InvalidRequestError, match="'tpu' is not known; choose one of auto, cpu, cuda"):
        Pipeline.load(provider="tpu")


def test_cuda_where_there_is_none_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderUnavailableError, match=r"no CUDA provider; .*pocket-diffusion\[cuda\]") as caught:
        Pipeline.load(provider="cuda")
    assert isinstance(caught.value, ValueError)


def test_cuda_that_was_compiled_in_and_cannot_be_used_says_why(driver: StubDriver) -> None:
    driver.version = 12080
    with pytest.raises(
        ProviderUnavailableError, match=r"for CUDA 12\.8, .* release 580 or newer; or use --provider cpu"
    ):
        Pipeline.load(provider="cuda")


def test_auto_draws_a_bundle_for_cuda_on_the_cpu_and_says_why(
    bundle: Path, edit_manifest: Callable[..., None], driver: StubDriver, run_cli: Callable[..., Any]
) -> None:
    driver.is_there = False
    edit_manifest(lambda data: data.update(target="cuda"))
    small = ("--width", 64, "--height", 64, "--steps", 1)
    outcome = run_cli("generate", "a lake", "-m", bundle, *small, "--quiet", "-o", "lake.png")
    assert outcome.code == 0
    (warning,) = outcome.err.splitlines()
    assert "runs slower on cpu since CUDA cannot be used: no NVIDIA driver is found" in warning


def test_the_portable_graph_is_what_a_cpu_computes(bundle: Path, edit_manifest: Callable[..., None]) -> None:
    def move(data: dict[str, Any]) -> None:
        for role in COMPONENTS:
            graph, portable = bundle / f"{role}.onnx", f"{role}.portable.onnx"
            data["files"][portable] = data["files"][graph.name]
            data[role]["portable"] = portable
            graph.rename(bundle / portable)
            graph.write_bytes(b"for CUDA alone")

    edit_manifest(move)
    edit_manifest(lambda data: data.update(target="cuda"))
    with pytest.warns(OtherTargetWarning):
        pipeline = Pipeline.load(bundle, provider="cpu", arithmetic="exact")
    picture = pipeline.generate("a lake", width=64, height=64, steps=1, seed=7).images[0]
    own = Pipeline.load(provider="cpu", arithmetic="exact").generate("a lake", width=64, height=64, steps=1, seed=7)
    assert picture.tobytes() == own.images[0].tobytes()


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Have ONNX Runtime open sessions in another way, on a machine where CUDA can be used."""

    def give(open_one: Callable[..., object]) -> None:
        monkeypatch.setattr(session, "require_cuda", lambda: None)
        monkeypatch.setattr(session.onnxruntime(), "InferenceSession", open_one)

    return give


def test_a_session_that_fell_back_silently_is_refused(
    pipeline: Pipeline, manifest: Manifest, opens: Callable[..., None]
) -> None:
    opens(lambda *_, **__: SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"]))
    with pytest.raises(
        ProviderUnavailableError, match=r"does not start CUDA.*providers_cuda\.so: cannot open.*CUDA 13 and cuDNN 9"
    ):
        GraphSession(pipeline.bundle.root, "unet", manifest.unet, "cuda")


def test_a_failure_of_cuda_while_a_session_opens_is_no_fault_of_the_bundle(
    pipeline: Pipeline, manifest: Manifest, opens: Callable[..., None]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(
            "cuda_call.cc:154 std::conditional_t<THRW, void, Status> [with ERRTYPE = cudaError] CUDA failure 36: API "
            "call is not supported in the installed CUDA driver ; GPU=-1 ; hostname=vm ; expr=cudaSetDevice(0);"
        )  # what 1.31.1 said over a stub of a driver

    opens(fail)
    with pytest.raises(
        ProviderUnavailableError, match=r"\(CUDA failure 36: API call is not supported in the installed CUDA driver\)"
    ):
        GraphSession(pipeline.bundle.root, "unet", manifest.unet, "cuda")


def test_onnxruntime_is_not_to_go_on_by_itself_on_the_cpu(
    pipeline: Pipeline, manifest: Manifest, opens: Callable[..., None]
) -> None:
    """Where it is on, it prints, and computes on the CPU after any failure on the GPU."""
    real, opened = session.onnxruntime().InferenceSession, []

    def watched(*arguments: object, providers: object, **options: object) -> object:
        opened.append(real(*arguments, providers=["CPUExecutionProvider"], **options))
        return opened[0]

    opens(watched)
    GraphSession(pipeline.bundle.root, "vae_decoder", manifest.vae_decoder, "cpu")
    assert opened[0]._enable_fallback is False


def test_a_missing_onnxruntime_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(session, "installed_flavours", dict)
    with pytest.raises(
        RuntimeUnavailableError, match=r'not installed; run `pip install "pocket-diffusion\[cpu\]"'
    ) as e:
        Pipeline.load()
    assert isinstance(e.value, ImportError)
    assert isinstance(e.value, PocketDiffusionError)


def test_ctrl_c_while_onnxruntime_is_loaded_stays_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    class Finder:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "onnxruntime":
                raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(KeyboardInterrupt):
        session.onnxruntime()


def test_an_onnxruntime_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(session, "installed_flavours", lambda: {"onnxruntime": "1"})
    with pytest.raises(RuntimeUnavailableError, match="does not load"):
        session.onnxruntime()
