"""How a LoRA file and its scales are written."""

from pathlib import Path

import pytest

from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.model.lora import LoraSpec


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        ("a.safetensors", LoraSpec(Path("a.safetensors"))),
        ("a.safetensors:0.8", LoraSpec(Path("a.safetensors"), 0.8)),
        ("b/a.pt:-1:.5", LoraSpec(Path("b/a.pt"), -1, 0.5)),
        ("C:\\a.pt:2", LoraSpec(Path("C:\\a.pt"), 2)),
        ("a:b:1", LoraSpec(Path("a:b"), 1)),
        ("a.pt:1e3", LoraSpec(Path("a.pt:1e3"))),
        (Path("a:0.5"), LoraSpec(Path("a:0.5"))),
    ],
)
def test_a_file_and_its_scales(given: str | Path, spec: LoraSpec) -> None:
    assert LoraSpec.of(given) == spec


def test_refuses_scales_that_make_no_sense() -> None:
    with pytest.raises(InvalidRequestError, match="the scale of LoRA a must be a number from -100 to 100, not 101"):
        LoraSpec.of("a.pt:101")
    with pytest.raises(InvalidRequestError, match="not nan"):
        LoraSpec(Path("a.pt"), text_encoder_scale=float("nan"))
    with pytest.raises(InvalidRequestError, match="a LoRA needs a file"):
        LoraSpec.of("")
