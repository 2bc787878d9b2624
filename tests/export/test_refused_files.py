"""Files that are no checkpoint, or a damaged one: each is refused with its reason, in one line."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pocket_diffusion.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    TokenizerNotFoundError,
    UnsafeCheckpointError,
)
from pocket_export.checkpoint import read_checkpoint

Tensors = dict[str, torch.Tensor]


def refusal(path: Path | str, kind: type[Exception] = CheckpointError) -> str:
    """The message of the error that reading raises, which must be of just that class and one line."""
    with pytest.raises(kind) as caught:
        read_checkpoint(str(path))
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def with_header(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file from its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def f32(start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors", "model.bin"])
def test_refuses_an_empty_file(place: Path, name: str) -> None:
    (place / name).write_bytes(b"")
    assert "is empty; fetch it again" in refusal(place / name)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_refuses_a_truncated_file(place: Path, mini_state: Tensors, name: str, share: float) -> None:
    from synthetic_checkpoint import save_checkpoint

    save_checkpoint(mini_state, place / name)
    content = (place / name).read_bytes()
    (place / name).write_bytes(content[: int(len(content) * share)])
    message = refusal(place / name)
    assert f"{name} is damaged" in message
    assert "fetch it again" in message


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize("page", [b"<!DOCTYPE html>\n<html>", b"\n  <html lang='en'>", b"<?xml version='1.0'?>"])
def test_refuses_a_web_page(place: Path, name: str, page: bytes) -> None:
    (place / name).write_bytes(page + b"<title>Sign in</title>" * 100)
    assert "is a web page, not weights; the download needs a login" in refusal(place / name)


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
def test_refuses_a_git_lfs_pointer(place: Path, name: str) -> None:
    (place / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:6ce0161689b3853acaa0\nsize 4265380512\n"
    )
    assert "is a git-lfs pointer, not the weights; run `git lfs pull`" in refusal(place / name)


def test_refuses_other_content(place: Path) -> None:
    (place / "model.ckpt").write_text("Invalid username or password.")
    assert "neither a .safetensors file nor a PyTorch checkpoint" in refusal(place / "model.ckpt")
    (place / "model.safetensors").write_text("Invalid username or password.")
    assert "is damaged: its header claims" in refusal(place / "model.safetensors")


def test_refuses_a_wrong_ending_and_says_the_right_one(place: Path, mini_state: Tensors) -> None:
    torch.save(mini_state, place / "zip.safetensors")
    assert "is a PyTorch zip file by its content" in refusal(place / "zip.safetensors")
    assert "rename it to end in .ckpt" in refusal(place / "zip.safetensors")
    for name in ("safe.ckpt", "safe.txt"):
        save_file(mini_state, place / name)
        assert "is a safetensors file by its content" in refusal(place / name)
        assert "rename it to end in .safetensors" in refusal(place / name)


def test_refuses_a_zip_file_that_is_no_checkpoint(place: Path) -> None:
    import zipfile

    with zipfile.ZipFile(place / "model.ckpt", "w") as archive:
        archive.writestr("model/unet.safetensors", b"0" * 100)
    assert "not one that PyTorch wrote: it has 0 data.pkl" in refusal(place / "model.ckpt")


def test_refuses_a_bare_pickle_whatever_its_ending(place: Path, mini_state: Tensors) -> None:
    for name in ("old.ckpt", "old.safetensors"):
        torch.save(mini_state, place / name, _use_new_zipfile_serialization=False)
        assert "is a bare pickle" in refusal(place / name, UnsafeCheckpointError)


def test_refuses_what_holds_no_tensors(place: Path) -> None:
    for content in ({}, {"state_dict": {}}, {"epoch": 3}):
        torch.save(content, place / "model.ckpt")
        assert "holds no tensors" in refusal(place / "model.ckpt")
    torch.save(torch.zeros(3), place / "model.ckpt")
    assert "holds no tensors by name, but one Tensor" in refusal(place / "model.ckpt")
    (place / "model.safetensors").write_bytes(with_header({}))
    assert "holds no tensors" in refusal(place / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_header({"a": f32(0, 4)}, b"0000", length=2**40), "its header claims 1,099,511,627,776 bytes"),
        (with_header({"a": f32(0, 4)}, b"0000", length=2**63), "its header claims"),
        (b"\x00" * 4, "its header claims"),
        (with_header(b"[" * 100_000), "its header is not JSON"),
        (with_header(b'{"a": nothing}'), "its header is not JSON"),
        (with_header(b"[1, 2, 3]"), "is damaged"),
        (with_header({"a": f32(0, 8), "b": f32(4, 12)}, b"0" * 12), "is damaged"),  # overlapping
        (with_header({"a": f32(0, 8), "b": f32(0, 8)}, b"0" * 8), "is damaged"),  # twice the same
        (with_header({"a": f32(0, 4), "b": f32(8, 12)}, b"0" * 12), "is damaged"),  # a hole
        (with_header({"a": f32(0, 4)}, b"0" * 12), "is damaged"),  # more data than told
        (with_header({"a": f32(0, 40)}, b"0" * 12), "is damaged"),  # less
        (with_header({"a": {**f32(0, 8), "shape": [3]}}, b"0" * 8), "is damaged"),
        (with_header({"a": {**f32(0, 8), "dtype": "F33"}}, b"0" * 8), "is damaged"),
        (
            with_header(b'{"a":%s,"a":%s}' % ((json.dumps(f32(0, 4)).encode(),) * 2), b"0" * 4),
            "its header names 'a' twice",
        ),
        (
            with_header(b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"0" * 4),
            "its header names 'dtype' twice",
        ),
    ],
)
def test_refuses_a_safetensors_file_with_a_bad_header(place: Path, content: bytes, reason: str) -> None:
    (place / "model.safetensors").write_bytes(content)
    message = refusal(place / "model.safetensors")
    assert "model.safetensors is damaged" in message
    assert reason in message


def test_refuses_a_header_larger_than_the_format_allows(place: Path) -> None:
    path = place / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 101 * 2**20) + b"{")
        file.truncate(200 * 2**20)  # sparse
    assert "its header claims 105,906,176 bytes" in refusal(path)


@pytest.mark.parametrize("source", ["nowhere", "no/such/place", "models/nothing.ckpt", "models/nothing.safetensors"])
def test_refuses_a_source_that_is_not_there(source: str) -> None:
    message = refusal(source, CheckpointNotFoundError)
    assert f"there is no {source}; give a .ckpt, a .safetensors, a diffusers folder or a hub id" in message


def test_refuses_a_checkpoint_without_a_tokenizer_and_says_where_it_looked(place: Path, mini_state: Tensors) -> None:
    save_file(mini_state, place / "model.safetensors")
    (place / "vocab.json").unlink()
    message = refusal(place / "model.safetensors", TokenizerNotFoundError)
    assert str(place) in message
    assert str(place / "tokenizer") in message
    assert "--tokenizer" in message


def test_refuses_a_named_folder_without_a_tokenizer(place: Path, mini_state: Tensors, tmp_path: Path) -> None:
    save_file(mini_state, place / "model.safetensors")
    with pytest.raises(TokenizerNotFoundError, match="elsewhere"):
        read_checkpoint(str(place / "model.safetensors"), tmp_path / "elsewhere")


@pytest.mark.parametrize("vocab", ["", "[]", "{}", '{"a": 1}', '{"<|startoftext|>": "one", "<|endoftext|>": 2}'])
def test_refuses_a_damaged_tokenizer(place: Path, mini_state: Tensors, vocab: str) -> None:
    save_file(mini_state, place / "model.safetensors")
    (place / "vocab.json").write_text(vocab)
    assert "vocab.json or merges.txt is not CLIP's" in refusal(place / "model.safetensors")


def test_refuses_a_tokenizer_of_another_model(place: Path, mini_state: Tensors) -> None:
    save_file(mini_state, place / "model.safetensors")
    (place / "vocab.json").write_text('{"<|startoftext|>": 49406, "<|endoftext|>": 49407}')
    message = refusal(place / "model.safetensors")
    assert "the tokenizer has 49408 tokens, the text encoder knows 3" in message
