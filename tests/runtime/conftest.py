"""What the runtime's tests share: the embedded bundle, loaded once, and the command line, called in this process."""

import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import COMPONENTS, Manifest, read_manifest
from pocket_diffusion.cli import main
from pocket_diffusion.machine import cpu, cuda, session
from pocket_diffusion.pipeline import DEFAULT_BUNDLE
from stub_driver import StubDriver

EditManifest = Callable[[Callable[[dict[str, Any]], object]], None]
Certify = Callable[..., None]


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr, but for progress."""
        lines = [line for line in self.err.splitlines() if not line.startswith("drawing: ")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        return lines[0]


RunCli = Callable[..., Outcome]


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> RunCli:
    """Call the command line in an empty folder."""
    (tmp_path / "cwd").mkdir()

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = 0
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("default")
            patch.setattr(sys, "argv", ["pocket-diffusion", *map(str, arguments)])
            patch.setattr(warnings, "showwarning", warnings.showwarning)  # main() replaces it
            patch.chdir(tmp_path / "cwd")
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    """What the embedded bundle says of itself."""
    return read_manifest(DEFAULT_BUNDLE)


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    """The embedded bundle on the CPU."""
    return Pipeline.load(provider="cpu", arithmetic="exact")  # the same on every CPU


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> StubDriver:
    """A machine on which ONNX Runtime can use CUDA; what is there is to be changed."""
    stub = StubDriver()
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(cuda, "open_library", stub.open_library)
    monkeypatch.setattr(session, "available_providers", lambda: names)
    monkeypatch.setattr(session.onnxruntime(), "cuda_version", "13.0")
    return stub


@pytest.fixture
def edit_manifest(bundle: Path) -> EditManifest:
    """Change what a bundle says of itself, leaving its sizes and sha256s true."""

    def edit(change: Callable[[dict[str, Any]], object]) -> None:
        path = bundle / "bundle.json"
        data = json.loads(path.read_bytes())
        for name in data["files"]:
            content = (bundle / name).read_bytes()
            data["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        change(data)
        path.write_text(json.dumps(data))

    return edit


@pytest.fixture
def bundle_of_format_2(bundle: Path, edit_manifest: EditManifest) -> Path:
    """A bundle that was made before there were layer tables."""

    def change(data: dict[str, Any]) -> None:
        data["format_version"] = 2
        data["text_encoder"].pop("options", None)
        for role in COMPONENTS:
            del data["files"][data[role].pop("layers")]

    edit_manifest(change)
    return bundle


@pytest.fixture
def certify(bundle: Path, edit_manifest: EditManifest) -> Certify:
    """Give a component an 8-bit graph, which is its exact one, and a certificate; `figures` replace some of it."""

    def give(role: str, **figures: Any) -> None:  # noqa: ANN401 - a certificate's fields
        component = read_manifest(bundle).component(role)
        graph, certificate = f"{role}.int8.onnx", f"{role}.certificate.json"
        shutil.copy(bundle / component.graph, bundle / graph)
        content = {
            "graph_sha256": hashlib.sha256((bundle / graph).read_bytes()).hexdigest(),
            "weights_sha256": hashlib.sha256((bundle / component.weights).read_bytes()).hexdigest(),
            "bound": 0.05,
            "relative_error": 0.01,
            "largest_error": 0.02,
            "evaluations": 12,
            "psnr_db": 42.0,
            "what": "4 prompts at 3 timesteps",
            "layers": [],
        }
        (bundle / certificate).write_text(json.dumps(content | figures))
        int8 = {"graph": graph, "certificate": certificate, "memory": None}

        def change(data: dict[str, Any]) -> None:
            data[role]["int8"] = int8 | ({"shallow": data[role]["shallow"]} if "shallow" in data[role] else {})
            for name in (graph, certificate):
                written = (bundle / name).read_bytes()
                data["files"][name] = {"size": len(written), "sha256": hashlib.sha256(written).hexdigest()}

        edit_manifest(change)

    return give


@pytest.fixture
def set_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Have the CPU be one with these flags, or with flags that are not told, whose 8-bit products are right or not."""

    def set_to(*flags: str, right: bool = True) -> None:
        told = tmp_path / "cpuinfo"
        told.write_text(f"flags : {' '.join(flags)}\n")
        monkeypatch.setattr(cpu, "_CPU_INFO", told)
        monkeypatch.setattr(cpu, "products_are_right", lambda: right)

    return set_to
