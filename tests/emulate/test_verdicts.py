"""That each thing which can go wrong on an emulated CPU turns its verdict, and no other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emulate.cpus import CPUS, Cpu, Products
from emulate.verdicts import _DOCTOR_SAYS, Observation, Verdict, judge, table
from pocket_diffusion.machine import cpu as machine
from pocket_diffusion.model.memory import MODES

ALLOWED = ("unet", "vae_decoder")
DOCTOR = "8-bit products   {}\nno fault found\n"
EXACT = np.linspace(-1, 1, 256, dtype=np.float32)
PICTURE = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)


def some_cpu(products: Products) -> Cpu:
    return Cpu("some", "aarch64", "max", products)


def findings(products: Products, *, int8: bool = True, **changed: Any) -> Observation:  # noqa: ANN401 - arrays or text
    """Return what is found on a CPU with such products when all is well, but for what is changed."""
    arrays = {"products_right": np.array(products != "wrong"), "auto": np.array(ALLOWED if products == "fast" else ())}
    for mode in MODES:
        arrays |= {f"picture {mode}": PICTURE, f"exact {mode}": EXACT}
        if int8 and products != "wrong":
            arrays[f"int8 {mode}"] = EXACT * np.float32(1.01)
    doctor = changed.pop("doctor", DOCTOR.format(_DOCTOR_SAYS[products]))
    return Observation(doctor, arrays | {name.replace("_in_", " "): array for name, array in changed.items()})


def failed(verdicts: list[Verdict]) -> list[str]:
    return [verdict.check for verdict in verdicts if not verdict.passed]


@pytest.mark.parametrize("products", ["fast", "slow", "wrong"])
def test_a_cpu_that_is_as_expected_passes(products: Products) -> None:
    verdicts = judge(some_cpu(products), findings(products), [findings("fast")], ALLOWED)
    assert failed(verdicts) == []
    assert len(verdicts) == (9 if products == "wrong" else 10)


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"doctor": DOCTOR.format(_DOCTOR_SAYS["slow"])}, "8-bit products, by doctor"),
        ({"doctor": "no fault found\n"}, "8-bit products, by doctor"),
        ({"products_right": np.array(False)}, "crafted products"),
        ({"auto": np.array((), np.str_)}, "in 8 bits by auto"),
        ({"auto": np.array(["unet"])}, "in 8 bits by auto"),
        ({"exact_in_balanced": EXACT * np.float32(1.0001)}, "prediction, balanced"),
        ({"picture_in_fast": PICTURE + np.uint8(2)}, "picture, fast"),
        ({"int8_in_low": EXACT * np.float32(1.02)}, "8-bit prediction"),
        ({"int8_in_balanced": EXACT * np.float32(np.nan)}, "8-bit prediction"),
    ],
)
def test_what_is_not_as_expected_turns_its_own_verdict(changed: dict[str, Any], check: str) -> None:
    assert failed(judge(some_cpu("fast"), findings("fast", **changed), [findings("fast")], ALLOWED)) == [check]


def test_a_prediction_that_is_no_number_fails() -> None:
    seen = findings("slow", int8=False, exact_in_low=EXACT * np.float32(np.nan))
    assert failed(judge(some_cpu("slow"), seen, [findings("slow", int8=False)], ALLOWED)) == ["prediction, low"]


def test_auto_must_stay_exact_where_products_are_slow() -> None:
    seen = findings("slow", auto=np.array(["unet"]))
    assert failed(judge(some_cpu("slow"), seen, [findings("fast")], ALLOWED)) == ["in 8 bits by auto"]


def test_products_that_come_out_right_where_they_saturate_are_a_surprise() -> None:
    seen = findings("wrong", products_right=np.array(True))
    assert failed(judge(some_cpu("wrong"), seen, [findings("fast")], ALLOWED)) == ["crafted products"]


def test_a_missing_8_bit_prediction_fails() -> None:
    seen = findings("fast", int8=False)
    assert failed(judge(some_cpu("fast"), seen, [findings("fast")], ALLOWED)) == ["8-bit prediction"]


def test_where_this_machine_multiplies_wrong_another_is_the_reference() -> None:
    others = [findings("wrong"), findings("slow")]
    too_far = {f"int8_in_{mode}": EXACT * np.float32(1.02) for mode in MODES}
    assert failed(judge(some_cpu("fast"), findings("fast"), others, ALLOWED)) == []
    assert failed(judge(some_cpu("fast"), findings("fast", **too_far), others, ALLOWED)) == ["8-bit prediction"]


def test_without_an_8_bit_graph_there_is_no_verdict_on_it() -> None:
    seen = findings("fast", int8=False, auto=np.array(()))
    verdicts = judge(some_cpu("fast"), seen, [seen], ())
    assert failed(verdicts) == []
    assert "8-bit prediction" not in [verdict.check for verdict in verdicts]


def test_the_table_shows_what_was_found_and_what_was_expected() -> None:
    lines = table([Verdict("a", "b", "c", "d", passed=True), Verdict("e", "f", "g", "h", passed=False)]).splitlines()
    assert [line.split(maxsplit=4) for line in lines[1:]] == [
        ["a", "b", "c", "d", "ok"],
        ["e", "f", "g", "h", "NOT AS EXPECTED"],
    ]


@pytest.mark.parametrize("cpu", [cpu for cpu in CPUS if cpu.flags], ids=lambda cpu: cpu.name)
def test_doctor_says_of_an_x86_what_is_expected_of_it(
    cpu: Cpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {cpu.flags}\n")
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "products_are_right", lambda: cpu.products != "wrong")
    assert _DOCTOR_SAYS[cpu.products] in str(machine.products_fault())
