"""Pickles of a few bytes that ask for all the memory or all the time there is: refused at once."""

import struct
import zipfile
from pathlib import Path

import pytest

from pocket_diffusion.checkpoint.safe_pickle import unpickle
from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.errors import CheckpointError, UnsafeCheckpointError, UnsupportedModelError
from weights_files import tensor_opcodes, write_zip

MANY = 2**16
ITEMS = b"(" + b"N" * MANY + b"tq\1"  # a tuple of many, remembered
DOUBLED = b")" + b"2\x86" * 60  # a tuple that holds a tuple twice, and so on: 2⁶⁰ ends
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQ"
BOMBS = {
    "a key whose hash takes for ever": (b"}" + DOUBLED + b"Ns.", "unhashable type"),
    "the same in a set": (b"\x8f(" + DOUBLED + b"\x90.", "unhashable type"),
    "the same in a frozen set": (b"(" + DOUBLED + b"\x91.", "unhashable type"),
    "a frozen set as a key": (b"}(K\1\x91Ns.", "unhashable type"),
    "a shape as a key": (b"}ctorch\nSize\n)\x85RNs.", "unhashable type"),
    "a tensor of a tensor": (b"(" + REBUILD + b"(K\1K\0))tR.", "a tensor of no storage"),
    "a tensor of no numbers": (REBUILD + b"(" + STORAGE + b"K\0)\x85)\x85tR.", "whose sizes are no numbers"),
    "a tensor of many sides": (ITEMS + b"0" + REBUILD + b"(" + STORAGE + b"K\0h\1h\1tR.", "of too many sides"),
    "a shape of many sides, to be copied": (ITEMS + b"0ctorch\nSize\nh\1\x85R.", "a shape of too many sides"),
    "items, to be copied": (b"ccollections\nOrderedDict\n]](K\1K\1ea\x85R.", "takes 1 positional argument"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_defuses_a_bomb(tmp_path: Path, bomb: str) -> None:
    content, reason = BOMBS[bomb]
    path = write_zip(tmp_path / "a.pt", b"\x80\x04" + content, bytes(4))
    with pytest.raises(CheckpointError, match=f"is damaged .*{reason}") as caught:
        read_tensor_file(path)
    assert len(str(caught.value)) < 500


def test_a_large_number_for_an_object_costs_nothing(tmp_path: Path) -> None:
    content = b"\x80\x02}r\xff\xff\xff\x7fX\1\0\0\0a" + tensor_opcodes("0", 1, (1,), (1,)) + b"s."
    path = write_zip(tmp_path / "a.pt", content, struct.pack("<f", 2.5))
    assert read_tensor_file(path).tensors["a"].read().tolist() == [2.5]


def test_refuses_a_pickle_or_a_directory_larger_than_any_checkpoint_needs(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", b"}" * (2 * 2**20 + 1))
    with pytest.raises(CheckpointError, match="its pickle has over 2 MB; no checkpoint needs that"):
        read_tensor_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(33):
            archive.writestr(zipfile.ZipInfo(f"{number:065000}"), b"")
    with pytest.raises(CheckpointError, match="its directory has over 2 MB"):
        read_tensor_file(path)


def test_refuses_a_storage_beyond_the_file(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", b"\x80\x02}X\1\0\0\0a" + tensor_opcodes("0", 4, (4,), (1,)) + b"s.", bytes(16))
    content = path.read_bytes()
    at = content.rindex(b"PK\1\2")  # the directory's entry of the storage; its offset in the file lies at byte 42
    path.write_bytes(content[: at + 42] + struct.pack("<I", len(content) - 32) + content[at + 46 :])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_tensor_file(path)


CLASSES = {
    "OrderedDict": b"ccollections\nOrderedDict\n",
    "Size": b"ctorch\nSize\n",
    "ParameterDict": b"ctorch.nn.modules.container\nParameterDict\n",
    "a leftover": b"cnumpy\ndtype\n",
    "a storage's type": b"ctorch\nFloatStorage\n",
    "_rebuild_tensor_v2": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "_rebuild_parameter": b"ctorch._utils\n_rebuild_parameter\n",
}


@pytest.mark.parametrize("state", [b"}X\1\0\0\0xK\1s", b"N}X\1\0\0\0xK\1s\x86"], ids=["attributes", "slots"])
@pytest.mark.parametrize("known", CLASSES)
def test_a_pickle_cannot_change_what_stands_for_a_class(tmp_path: Path, known: str, state: bytes) -> None:
    """What it set there would stay for the next file."""
    with pytest.raises((AttributeError, TypeError)):
        unpickle(b"\x80\x02" + CLASSES[known] + state + b"b.", tmp_path)


def test_reads_the_parameters_of_an_old_textual_inversion(tmp_path: Path) -> None:
    parameters = b"}X\x0b\0\0\0_parameters}X\1\0\0\0*" + tensor_opcodes("0", 2, (1, 2), (2, 1)) + b"ss"
    instance = b"ctorch.nn.modules.container\nParameterDict\n)\x81" + parameters + b"b"
    content = b"\x80\x02}X\x0f\0\0\0string_to_param" + instance + b"s."
    path = write_zip(tmp_path / "a.pt", content, struct.pack("<2f", 1, 2))
    assert read_tensor_file(path).tensors["string_to_param.*"].read().tolist() == [[1, 2]]


def test_names_numbers_of_too_few_bits(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", b"\x80\x02ctorch._utils\n_rebuild_tensor_v3\n.")
    with pytest.raises(UnsupportedModelError, match="such as float8; get the float16 or bfloat16 file"):
        read_tensor_file(path)


def test_refuses_what_runs_code_without_pytorch(tmp_path: Path) -> None:
    """The gadgets of tests/export, where PyTorch writes them; here is one that it has not written."""
    path = write_zip(tmp_path / "a.pt", b"cos\nsystem\n(S'touch " + str(tmp_path / "canary").encode() + b"'\ntR.")
    with pytest.raises(UnsafeCheckpointError, match=r"asks to call os\.system, which no checkpoint needs"):
        read_tensor_file(path)
    assert not (tmp_path / "canary").exists()
