"""Headers that break the format's rules: refused by what is wrong with them."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.errors import CheckpointError, UnsupportedModelError
from weights_files import with_header, write_safetensors


def f32(start: int, end: int, **other: object) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end], **other}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_header({"a": f32(0, 4)}, b"0000", length=2**63), "its header claims"),
        (with_header(b"[" * 100_000), "its header is not JSON"),
        (with_header(b"[1, 2, 3]"), "is damaged"),
        (with_header({"a": f32(0, 8), "b": f32(4, 12)}, b"0" * 12), "a hole or an overlap before 'b'"),
        (with_header({"a": f32(0, 8), "b": f32(0, 8)}, b"0" * 8), "a hole or an overlap before 'b'"),
        (with_header({"a": f32(0, 4), "b": f32(8, 12)}, b"0" * 12), "a hole or an overlap before 'b'"),
        (with_header({"a": f32(0, 4)}, b"0" * 12), r"its tensors end at byte 7\d, the file at"),
        (with_header({"a": f32(0, 40)}, b"0" * 12), "its tensors end at"),
        (with_header({"a": f32(0, 8, shape=[3])}, b"0" * 8), "'a' has 8 bytes, which its shape is not made of"),
        (with_header({"a": f32(0, 8, shape=[2**62, 4, 2])}, b"0" * 8), "which its shape is not made of"),
        (with_header({"a": f32(8, 0)}, b"0" * 8), "which its shape is not made of|does not say what 'a' is"),
        (with_header({"a": f32(0, 4, shape=[1] * 9)}, b"0000"), "does not say what 'a' is"),
        (with_header({"a": f32(0, 4, shape=[1.0])}, b"0000"), "does not say what 'a' is"),
        (with_header({"a": f32(0, 4, shape=[True])}, b"0000"), "does not say what 'a' is"),
        (with_header({"a": f32(0, 4, shape=[-1, -1])}, b"0000"), "does not say what 'a' is"),
        (with_header({"a": f32(0, 4, shape=1)}, b"0000"), "does not say what 'a' is"),
        (with_header({"a": f32(0, 4, data_offsets=[0])}, b"0000"), "does not say what 'a' is"),
        (with_header({"a": f32(0, 4, dtype=["F32"])}, b"0000"), "does not say what 'a' is"),
        (with_header({"a\x1b[2J": 3}, b""), r"does not say what 'a\\x1b\[2J' is"),
        (with_header({"a": f32(0, 8, dtype="C64")}, b"0" * 8), "'a' holds numbers of an unknown type, 'C64'"),
        (with_header({"__metadata__": [], "a": f32(0, 4)}, b"0000"), "its metadata are not texts by name"),
        (with_header({"__metadata__": {"a": 1}, "a": f32(0, 4)}, b"0000"), "its metadata are not texts by name"),
        (with_header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'), "is not JSON"),
    ],
)
def test_refuses_a_bad_header(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_tensor_file(tmp_path / "a.safetensors")
    assert type(caught.value) is CheckpointError
    assert str(caught.value).isprintable()
    assert "a.safetensors is damaged" in str(caught.value)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4"])
def test_names_numbers_of_too_few_bits(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(with_header({"a": f32(0, 1, dtype=dtype, shape=[1])}, b"0"))
    with pytest.raises(UnsupportedModelError, match=f"'a' is stored as {dtype}.*get the float16 or bfloat16 file"):
        read_tensor_file(tmp_path / "a.safetensors")


def test_refuses_a_header_larger_than_any_model_needs(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 17 * 2**20) + b"{")
        file.truncate(100 * 2**20)  # sparse
    with pytest.raises(CheckpointError, match="its header claims 17,825,792 bytes"):
        read_tensor_file(path)


def test_reads_metadata_and_what_lies_in_any_order(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", {"a": np.ones(2, np.float32)}, {"format": "pt"})
    assert read_tensor_file(path).metadata == {"format": "pt"}
    data = np.arange(3, dtype=np.float32).tobytes()
    path.write_bytes(with_header({"b": f32(8, 12), "none": f32(8, 8), "a": f32(0, 8)}, data))
    tensors = read_tensor_file(path).tensors
    assert [tensors[name].read().tolist() for name in ("a", "b", "none")] == [[0, 1], [2], []]
