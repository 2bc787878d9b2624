"""A bundle on other CPUs by emulation: `PYTHONPATH=tests python -m emulate [BUNDLE]`; exit 1 if one surprises.

Speed cannot be emulated, nor can AVX-512, VNNI and AVX-VNNI: QEMU does not have them.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np

from emulate.cpus import CPUS
from emulate.qemu import NATIVE, PROJECT, EmulationError, Emulator, Python
from emulate.verdicts import Observation, Verdict, judge, table
from pocket_diffusion import PocketDiffusionError
from pocket_diffusion.bundle import Bundle
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

WORK = PROJECT / "build/emulate"
OBSERVE = Path(__file__).with_name("observe.py")


def observe(python: Python, bundle: Path) -> Observation:
    """Have `doctor` and `observe.py` look at a bundle on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "arrays.npz"
        doctor = python.run("-m", "pocket_diffusion", "doctor", str(bundle), "--provider", "cpu")
        python.run(str(OBSERVE), str(bundle), str(kept))
        with np.load(kept) as arrays:
            return Observation(doctor, dict(arrays))


def allowed_in_int8(bundle: Bundle) -> list[str]:
    """Return the roles whose certificates let them compute in 8 bits unasked."""
    return [role for role in bundle.manifest.int8_graphs if bundle.certificate(role).allows]


def progress(what: str) -> None:
    """Say on stderr what is being done."""
    print(f"emulate: {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="emulate", description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", nargs="?", type=Path, default=DEFAULT_BUNDLE, help="default: the embedded one")
    path = parser.parse_args().bundle.resolve()
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))  # QEMU writes a core of its own where a program crashes
    try:
        bundle = Bundle.open(path)
        allowed = allowed_in_int8(bundle)
        progress("fetching QEMU and an Arm system, unless they are there")
        emulator = Emulator.fetch(WORK)
        progress("this machine")
        observations = [observe(NATIVE, path)]
    except (EmulationError, PocketDiffusionError) as error:
        sys.exit(f"error: {error}")
    seen, verdicts = {}, []
    for cpu in CPUS:
        progress(f"{cpu.name}, for some minutes")
        try:
            seen[cpu] = observe(emulator.python(cpu), path)
        except EmulationError as error:
            verdicts.append(Verdict(cpu.name, "runs", str(error), "exit code 0", passed=False))
    observations += seen.values()
    for cpu, observation in seen.items():
        verdicts += judge(cpu, observation, observations, allowed)
    print(table(verdicts))
    if "unet" not in bundle.manifest.int8_graphs:
        print("8-bit predictions were not compared: the bundle has no 8-bit U-Net")
    if not all(verdict.passed for verdict in verdicts):
        sys.exit(1)


if __name__ == "__main__":
    main()
