"""What is made of published arrays for the file, and back; and tables that cannot be."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import COMPONENTS, Bundle
from pocket_diffusion.errors import BundleDamagedError, BundleFormatError, InvalidRequestError
from pocket_diffusion.layers import (
    LARGEST_TABLE,
    Form,
    Layer,
    LayerTable,
    Reshape,
    Slice,
    Step,
    Storage,
    Stored,
    Transpose,
    read_array,
    restore,
    store,
)

EditManifest = Callable[[Callable[[dict[str, Any]], object]], None]

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(6, 4, 3, 2)).astype(np.float32)
COLUMNS: tuple[Step, ...] = (Transpose(axes=(2, 3, 1, 0)), Reshape(shape=(24, 6)))


def numbers(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


def written(published: NDArray[np.float32], *forms: Form) -> tuple[Layer, bytes]:
    """A weights file of one layer, some bytes into it, and the layer."""
    content, stored = b"\xff" * 64, []
    for i, form in enumerate(forms):
        where = Stored(
            initializer=f"w.{i}", offset=len(content), steps=form.steps, storage=form.storage, axis=form.axis
        )
        stored.append(where)
        content += store(form, published).tobytes()
    layer = Layer(shape=published.shape, stored=tuple(stored))
    LayerTable(layers={"w": layer}).check(len(content))
    return layer, content


def through_the_file(published: NDArray[np.float32], *forms: Form) -> NDArray[np.float32]:
    layer, content = written(published, *forms)
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        return restore(layer, partial(read_array, Path(file.name), layer))


def test_a_weights_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    """Mapped, it would end the process."""
    layer, content = written(WEIGHTS, Form())
    (tmp_path / "weights").write_bytes(content[:-1])
    with pytest.raises(BundleDamagedError, match="cannot be read, or became shorter"):
        restore(layer, partial(read_array, tmp_path / "weights", layer))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((), WEIGHTS),
        ((Transpose(axes=(3, 0, 2, 1)),), WEIGHTS.transpose(3, 0, 2, 1)),
        ((Slice(axis=1, start=1, end=3),), WEIGHTS[:, 1:3]),
        ((Reshape(shape=(12, 12)),), WEIGHTS.reshape(12, 12)),
        (COLUMNS, np.moveaxis(WEIGHTS, 0, -1).transpose(1, 2, 0, 3).reshape(24, 6)),
        ((Slice(axis=0, start=2, end=5), Transpose(axes=(1, 0, 2, 3)), Slice(axis=1, start=1, end=2)), None),
    ],
)
def test_steps_are_numpys(steps: tuple[Step, ...], expected: NDArray[np.float32] | None) -> None:
    if expected is None:
        expected = WEIGHTS[3:4].transpose(1, 0, 2, 3)
    form = Form(steps=steps)
    found = store(form, WEIGHTS)
    assert found.flags.c_contiguous
    assert form.shape_of(WEIGHTS.shape) == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_storages_are_as_their_definitions_say() -> None:
    """Float16 to the nearest; int8 in 127ths of the largest number of an output; from the steps' result, not before."""
    np.testing.assert_array_equal(
        store(Form(steps=COLUMNS, storage="float16"), WEIGHTS), store(Form(steps=COLUMNS), WEIGHTS).astype(np.float16)
    )
    steps = store(Form(steps=COLUMNS, storage="int8", axis=1), WEIGHTS)
    scale = store(Form(steps=COLUMNS, storage="scale", axis=1), WEIGHTS)
    assert (steps.dtype, scale.dtype, scale.shape) == (np.int8, np.float32, (6,))
    largest = np.abs(WEIGHTS).max(axis=(1, 2, 3))
    np.testing.assert_allclose(scale, largest / 127, rtol=1e-6)
    assert (np.abs(steps.astype(int)).max(axis=0) == 127).all()
    exact = store(Form(steps=COLUMNS), WEIGHTS)
    assert (np.abs(steps * scale - exact) <= 0.5001 * scale).all()


def test_an_output_of_zeros_stays_zeros() -> None:
    weights = WEIGHTS.copy()
    weights[2] = 0
    forms = [Form(storage=kind, axis=0) for kind in ("int8", "scale")]  # type: ignore[arg-type] # they are storages
    assert not through_the_file(weights, *forms)[2].any()


