"""Pickles that try to run code: refused, and a file that they would have made proves that nothing ran."""

import builtins
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pocket_diffusion.checkpoint.safe_pickle import Leftover
from pocket_diffusion.checkpoint.tensor_file import read_tensor_file
from pocket_diffusion.errors import CheckpointError, UnsafeCheckpointError
from pocket_export.checkpoint import read_checkpoint


class Gadget:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def write_zip(path: Path, content: bytes) -> None:
    """Write what `torch.save` would, around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(4))


GADGETS: dict[str, Callable[[str], tuple[object, str]]] = {
    "os.system": lambda canary: (Gadget(os.system, f"touch {canary}"), "posix.system"),
    "os.popen": lambda canary: (Gadget(os.popen, f"touch {canary}"), "os.popen"),
    "exec": lambda canary: (Gadget(builtins.exec, f"open({canary!r}, 'w')"), "exec"),
    "eval": lambda canary: (Gadget(builtins.eval, f"open({canary!r}, 'w')"), "eval"),
    "open": lambda canary: (Gadget(builtins.open, canary, "w"), "open"),
    "import": lambda canary: (Gadget(builtins.__import__, "this"), "__import__"),
    "subprocess.Popen": lambda canary: (Gadget(subprocess.Popen, ["touch", canary]), "Popen"),
    "subprocess.run": lambda canary: (Gadget(subprocess.run, ["touch", canary]), "run"),
    "getattr chain": lambda canary: (
        Gadget(getattr, Gadget(builtins.__import__, "os"), "system"),
        "getattr",
    ),
    "nested in an argument": lambda canary: (
        OrderedDict(state_dict=OrderedDict(a=[(Gadget(os.system, f"touch {canary}"),)])),
        "system",
    ),
    "as an argument of a harmless call": lambda canary: (
        Gadget(OrderedDict, [["a", Gadget(os.system, f"touch {canary}")]]),
        "system",
    ),
    "torch's way back to pickle": lambda canary: (
        Gadget(torch.storage._load_from_bytes, pickle.dumps(Gadget(os.system, f"touch {canary}"))),
        "torch.storage._load_from_bytes",
    ),
    "torch.load": lambda canary: (Gadget(torch.load, canary), "torch.serialization.load"),
    "torch.hub.load": lambda canary: (Gadget(torch.hub.load, "a/b", "c"), "torch.hub.load"),
    "torch.nn.Module": lambda canary: (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
}


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("gadget", GADGETS)
def test_refuses_a_pickle_that_would_call_something(place: Path, canary: Path, gadget: str, protocol: int) -> None:
    content, name = GADGETS[gadget](str(canary))
    torch.save(content, place / "model.ckpt", pickle_protocol=protocol)
    with pytest.raises(
        UnsafeCheckpointError, match="which no checkpoint needs; refused, and nothing of it was run"
    ) as e:
        read_checkpoint(str(place / "model.ckpt"))
    assert name in str(e.value)
    assert ".safetensors" in str(e.value)
    assert not canary.exists()


def test_the_gadgets_would_work(canary: Path) -> None:
    """The proof that the tests above prove something."""
    content, _ = GADGETS["nested in an argument"](str(canary))
    stream = io.BytesIO()
    torch.save(content, stream)
    stream.seek(0)
    torch.load(stream, weights_only=False)
    assert canary.exists()


RAW = {
    "GLOBAL": b"cos\nsystem\n(S'touch CANARY'\ntR.",
    "INST": b"(S'touch CANARY'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch CANARY'\no.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch CANARY\x85R.",
    "STACK_GLOBAL with a path of attributes": b"\x80\x04\x8c\x03nt?\x8c\x0bpath.system\x93(tR.",
    "NEWOBJ": b"\x80\x02csubprocess\nPopen\n](X\x05\x00\x00\x00touchX\x06\x00\x00\x00CANARYe\x85\x81.",
    "after a STOP that is none": b"\x80\x02}q\x000cos\nsystem\n(S'touch CANARY'\ntR.",
    "a name that steers the terminal": b"\x80\x04\x8c\x08\x1b[2J\nos\n\x8c\x06system\x93.",
}


@pytest.mark.parametrize("opcode", RAW)
def test_refuses_every_opcode_that_names_a_function(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opcode: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_zip(place / "model.ckpt", RAW[opcode])
    with pytest.raises(UnsafeCheckpointError) as caught:
        read_checkpoint(str(place / "model.ckpt"))
    assert str(caught.value).isprintable()
    assert not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("ending", [".ckpt", ".bin", ".safetensors"])
def test_refuses_a_bare_pickle(place: Path, canary: Path, protocol: int, ending: str) -> None:
    path = place / f"model{ending}"
    path.write_bytes(pickle.dumps(Gadget(os.system, f"touch {canary}"), protocol))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(str(path))
    if protocol >= 2:
        assert type(caught.value) is UnsafeCheckpointError
        assert "is a bare pickle" in str(caught.value)
    assert not canary.exists()


def test_refuses_a_zip_file_whose_checksum_is_wrong(place: Path, canary: Path) -> None:
    """PyTorch reads it regardless, scanners that give up on it have let such files pass."""
    path = place / "model.ckpt"
    content = pickle.dumps({"a": Gadget(os.system, f"touch {canary}")}, 2)
    write_zip(path, content)
    file = path.read_bytes()
    path.write_bytes(file.replace(zipfile.crc32(content).to_bytes(4, "little"), b"\0\0\0\0"))
    with pytest.raises(CheckpointError, match=r"is damaged \(BadZipFile: Bad CRC-32"):
        read_checkpoint(str(path))
    assert not canary.exists()


def test_refuses_two_pickles_in_one_file(place: Path, canary: Path) -> None:
    with zipfile.ZipFile(place / "model.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
        archive.writestr("b/data.pkl", pickle.dumps(Gadget(os.system, f"touch {canary}"), 2))
    with pytest.raises(CheckpointError, match=r"it has 2 data\.pkl, not 1"):
        read_checkpoint(str(place / "model.ckpt"))
    assert not canary.exists()


def test_refuses_a_compressed_bomb(place: Path) -> None:
    with zipfile.ZipFile(place / "model.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(3 * 2**20))
    with pytest.raises(CheckpointError, match="its pickle is compressed or has over 2 MB; no checkpoint needs"):
        read_checkpoint(str(place / "model.ckpt"))


STORAGE = "(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0%sX\x03\0\0\0cpuK%stQ"


@pytest.mark.parametrize(
    ("key", "count", "view"),
    [
        ("0", "\x01", "K\1K\1\x85K\1\x85"),  # starts behind its end
        ("0", "\x01", "K\0K\2\x85K\1\x85"),  # ends behind it
        ("0", "\x01", "K\0K\2\x85J\xff\xff\xff\xff\x85"),  # runs backwards
        ("0", "\x02", "K\0K\2\x85K\1\x85"),  # a storage larger than its entry
        ("9", "\x01", "K\0K\1\x85K\1\x85"),  # of no entry
        ("0", "\x01", "K\0J\xff\xff\xff\x7f\x85K\0\x85"),  # repeats one number two billion times
    ],
)
def test_refuses_tensors_outside_of_their_storage(place: Path, key: str, count: str, view: str) -> None:
    tensor = f"ctorch._utils\n_rebuild_tensor_v2\n({STORAGE % (key, count)}{view}\x89}}tR"
    write_zip(place / "model.ckpt", f"\x80\x02}}X\x01\0\0\0a{tensor}s.".encode("latin-1"))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_tensor_file(place / "model.ckpt")


def test_a_pickle_cannot_change_a_tensor_after_it_was_described(place: Path) -> None:
    """BUILD calls `__setstate__` or sets attributes; on PyTorch's own tensors that would pass by all checks."""
    tensor = f"ctorch._utils\n_rebuild_tensor_v2\n({STORAGE % ('0', chr(1))}K\0K\1\x85K\1\x85\x89}}tR"
    for target in (tensor, "ctorch._utils\n_rebuild_tensor_v2\n"):
        write_zip(place / "model.ckpt", f"\x80\x02}}X\x01\0\0\0a{target}}}X\x01\0\0\0xK\1sbs.".encode("latin-1"))
        with pytest.raises(CheckpointError, match="is damaged"):
            read_tensor_file(place / "model.ckpt")


