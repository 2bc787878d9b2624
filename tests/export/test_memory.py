"""What the exporter measures of a component's memory."""

from pathlib import Path

import pytest

from pocket_diffusion.bundle import Bundle
from pocket_export.checkpoint import read_checkpoint
from pocket_export.memory import measure_memory
from pocket_export.parts import text_encoder


def test_nothing_in_the_working_folder_is_executed(
    tiny_bundle_fp16: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People export from inside a folder that a stranger made."""
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    component = Bundle.open(tiny_bundle_fp16).manifest.text_encoder
    assert measure_memory(text_encoder(read_checkpoint(str(tiny_folder), None)), tiny_bundle_fp16, component)
    assert not (tmp_path / "executed").exists()
