"""The command around the verdicts: what is fetched, how programs are run, and what becomes of one that dies."""

import platform
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from emulate import __main__ as command
from emulate import qemu
from emulate.cpus import CPUS, Cpu
from emulate.observe import observe
from emulate.qemu import NATIVE, EmulationError, Emulator, Python, run
from emulate.verdicts import Observation
from pocket_diffusion.model.memory import MODES
from pocket_diffusion.pipeline import DEFAULT_BUNDLE


def test_a_folder_is_filled_anew_only_when_something_else_is_wanted(tmp_path: Path) -> None:
    filled: list[list[Path]] = []
    for wanted in ("QEMU 10", "QEMU 10", "QEMU 11"):
        qemu._filled(tmp_path / "system", wanted, lambda folder: filled.append(sorted(folder.iterdir())))
    assert filled == [[], []]


def test_a_folder_that_was_filled_in_part_is_filled_anew(tmp_path: Path) -> None:
    def stop(folder: Path) -> None:
        (folder / "half").touch()
        raise EmulationError

    with pytest.raises(EmulationError):
        qemu._filled(tmp_path / "system", "QEMU", stop)
    folder = qemu._filled(tmp_path / "system", "QEMU", lambda folder: (folder / "whole").touch())
    assert sorted(path.name for path in folder.iterdir()) == ["wanted", "whole"]


def test_elsewhere_than_on_debian_one_line_says_where_it_works(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(EmulationError, match=r"^other CPUs are emulated on x86-64 with Debian's .*; run this there"):
        Emulator.fetch(tmp_path)


def test_a_program_that_fails_is_told_by_its_last_line() -> None:
    with pytest.raises(EmulationError, match=r"ended with 3: the last$"):
        run([sys.executable, "-c", "import sys; print('first\\nthe last', file=sys.stderr); sys.exit(3)"], {})
    with pytest.raises(EmulationError, match=r"ended with -4: no word$"):
        run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGILL)"], {})


def test_the_runtime_that_is_run_is_the_working_tree() -> None:
    printed = NATIVE.run("-c", "import pocket_diffusion; print(pocket_diffusion.__file__)")
    assert Path(printed.strip()).is_relative_to(qemu.RUNTIME)


def test_an_emulated_x86_is_shown_flags_of_its_own_and_an_arm_its_own_system(tmp_path: Path) -> None:
    emulator = Emulator(tmp_path, tmp_path / "system", tmp_path / "packages")
    for cpu in CPUS:
        python = emulator.python(cpu)
        assert python.command[:3] == (f"{tmp_path}/system/usr/bin/qemu-{cpu.machine}", "-cpu", cpu.model)
        root = Path(python.command[python.command.index("-L") + 1])
        if cpu.flags:
            assert f"flags\t\t: {cpu.flags}\n" in (root / "proc/cpuinfo").read_text()
            assert python.command[-1] == sys.executable
        else:
            assert root == emulator.system
            assert python.path == (emulator.packages,)


def test_every_memory_mode_is_observed() -> None:
    found = observe(DEFAULT_BUNDLE)
    seen = Observation("", found)
    assert set(seen.by_mode("picture")) == set(seen.by_mode("exact")) == set(MODES)
    for mode, picture in seen.by_mode("picture").items():
        assert picture.std() > 0
        assert np.isfinite(found[f"exact {mode}"]).all()


def test_a_cpu_on_which_a_program_dies_fails_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arrays = {"products_right": np.array(True), "auto": np.array(())}

    def seen_or_dead(python: Python, _: Path) -> Observation:
        if "Nehalem" in python.command:
            raise EmulationError("qemu-x86_64 ended with -4: no word")
        return Observation("right, and fast", arrays)

    monkeypatch.setattr(sys, "argv", ["emulate"])
    monkeypatch.setattr(Emulator, "fetch", lambda _: Emulator(tmp_path, tmp_path, tmp_path))
    monkeypatch.setattr(command, "observe", seen_or_dead)
    monkeypatch.setattr(command, "allowed_in_int8", lambda _: [])
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(
        command, "CPUS", [Cpu("dead", "x86_64", "Nehalem", "fast"), Cpu("well", "aarch64", "a", "fast")]
    )
    with pytest.raises(SystemExit) as end:
        command.main()
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 1
    assert "qemu-x86_64 ended with -4" in lines[1]
    assert [line.endswith("ok") for line in lines[1:5]] == [False, True, True, True]