def test_reads_tensors_inside_of_their_storage(place: Path) -> None:
    """The twin of the above: what is refused there is refused for the reason that is named."""
    tensor = f"ctorch._utils\n_rebuild_tensor_v2\n({STORAGE % ('0', chr(1))}K\0K\1\x85K\1\x85\x89}}tR"
    write_zip(place / "model.ckpt", f"\x80\x02}}X\x01\0\0\0a{tensor}s.".encode("latin-1"))
    assert read_tensor_file(place / "model.ckpt").tensors["a"].read().tolist() == [0.0]


def test_reads_what_training_frameworks_leave_behind(
    place: Path, mini_state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    import collections
    import pathlib

    import numpy as np

    class ModelCheckpoint:
        def __init__(self) -> None:
            self.best = 1.0

    class AttributeDict(dict[str, object]):
        pass

    for kind in (ModelCheckpoint, AttributeDict):
        kind.__module__, kind.__qualname__ = "pytorch_lightning.utilities", kind.__name__
    for name in ("pytorch_lightning", "pytorch_lightning.utilities"):
        module = ModuleType(name)
        module.ModelCheckpoint, module.AttributeDict = ModelCheckpoint, AttributeDict  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    state = OrderedDict(mini_state)
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined] # as Module.state_dict does
    content = {
        "epoch": 3,
        "callbacks": {ModelCheckpoint: {"best": np.float32(0.5), "path": pathlib.PurePosixPath("a")}},
        "hyper_parameters": AttributeDict(lr=1e-4, dtype=torch.float32, seen={1, 2}, more=ModelCheckpoint()),
        "counts": collections.defaultdict(int, a=1),
        "array": np.arange(4),
        "device": torch.device("cpu"),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "state_dict": state,
    }
    torch.save(content, place / "model.ckpt")
    for name in ("pytorch_lightning", "pytorch_lightning.utilities"):
        monkeypatch.delitem(sys.modules, name)
    tensors = read_tensor_file(place / "model.ckpt").tensors
    assert tensors.keys() == mini_state.keys()
    assert all(np.array_equal(tensors[name].read(), mini_state[name].numpy()) for name in tensors)
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)


def test_leftovers_can_do_nothing() -> None:
    leftover = Leftover("rm", "-rf", shell=True)
    assert not callable(leftover)
    assert not vars(leftover)
