"""What is free: of the machine and of the control groups around the process, made-up ones and a real one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pocket_diffusion.machine.free_memory import free_memory, own_anonymous_memory

MB = 10**6


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with 8192 MB available, and no control groups."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n")
    return tmp_path / "proc"


def mount(proc: Path, membership: str, *mounts: str) -> None:
    (proc / "self" / "cgroup").write_text(membership)
    (proc / "self" / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))


def fill(group: Path, **files: object) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (group / f"memory.{name}").write_text(f"{content}\n")


def version_2(group: Path, limit: object, used: int, files: int = 0, high: object = "max") -> None:
    stat = f"anon 1\nactive_file {files // 4}\ninactive_file {files - files // 4}"
    fill(group, max=limit, high=high, current=used, stat=stat)


def version_1(group: Path, limit: int, used: int, files: int = 0) -> None:
    stat = f"active_file 5\ninactive_file 5\ntotal_active_file {files // 4}\ntotal_inactive_file {files - files // 4}"
    fill(group, limit_in_bytes=limit, usage_in_bytes=used, stat=stat)


def test_without_control_groups_it_is_what_linux_calls_available(proc: Path) -> None:
    assert free_memory(proc) == 8_192 * MB


def test_other_systems_do_not_tell(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None
    assert own_anonymous_memory(tmp_path) == 0


def test_version_2_the_limit_less_what_is_used_but_for_files(proc: Path, tmp_path: Path) -> None:
    mount(proc, "0::/a/b\n", f"30 23 0:26 / {tmp_path / 'cg'} rw,nosuid - cgroup2 cgroup2 rw")
    version_2(tmp_path / "cg" / "a" / "b", 1000 * MB, 700 * MB, files=400 * MB)
    assert free_memory(proc) == 700 * MB
    version_2(tmp_path / "cg" / "a" / "b", "max", 700 * MB)
    assert free_memory(proc) == 8_192 * MB
    version_2(tmp_path / "cg" / "a" / "b", "max", 700 * MB, high=800 * MB)
    assert free_memory(proc) == 100 * MB


def test_every_group_around_counts(proc: Path, tmp_path: Path) -> None:
    mount(proc, "0::/a/b\n", f"30 23 0:26 / {tmp_path / 'cg'} rw - cgroup2 cgroup2 rw")
    version_2(tmp_path / "cg" / "a" / "b", 1000 * MB, 100 * MB)
    version_2(tmp_path / "cg" / "a", 1200 * MB, 1000 * MB)
    assert free_memory(proc) == 200 * MB


def test_a_group_beyond_its_limit_leaves_nothing(proc: Path, tmp_path: Path) -> None:
    mount(proc, "0::/\n", f"30 23 0:26 / {tmp_path / 'cg'} rw - cgroup2 cgroup2 rw")
    version_2(tmp_path / "cg", 100 * MB, 150 * MB)
    assert free_memory(proc) == 0


def test_version_1_beside_version_2_without_memory(proc: Path, tmp_path: Path) -> None:
    mount(
        proc,
        "5:cpu,cpuacct:/x\n4:memory:/a\n0::/a\n",
        f"29 23 0:25 / {tmp_path / 'cpu'} rw - cgroup cgroup rw,cpu,cpuacct",
        f"30 23 0:26 / {tmp_path / 'memory'} rw shared:9 - cgroup cgroup rw,memory",
        f"31 23 0:27 / {tmp_path / 'unified'} rw - cgroup2 cgroup2 rw",
    )
    (tmp_path / "unified" / "a").mkdir(parents=True)
    version_1(tmp_path / "memory" / "a", 1000 * MB, 900 * MB, files=100 * MB)
    version_1(tmp_path / "memory", 2**63 - 4096, 5000 * MB)
    assert free_memory(proc) == 200 * MB


@pytest.mark.parametrize("membership", ["4:memory:/docker/1/inner\n", "4:memory:/\n"])
def test_in_a_container_the_mount_may_begin_further_in(proc: Path, tmp_path: Path, membership: str) -> None:
    mount(proc, membership, f"30 23 0:26 /docker/1 {tmp_path / 'memory'} ro - cgroup cgroup rw,memory")
    version_1(tmp_path / "memory", 500 * MB, 100 * MB)
    assert free_memory(proc) == 400 * MB


def test_an_odd_line_does_not_hide_the_others(proc: Path, tmp_path: Path) -> None:
    mount(
        proc,
        "odd\n0::/\n",
        "28 23 0:24 / /nameless rw - tmpfs  rw",
        "29 23",
        "",
        f"30 23 0:26 / {tmp_path / 'cg'} rw - cgroup2  rw",
    )
    (proc / "self" / "mountinfo").write_bytes(
        b"27 23 0:23 / /caf\xe9 rw - ext4 /dev/sda1 rw\n" + (proc / "self" / "mountinfo").read_bytes()
    )
    version_2(tmp_path / "cg", 1000 * MB, 700 * MB)
    assert free_memory(proc) == 300 * MB


@pytest.mark.parametrize("name", ["max", "current", "stat"])
def test_a_group_that_tells_nothing_sensible_does_not_count(proc: Path, tmp_path: Path, name: str) -> None:
    mount(proc, "0::/\n", f"30 23 0:26 / {tmp_path / 'cg'} rw - cgroup2 cgroup2 rw")
    version_2(tmp_path / "cg", 1000 * MB, 700 * MB)
    fill(tmp_path / "cg", **{name: "active_file many"})
    assert free_memory(proc) == 8_192 * MB


def test_a_machine_that_tells_nothing_sensible_is_one_that_does_not_tell(proc: Path) -> None:
    (proc / "meminfo").write_text("MemAvailable: much kB\n")
    (proc / "self" / "status").write_text("RssAnon: little kB\n")
    assert free_memory(proc) is None
    assert own_anonymous_memory(proc) == 0


def own_group() -> Path:
    """The folder of this process's own memory control group."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return Path("/sys/fs/cgroup/memory") / path.lstrip("/")
    return Path("/sys/fs/cgroup") / path.lstrip("/")


@pytest.fixture
def real_group() -> Iterator[Path]:
    """A control group of 300 MB below our own."""
    try:
        group = own_group() / f"pocket-diffusion-test-{os.getpid()}"
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        name = next((n for n in ("memory.limit_in_bytes", "memory.max") if (group / n).exists()), None)
        if name is None:
            pytest.skip("this control group does not limit memory")
        (group / name).write_text(str(300 * MB))
        yield group
    finally:
        group.rmdir()


def run_inside(group: Path, code: str) -> "subprocess.CompletedProcess[str]":
    enter = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
    return subprocess.run([sys.executable, "-c", enter + code], capture_output=True, text=True, check=False)


def test_a_real_control_group_is_respected(real_group: Path) -> None:
    done = run_inside(
        real_group,
        "from pocket_diffusion import Pipeline, PocketDiffusionError\n"
        "from pocket_diffusion.machine.free_memory import free_memory\n"
        "print(free_memory())\n"
        "pipeline = Pipeline.load(provider='cpu')\n"
        "print(len(pipeline.generate('a lake', width=256, height=256, steps=1).images))\n"
        "try: pipeline.generate('a lake', width=2048, height=2048, steps=1)\n"
        "except PocketDiffusionError as error: print(error)\n",
    )
    assert done.returncode == 0, done.stderr
    free, drawn, refusal = done.stdout.splitlines()
    assert 200 * MB < int(free) <= 300 * MB
    assert drawn == "1"
    assert refusal.startswith("2048x2048 needs ")
    assert "the largest of such proportions that fits in mode low is " in refusal
