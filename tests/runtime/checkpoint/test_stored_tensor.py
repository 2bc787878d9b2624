"""A tensor in a file: read as it is stored, at no more than its own cost."""

import os
from pathlib import Path

import numpy as np
import pytest

from pocket_diffusion.checkpoint.stored_tensor import StoredTensor
from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.errors import CheckpointError
from weights_files import make_arrays, tensor_opcodes, with_header, write_safetensors, write_torch_file, write_zip


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_reads_numbers_as_they_were_written(tmp_path: Path, name: str) -> None:
    arrays = make_arrays()
    write = write_safetensors if name.endswith(".safetensors") else write_torch_file
    tensors = read_tensor_file(write(tmp_path / name, arrays)).tensors
    assert tensors.keys() == arrays.keys()
    for key, array in arrays.items():
        read = tensors[key].read()
        assert (read.dtype, read.shape, tensors[key].shape) == (array.dtype, array.shape, array.shape)
        np.testing.assert_array_equal(read, array)
        assert tensors[key].dtype == array.dtype.name
        assert tensors[key].is_floating_point == (array.dtype.kind == "f")


def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path) -> None:
    numbers = np.array([1.0, -2.5, 3.140625, np.inf, 1e-40], np.float32)
    upper = (numbers.view(np.uint32) >> 16).astype("<u2")
    entry = {"dtype": "BF16", "shape": [5], "data_offsets": [0, 10]}
    (tmp_path / "a.safetensors").write_bytes(with_header({"a": entry}, upper.tobytes()))
    read = read_tensor_file(tmp_path / "a.safetensors").tensors["a"].read()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read.view(np.uint32) >> 16, upper)
    np.testing.assert_array_equal(read[:4], numbers[:4])


def test_reads_views_of_a_larger_storage(tmp_path: Path) -> None:
    whole = np.arange(48, dtype=np.float32).reshape(6, 8)
    views = {
        "transposed": (whole.T, (8, 6), (1, 8), 0),
        "columns": (whole[:, 2:5], (6, 3), (8, 1), 2),
        "every other row": (whole[1::2], (3, 8), (16, 1), 8),
    }
    for name, (expected, shape, strides, offset) in views.items():
        content = b"\x80\x02}X\1\0\0\0a" + tensor_opcodes("0", 48, shape, strides, offset) + b"s."
        path = write_zip(tmp_path / "a.pt", content, whole.tobytes())
        np.testing.assert_array_equal(read_tensor_file(path).tensors["a"].read(), expected, name)


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path, name: str) -> None:
    write = write_safetensors if name.endswith(".safetensors") else write_torch_file
    path = write(tmp_path / name, {"a": np.ones(100_000, np.float32)})
    tensor = read_tensor_file(path).tensors["a"]
    os.truncate(path, 100_000)
    with pytest.raises(CheckpointError, match=r"'a' is cut off: the file became shorter while it was read"):
        tensor.read()
    path.unlink()
    with pytest.raises(CheckpointError, match=r"'a' cannot be read: No such file"):
        tensor.read()


def test_says_that_memory_does_not_suffice(tmp_path: Path) -> None:
    tensor = StoredTensor("a", tmp_path, "float64", (2**47,), 0, (1,))
    with pytest.raises(CheckpointError, match=r"'a' is too large for this machine's memory"):
        tensor.read()


def test_refuses_tensors_that_cost_more_than_their_numbers(tmp_path: Path) -> None:
    def describe(shape: tuple[int, ...], strides: tuple[int, ...]) -> StoredTensor:
        return StoredTensor("a", tmp_path, "float32", shape, 0, strides)

    with pytest.raises(ValueError, match="claims more than it holds"):
        describe((1000,), (0,))  # one number a thousand times
    with pytest.raises(ValueError, match="claims more than it holds"):
        describe((100, 100), (1, 1))  # 199 numbers fifty times
    with pytest.raises(ValueError, match="claims more than it holds"):
        describe((4,), (-1,))
    for shape, strides in (((1,), (2**60,)), ((0,), (2**60,)), ((2**60, 0), (1, 1))):  # which NumPy cannot count
        with pytest.raises(ValueError, match="claims more than it holds"):
            describe(shape, strides)
    with pytest.raises(ValueError, match="claims more than it holds"):
        StoredTensor("a", tmp_path, "float32", (0,), 2**60, (1,))
    with pytest.raises(ValueError, match="spread thin over its storage"):
        describe((2,), (2**30,))
    with pytest.raises(ValueError, match="9 sides"):
        describe((1,) * 9, (1,) * 9)
    assert describe((1000, 2), (5, 1)).span == 4997


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_rows_are_a_part_of_the_first_axis(tmp_path: Path, name: str) -> None:
    arrays = {"before": np.ones(3, np.float16), "a": np.arange(24, dtype=np.float32).reshape(6, 4)}
    arrays["b"] = np.asfortranarray(arrays["a"]) if name.endswith(".ckpt") else arrays["a"][:, 0].copy()
    write = write_safetensors if name.endswith(".safetensors") else write_torch_file
    tensors = read_tensor_file(write(tmp_path / name, arrays)).tensors
    for key in ("a", "b"):
        for begin, end in ((0, 2), (2, 4), (4, 6), (3, 3)):
            rows = tensors[key].rows(begin, end)
            np.testing.assert_array_equal(rows.read(), arrays[key][begin:end])
            assert rows.shape == arrays[key][begin:end].shape


def test_a_1x1_convolution_is_a_matrix(tmp_path: Path) -> None:
    weights = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1)
    tensors = read_tensor_file(write_safetensors(tmp_path / "a.safetensors", {"a": weights})).tensors
    np.testing.assert_array_equal(tensors["a"].as_matrix().read(), weights[:, :, 0, 0])
    larger = StoredTensor("a", tmp_path, "float32", (2, 3, 3, 3), 0, (27, 9, 3, 1))
    assert larger.as_matrix() is larger
