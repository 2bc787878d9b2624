"""What the runtime's tests share: the embedded bundle, loaded once, and the command line, called in this process."""

import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import Manifest, read_manifest
from pocket_diffusion.cli import main
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

EditManifest = Callable[[Callable[[dict[str, Any]], object]], None]


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
    return Pipeline.load(provider="cpu")


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
