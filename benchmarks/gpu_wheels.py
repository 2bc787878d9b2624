"""Wheels for a machine without a package registry: gathered where there is one, installed where there is none.

Only Python's own library is imported here.
"""

import argparse
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
EVERYTHING = ("pocket-diffusion[cuda,export]", "diffusers", "transformers", "tqdm")
"""With all that they need: 5 GB, most of it PyTorch's and NVIDIA's."""
_GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)
"""Minor versions that wheels for Linux are built for; pip matches each exactly."""
_PART = ".part"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Have a parser take what to do about wheels."""
    parser.add_argument("--gather", type=Path, metavar="FOLDER", help="fill FOLDER with wheels, and do no more")
    parser.add_argument("--python", default="3.12", help="the other machine's, for --gather (default: 3.12)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="gather these alone: the machine has the others")
    parser.add_argument("--parts", type=int, metavar="MB", help="cut larger wheels into parts, which --wheels joins")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install FOLDER's wheels and run with them")


def handle(arguments: argparse.Namespace, script: Path) -> bool:
    """Gather wheels, or run `script` anew in an environment of them; tell whether there is nothing left to do."""
    if arguments.gather is not None:
        gather(arguments.gather, arguments.python, arguments.only, arguments.parts)
        return True
    if arguments.wheels is not None:
        python = install(arguments.wheels)
        os.execv(python, [str(python), str(script), *_without_wheels(sys.argv[1:])])  # noqa: S606 - no shell is wanted
    return False


def gather(folder: Path, python: str, only: list[str] | None, part_size: int | None) -> None:
    """Fill a folder with this project's wheel, and with those that it is measured with.

    `only` names packages that are fetched without what they need. `part_size` is in millions of bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in _GLIBC]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    names = list(EVERYTHING) if only is None else ["--no-deps", *only]
    options = ["--find-links", str(folder), "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "download", "--dest", str(folder), *target, *options, *names], check=True)
    if part_size is not None:
        for wheel in folder.glob("*.whl"):
            cut(wheel, part_size * 10**6)


def cut(wheel: Path, size: int) -> None:
    """Put a file that is larger than `size` bytes into parts, numbered behind its name."""
    if wheel.stat().st_size <= size:
        return
    with wheel.open("rb") as file:
        for number, part in enumerate(iter(lambda: file.read(size), b"")):
            wheel.with_name(f"{wheel.name}{_PART}{number:03}").write_bytes(part)
    wheel.unlink()


def join(folder: Path) -> None:
    """Make whole what `cut` has put into parts."""
    for first in folder.glob(f"*{_PART}000"):
        wheel = first.with_name(first.name.removesuffix(f"{_PART}000"))
        with wheel.open("wb") as file:
            for part in sorted(folder.glob(f"{wheel.name}{_PART}*")):
                with part.open("rb") as content:
                    shutil.copyfileobj(content, file)


def install(folder: Path) -> Path:
    """Make an environment of a folder's wheels, without a registry, and return its Python.

    What the machine has besides is seen from there, and gives way to the wheels.
    """
    join(folder)
    environment = folder / "environment"
    venv.create(environment, system_site_packages=True, with_pip=True)
    python = environment / "bin" / "python"
    wheels = [str(path) for path in sorted(folder.glob("*.whl"))]
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", *wheels]
    subprocess.run(command, check=True)
    return python


def _without_wheels(options: list[str]) -> list[str]:
    """Return a command line without `--wheels FOLDER`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--wheels")
    return parser.parse_known_args(options)[1]