@pytest.mark.parametrize(
    "steps",
    [
        [()],
        [(Transpose(axes=(1, 0, 3, 2)),)],
        [COLUMNS],
        [(Slice(axis=0, start=0, end=2),), (Slice(axis=0, start=2, end=6), Reshape(shape=(16, 6)))],
        [
            (Transpose(axes=(1, 0, 2, 3)), Slice(axis=1, start=0, end=5), Reshape(shape=(20, 6))),
            (Slice(axis=0, start=5, end=6), Slice(axis=1, start=0, end=1)),
            (Slice(axis=1, start=1, end=4), Slice(axis=0, start=5, end=6)),
        ],
        [(), (Reshape(shape=(144,)),)],  # twice the same
    ],
)
@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_arrays_come_back_from_the_file(steps: list[tuple[Step, ...]], storage: Storage) -> None:
    expected = WEIGHTS if storage == "float32" else WEIGHTS.astype(np.float16)
    found = through_the_file(WEIGHTS, *(Form(steps=some, storage=storage) for some in steps))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_int8_comes_back_within_half_a_step_and_each_part_by_its_own_scale() -> None:
    halves = [(Slice(axis=0, start=start, end=start + 3), Transpose(axes=(1, 0, 2, 3))) for start in (0, 3)]
    weights = WEIGHTS * np.logspace(-3, 3, 6, dtype=np.float32)[:, None, None, None]
    forms = [Form(steps=half, storage=kind, axis=1) for kind in ("scale", "int8") for half in halves]
    scale = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127
    assert (np.abs(through_the_file(weights, *forms) - weights) <= 0.5001 * scale).all()


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.tuples(st.permutations(range(n)), st.lists(st.integers(1, 5), min_size=n, max_size=n))
    )
)
def test_every_transposition_comes_back(drawn: tuple[list[int], list[int]]) -> None:
    axes, shape = drawn
    weights = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(through_the_file(weights, Form(steps=(Transpose(axes=tuple(axes)),))), weights)


def test_what_a_storage_cannot_hold_is_refused() -> None:
    weights = WEIGHTS.copy()
    weights[0, 1, 2, 0] = -70000
    with pytest.raises(InvalidRequestError, match=r"weights reach 70000, which float16 cannot hold; it ends at 65504"):
        store(Form(storage="float16"), weights)
    assert np.isfinite(store(Form(storage="int8", axis=0), weights)).all()
    for bad in (np.nan, np.inf, -np.inf):
        weights[0, 1, 2, 0] = bad
        with pytest.raises(InvalidRequestError, match="NaN or infinity, which int8 cannot hold"):
            store(Form(storage="int8", axis=0), weights)


# Tables that cannot be.


def table(*stored: dict[str, Any], shape: tuple[int, ...] = (4, 6)) -> LayerTable:
    """Some float32 arrays of a layer, each other bytes into the file, unless they say where."""
    defaults = [{"initializer": f"w.{i}", "offset": 96 * i} for i in range(len(stored))]
    layer = {"shape": shape, "stored": [default | one for default, one in zip(defaults, stored, strict=True)]}
    return msgspec.convert({"layers": {"w": layer}}, type=LayerTable)


def transpose(*axes: int) -> dict[str, Any]:
    return {"type": "transpose", "axes": axes}


def cut(axis: int, start: int, end: int) -> dict[str, Any]:
    return {"type": "slice", "axis": axis, "start": start, "end": end}


def reshape(*shape: int) -> dict[str, Any]:
    return {"type": "reshape", "shape": shape}


def in_steps(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"steps": steps}


