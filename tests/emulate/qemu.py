"""Python on other CPUs: QEMU's user mode, and the files of an Arm system, in a folder of their own.

Debian's packages and Python's are fetched and unpacked there once. Nothing is installed, and root is not needed.
"""

import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulate.cpus import Cpu

PROJECT = Path(__file__).parents[2]
RUNTIME = PROJECT / "runtime"
SUITE = "trixie"
"""The Debian whose QEMU is 10.0: 7.2 computes Arm's SME wrongly, and shows Arm programs the host's /proc/cpuinfo."""
PACKAGES = ("qemu-user:amd64", "python3.13-minimal", "libpython3.13-stdlib", "libstdc++6")
"""And what they depend on; for arm64 but for QEMU, which is linked statically."""
ARM_PYTHON = "3.13"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_APT_CONF = """\
APT::Architecture "arm64"; APT::Architectures {{ "arm64"; "amd64"; }}; APT::Sandbox::User "";
Dir::State "{apt}"; Dir::State::status "{apt}/status"; Dir::Cache "{apt}/cache";
Dir::Etc::SourceList "{apt}/sources.list"; Dir::Etc::SourceParts "/dev/null";
Acquire::Languages "none";
"""


class EmulationError(Exception):
    """What keeps a program from running to its end, in one line."""


@dataclass(frozen=True)
class Python:
    """A Python interpreter on some CPU."""

    command: tuple[str, ...]
    path: tuple[Path, ...] = ()
    """Where it finds packages besides its own."""
    home: Path | None = None

    def run(self, *arguments: str) -> str:
        """Run it and return what it printed.

        Raises:
            EmulationError: it ended otherwise than with exit code 0.

        """
        environment = {"PYTHONPATH": os.pathsep.join(map(str, (*self.path, RUNTIME))), "PYTHONNOUSERSITE": "1"}
        if self.home is not None:
            environment["PYTHONHOME"] = str(self.home)
        return run([*self.command, *arguments], environment)


NATIVE = Python((sys.executable,))


@dataclass(frozen=True)
class Emulator:
    """QEMU and all that it needs."""

    folder: Path
    system: Path
    """An Arm system's files, and QEMU's among them."""
    packages: Path
    """What the runtime depends on, for Arm."""

    @classmethod
    def fetch(cls, folder: Path) -> "Emulator":
        """Fetch what is not yet in the folder.

        Raises:
            EmulationError: this is no x86-64 Debian, or something could not be fetched.

        """
        if (
            platform.machine() != "x86_64"
            or not all(map(shutil.which, ("apt-get", "dpkg-deb")))
            or not KEYRING.exists()
        ):
            raise EmulationError(
                f"other CPUs are emulated on x86-64 with Debian's apt-get, dpkg-deb and {KEYRING}; "
                "run this there, for example in a container of debian:stable"
            )
        project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
        requirements = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
        constraints = PROJECT / "constraints.txt"
        return cls(
            folder,
            _filled(folder / "system", " ".join((SUITE, *PACKAGES)), _fetch_system),
            _filled(
                folder / "packages",
                "\n".join((ARM_PYTHON, *requirements, constraints.read_text())),
                lambda target: _fetch_packages(target, requirements, constraints),
            ),
        )

    def python(self, cpu: Cpu) -> Python:
        """Return the Python of a CPU: this one where the machine is the same, else the Arm system's."""
        qemu = str(self.system / f"usr/bin/qemu-{cpu.machine}")
        if cpu.machine == "aarch64":
            python = str(self.system / f"usr/bin/python{ARM_PYTHON}")
            command = (qemu, "-cpu", cpu.model, "-L", str(self.system), python)
            return Python(command, (self.packages,), self.system / "usr")
        shown = self.folder / "shown" / cpu.name
        (shown / "proc").mkdir(parents=True, exist_ok=True)
        (shown / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {cpu.flags}\n")
        return Python((qemu, "-cpu", cpu.model, "-L", str(shown), sys.executable))


def run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a command with more variables in its environment, and return what it printed.

    Raises:
        EmulationError: it ended otherwise than with exit code 0.

    """
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise EmulationError(f"{Path(command[0]).name} ended with {done.returncode}: {said}")
    return done.stdout


def _filled(folder: Path, wanted: str, fill: Callable[[Path], None]) -> Path:
    """Return the folder; fill it anew unless it was filled with what is wanted."""
    stamp = folder / "wanted"
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        fill(folder)
        stamp.write_text(wanted)  # last, so that a folder that is filled in part is filled anew
    return folder


def _fetch_system(target: Path) -> None:
    apt = target / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYRING}] http://deb.debian.org/debian {SUITE} main\n")
    (apt / "apt.conf").write_text(_APT_CONF.format(apt=apt))
    environment = {"APT_CONFIG": str(apt / "apt.conf")}
    run(["apt-get", "-q", "update"], environment)
    run(["apt-get", "-qy", "--no-install-recommends", "--download-only", "install", *PACKAGES], environment)
    for package in (apt / "cache/archives").glob("*.deb"):
        run(["dpkg-deb", "-x", str(package), str(target)], {})
    shutil.rmtree(apt)
    (target / "lib").symlink_to("usr/lib")  # which Debian's base system has


def _fetch_packages(target: Path, requirements: Sequence[str], constraints: Path) -> None:
    glibcs = ("2_17", "2_27", "2_28")
    platforms = [f"--platform=manylinux_{glibc}_aarch64" for glibc in glibcs]
    options = ["--only-binary=:all:", "--implementation=cp", f"--python-version={ARM_PYTHON}", *platforms]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", f"--target={target}", *options]
    run([*pip, f"--constraint={constraints}", *requirements], {})
