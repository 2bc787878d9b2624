"""Pickles of a few bytes that ask for all the memory or all the time there is: refused at once."""

import struct
import zipfile
from pathlib import Path

import pytest

from pocket_diffusion.checkpoint.safe_pickle import _TensorUnpickler, unpickle
from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.errors import CheckpointError, UnsafeCheckpointError, UnsupportedModelError
from weights_files import tensor_opcodes, write_zip

MANY = 2**16
ITEMS = b"(" + b"N" * MANY + b"tq\1"  # a tuple of many, remembered
DOUBLED = b")" + b"2\x86" * 60  # a tuple that holds a tuple twice, and so on: 2⁶⁰ ends
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQ"
BOMBS = {
    "a key whose hash takes for ever": (b"}" + DOUBLED + b"Ns.", "a key that is neither text nor a whole number"),
    "the same in a set": (b"\x8f(" + DOUBLED + b"\x90.", "a key that is neither text nor a whole number"),
    "the same in a frozen set": (b"(" + DOUBLED + b"\x91.", "a key that is neither text nor a whole number"),
    "a frozen set as a key": (b"}(K\1\x91Ns.", "a key that is neither text nor a whole number"),
    "a shape as a key": (b"}ctorch\nSize\n)\x85RNs.", "a key that is neither text nor a whole number"),
    "a tensor of a tensor": (b"(" + REBUILD + b"(K\1K\0))tR.", "a tensor of no storage"),
    "a storage whose name takes for ever": (
        REBUILD + b"(" + STORAGE.replace(b"X\1\0\0\x000", DOUBLED) + b"K\0K\1\x85K\1\x85tR.",
        "an unknown kind of storage",
    ),
    "a tensor of yes and no": (REBUILD + b"(" + STORAGE + b"K\0\x88\x85\x88\x85tR.", "whose sizes are no numbers"),
    "a tensor of overlaps": (
        b"}K\1" + tensor_opcodes("0", 1, (120_000, 120_000), (1, 1)) + b"s.",
        "a tensor claims more than it holds",
    ),
    "a tensor of no numbers": (REBUILD + b"(" + STORAGE + b"K\0)\x85)\x85tR.", "whose sizes are no numbers"),
    "a tensor of many sides": (ITEMS + b"0" + REBUILD + b"(" + STORAGE + b"K\0h\1h\1tR.", "of too many sides"),
    "a shape of many sides, to be copied": (ITEMS + b"0ctorch\nSize\nh\1\x85R.", "a shape of too many sides"),
    "arguments, to be copied": (ITEMS + b"0cnumpy\ndtype\nh\1R.", f"a call with {MANY} arguments"),
    "the same of a class": (ITEMS + b"0cnumpy\ndtype\nh\1\x81.", f"a call with {MANY} arguments"),
    "the same beside names": (ITEMS + b"0cnumpy\ndtype\nh\1}\x92.", f"a call with {MANY} arguments"),
    "room for bytes": (b"\x96" + struct.pack("<Q", 2**40) + b".", "KeyError: 150"),  # no such opcode
    "items, to be copied": (b"ccollections\nOrderedDict\n]](K\1K\1ea\x85R.", "takes 1 positional argument"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_defuses_a_bomb(tmp_path: Path, bomb: str) -> None:
    content, reason = BOMBS[bomb]
    path = write_zip(tmp_path / "a.pt", b"\x80\x04" + content, bytes(4))
    with pytest.raises(CheckpointError, match=f"is damaged .*{reason}") as caught:
        read_tensor_file(path)
    assert len(str(caught.value)) < 500


FIRST, SECOND = (f"L{k * (2**61 - 1)}L\n".encode() for k in (1, 2))  # Python's hash of both is 0
COLLIDING = {
    "SETITEM": b"}" + FIRST + b"Ns" + SECOND + b"Ns.",
    "SETITEMS": b"}(" + FIRST + b"N" + SECOND + b"Nu.",
    "DICT": b"(" + FIRST + b"N" + SECOND + b"Nd.",
    "ADDITEMS": b"\x8f(" + FIRST + SECOND + b"\x90.",
    "FROZENSET": b"(" + FIRST + SECOND + b"\x91.",
}


@pytest.mark.parametrize("opcode", COLLIDING)
def test_a_pickle_does_not_choose_the_hashes_of_keys(tmp_path: Path, opcode: str) -> None:
    """Each key would be compared with all that collide: 2 MB of them would take ten minutes."""
    assert set(unpickle(b"\x80\x04" + COLLIDING[opcode], tmp_path)) == {str(2**61 - 1), str(2**62 - 2)}


def test_nor_those_of_the_numbers_of_objects(tmp_path: Path) -> None:
    unpickler = _TensorUnpickler(
        b"N" + b"".join(b"p" + number[1:-2] + b"\n" for number in (FIRST, SECOND)) + b".", tmp_path
    )
    unpickler.load()
    assert list(unpickler.memo) == [str(2**61 - 1), str(2**62 - 2)]


def test_reads_what_training_leaves_under_numbers_and_classes(tmp_path: Path) -> None:
    tensor = tensor_opcodes("0", 1, (1,), (1,))
    content = b"\x80\x02}cpytorch_lightning.callbacks\nModelCheckpoint\n}sX\5\0\0\0state}K\7" + tensor + b"ss."
    path = write_zip(tmp_path / "a.pt", content, struct.pack("<f", 2.5))
    assert read_tensor_file(path).tensors["state.7"].read().tolist() == [2.5]


def shared(values: int, names: int, value: bytes, name: str = "") -> bytes:
    """A dictionary of a value under many names, which itself has many names in another."""

    def text(number: int) -> bytes:
        encoded = f"{name}{number}".encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded

    inner = b"}(" + b"".join(text(number) + b"h\1" for number in range(values)) + b"uq\2"
    outer = b"".join(text(number) + b"h\2" for number in range(names))
    return b"\x80\x02" + value + b"q\x010" + inner + b"0}(" + outer + b"u."


@pytest.mark.parametrize("value", [tensor_opcodes("0", 1, (1,), (1,)), b"N"], ids=["tensors", "nothing"])
def test_refuses_a_dictionary_that_many_names_multiply(tmp_path: Path, value: bytes) -> None:
    path = write_zip(tmp_path / "a.pt", shared(400, 400, value), bytes(4))
    with pytest.raises(CheckpointError, match="holds over 100,000 values, or one whose name has over 256 letters"):
        read_tensor_file(path)


def test_refuses_a_name_that_many_tensors_multiply(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", shared(1, 1, tensor_opcodes("0", 1, (1,), (1,)), "a" * 128), bytes(4))
    with pytest.raises(CheckpointError, match="whose name has over 256 letters; no checkpoint needs that"):
        read_tensor_file(path)


def test_a_shared_dictionary_has_all_its_names(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", shared(2, 2, tensor_opcodes("0", 1, (1,), (1,)), "a" * 126), bytes(4))
    names = ["a" * 126 + str(number) for number in range(2)]
    assert list(read_tensor_file(path).tensors) == [f"{outer}.{inner}" for outer in names for inner in names]


def test_a_large_number_for_an_object_costs_nothing(tmp_path: Path) -> None:
    content = b"\x80\x02}r\xff\xff\xff\x7fX\1\0\0\0a" + tensor_opcodes("0", 1, (1,), (1,)) + b"s."
    path = write_zip(tmp_path / "a.pt", content, struct.pack("<f", 2.5))
    assert read_tensor_file(path).tensors["a"].read().tolist() == [2.5]


def test_refuses_a_pickle_or_a_directory_larger_than_any_checkpoint_needs(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", b"}" * (2 * 2**20 + 1))
    with pytest.raises(CheckpointError, match="its pickle is compressed or has over 2 MB; no checkpoint needs"):
        read_tensor_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(33):
            archive.writestr(zipfile.ZipInfo(f"{number:065000}"), b"")
    with pytest.raises(CheckpointError, match="its directory has over 2 MB"):
        read_tensor_file(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_refuses_a_compressed_pickle(tmp_path: Path, method: int) -> None:
    """Of two of the methods, Python unpacks all that a part of the file makes at once, however little is asked for."""
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}X\1\0\0\0a" + tensor_opcodes("0", 1, (1,), (1,)) + b"s.")
        archive.writestr(zipfile.ZipInfo("a/data/0"), bytes(4))
    with pytest.raises(CheckpointError, match="its pickle is compressed or has over 2 MB; no checkpoint needs"):
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
