"""The wheels that `[cuda]` brings fit each other, by what they were read to need: .ci/cuda_wheels.py wrote it."""

import json
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pocket_diffusion.machine.cuda import CUDA, DRIVER, LIBRARIES

PROJECT = Path(__file__).parents[3]
TABLE = json.loads((PROJECT / ".ci" / "cuda_wheels.json").read_text())
WHEELS = TABLE["wheels"]
EXTRA = [
    Requirement(text)
    for text in tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cuda"]
]


def test_the_constraints_are_the_wheels_that_were_read() -> None:
    lines = (PROJECT / "constraints-cuda.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        f"{name}=={wheel['version']}" for name, wheel in sorted(WHEELS.items())
    ]


def test_onnxruntime_was_built_for_the_cuda_that_is_looked_for() -> None:
    assert TABLE["built_for"].split(".")[0] == str(CUDA)


def test_each_wheel_that_another_asks_for_is_there_in_a_version_that_it_takes() -> None:
    (onnxruntime,) = [one for one in EXTRA if one.name == "onnxruntime-gpu"]
    asked = [*EXTRA, *(Requirement(text) for wheel in WHEELS.values() for text in wheel["requires"])]
    used = [
        one for one in asked if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in onnxruntime.extras)
    ]
    assert [str(one) for one in used if not one.specifier.contains(WHEELS[one.name]["version"])] == []
    assert {one.name for one in used} == set(WHEELS)


@pytest.mark.parametrize("library", LIBRARIES)
def test_each_library_that_is_looked_for_comes_with_one_wheel(library: str) -> None:
    assert sum(library in wheel["libraries"] for wheel in WHEELS.values()) == 1


def test_what_onnxruntime_loads_of_nvidias_is_looked_for() -> None:
    of_nvidia = {name for name in TABLE["needed"] if name.startswith("libcu")}
    assert of_nvidia - {DRIVER} <= set(LIBRARIES)
    assert DRIVER in of_nvidia