INT8, SCALE = {"storage": "int8", "axis": 0}, {"storage": "scale", "axis": 0}


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ([{"offset": 1000 - 95}], r"w\.0 ends at 1001, but the weights file has 1000 bytes"),
        ([{"offset": 2**50}], r"w\.0 ends at \d+, but the weights file"),
        ([{}, {"offset": 95}], r"w\.0 and w\.1 lie in each other"),
        ([{}, {"offset": 0}], r"lie in each other"),
        ([{}, {"initializer": "w.0"}], r"two arrays have one name"),
        ([in_steps(transpose(0, 0))], r"w: \(4, 6\) cannot be transposed to \(0, 0\)"),
        ([in_steps(transpose(0))], r"cannot be transposed"),
        ([in_steps(cut(2, 0, 1))], r"has no part from 0 to 1 along axis 2"),
        ([in_steps(cut(0, 3, 3))], r"has no part from 3 to 3"),
        ([in_steps(cut(0, 3, 2))], r"has no part from 3 to 2"),
        ([in_steps(cut(1, 0, 7))], r"has no part from 0 to 7 along axis 1"),
        ([in_steps(reshape(5, 5))], r"cannot be reshaped to \(5, 5\)"),
        ([in_steps(reshape(*[2**31] * 8))], r"cannot be reshaped"),
        ([in_steps(reshape(24), cut(0, 0, 24))], r"a part is taken after a reshape"),
        ([in_steps(cut(0, 0, 3))], r"its arrays together are not the whole"),
        ([in_steps(cut(0, 0, 3)), in_steps(cut(0, 2, 4))], r"not the whole"),
        ([in_steps(cut(0, 0, 2)), in_steps(cut(1, 0, 3))], r"not the whole"),
        ([{"axis": 0}], r"float32 with the axis 0"),
        ([{"storage": "int8"}, SCALE], r"int8 with the axis None"),
        ([INT8 | {"axis": 2}, SCALE | {"axis": 2}], r"\(4, 6\) has no axis 2"),
        ([INT8], r"not every int8 array has its scales"),
        ([INT8, SCALE | {"axis": 1}], r"not every int8 array has its scales"),
        ([{}, SCALE], r"not every int8 array has its scales"),
        ([SCALE], r"not every int8 array has its scales"),
    ],
)
def test_a_table_that_cannot_be_is_refused(stored: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        table(*stored).check(1000)


@pytest.mark.parametrize(
    "stored",
    [[{}], [{"offset": 904}], [INT8, SCALE], [in_steps(cut(1, 0, 2)), in_steps(cut(1, 2, 6), transpose(1, 0))]],
)
def test_a_table_that_can_be_is_not(stored: list[dict[str, Any]]) -> None:
    table(*stored).check(1000)


@pytest.mark.parametrize(
    "layer",
    [
        {"shape": (4, 6), "stored": []},
        {"shape": (4, 6), "stored": [{"initializer": "w", "offset": 0}] * 65},
        {"shape": (4, 0), "stored": [{"initializer": "w", "offset": 0}]},
        {"shape": (2**40,), "stored": [{"initializer": "w", "offset": 0}]},
        {"shape": (1,) * 9, "stored": [{"initializer": "w", "offset": 0}]},
        {"shape": (4, 6), "stored": [{"initializer": "w", "offset": -4}]},
        {"shape": (4, 6), "stored": [{"initializer": "w", "offset": 2**51}]},
        {"shape": (4, 6), "stored": [{"initializer": "w", "offset": 0, "storage": "float8"}]},
        {"shape": (4, 6), "stored": [{"initializer": "w", "offset": 0, "steps": [transpose(0, 1)] * 9}]},
        {"shape": (4, 6), "stored": [{"initializer": "w", "offset": 0, "steps": [transpose(0, -1)]}]},
        {"shape": (4, 6), "stored": [{"initializer": "w", "offset": 0, "steps": [{"type": "run"}]}]},
        {"shape": (4, 6), "stored": [{"initializer": "w", "offset": 0, "file": "/etc/passwd"}]},
    ],
)
def test_fields_out_of_their_range_are_refused(layer: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"layers": {"w": layer}}, type=LayerTable)


# A bundle's tables.


def test_the_embedded_bundles_tables_tell_all_its_weights(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for role in COMPONENTS:
        layers = opened.layers(role).layers
        numbers = sum(int(np.prod(layer.shape)) for layer in layers.values())
        assert numbers == opened.manifest.component(role).parameters


def rewritten(bundle: Path, edit_manifest: EditManifest, content: bytes) -> Bundle:
    (bundle / "unet.layers.json").write_bytes(content)
    edit_manifest(lambda _: None)
    return Bundle.open(bundle)


def test_a_table_that_was_edited_is_refused(bundle: Path) -> None:
    path = bundle / "unet.layers.json"
    path.write_bytes(path.read_bytes().replace(b'"axis":1', b'"axis":0', 1))
    with pytest.raises(BundleDamagedError, match=r"unet\.layers\.json is not the file that was written.*export the"):
        Bundle.open(bundle).layers("unet")


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b"{}", b'{"layers": {"w": {}}}', b'{"layers":' * 10_000, b'{"layers": {}, "a": 0}']
)
def test_a_file_that_is_no_table_is_refused(bundle: Path, edit_manifest: EditManifest, content: bytes) -> None:
    opened = rewritten(bundle, edit_manifest, content)
    with pytest.raises(BundleDamagedError, match=r"unet\.layers\.json is not understood"):
        opened.layers("unet")


def test_a_table_that_does_not_fit_its_weights_file_is_refused(bundle: Path, edit_manifest: EditManifest) -> None:
    decoder = (bundle / "vae_decoder.layers.json").read_bytes()
    opened = rewritten(bundle, edit_manifest, decoder.replace(b'"offset":0', b'"offset":99999999', 1))
    with pytest.raises(BundleDamagedError, match=r"unet\.layers\.json is not understood \(.* but the weights file has"):
        opened.layers("unet")


def test_a_table_that_is_too_large_is_not_read(bundle: Path, edit_manifest: EditManifest) -> None:
    opened = rewritten(bundle, edit_manifest, b" " * LARGEST_TABLE + b"{}")
    with pytest.raises(BundleDamagedError, match=r"unet\.layers\.json has over 16,777,216 bytes"):
        opened.layers("unet")


def test_a_bundle_of_format_2_draws_but_has_no_tables(bundle_of_format_2: Path) -> None:
    with Pipeline.load(bundle_of_format_2, provider="cpu") as pipeline:
        assert pipeline.generate("a lake", steps=1, width=64, height=64).images
    opened = Bundle.open(bundle_of_format_2)
    with pytest.raises(
        BundleFormatError, match=r"version 2, which does not tell where the weights of unet lie.*export the"
    ):
        opened.layers("unet")
