"""Finding out what a machine can run, and naming the known traps."""

from dataclasses import dataclass, field
from pathlib import Path

from pocket_diffusion.bundle import COMPONENTS, Bundle
from pocket_diffusion.errors import PocketDiffusionError
from pocket_diffusion.machine.cpu import USEFUL_FLAGS, cpu_flags, products_are_fast, products_fault
from pocket_diffusion.machine.known_releases import RECOMMENDED, known_faults
from pocket_diffusion.machine.session import (
    GraphSession,
    available_providers,
    choose_provider,
    installed_flavours,
    onnxruntime,
    usable_cuda,
)
from pocket_diffusion.model.arithmetic import choose_arithmetic
from pocket_diffusion.model.budget import AUTO


@dataclass
class Report:
    """What was found: facts to show, faults that stop or mislead, hints that would help."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


def examine(bundle: Path, provider: str) -> Report:
    """Look at ONNX Runtime, the CPU, and whether a bundle's graphs load with a provider."""
    report = Report()
    _examine_onnxruntime(report, provider)
    report.facts.append(("cpu", _cpu_features()))
    if not report.faults:
        _examine_products(report)
        if not report.faults:
            _examine_bundle(report, bundle, provider)
        _examine_release(report)
    return report


def _examine_onnxruntime(report: Report, provider: str) -> None:
    flavours = installed_flavours()
    report.facts.append(("onnxruntime", ", ".join(f"{n} {v}" for n, v in flavours.items()) or "not installed"))
    if len(flavours) > 1:
        report.faults.append(
            f"both {' and '.join(flavours)} are installed and overwrite each other's files; `pip uninstall "
            f'{" ".join(flavours)}`, then install one: `pip install "pocket-diffusion[cpu]"` or `[cuda]`'
        )
    try:
        ort = onnxruntime()
    except PocketDiffusionError as error:
        report.faults.append(str(error))
        return
    report.facts.append(("providers", ", ".join(available_providers())))
    if ort.__version__ not in flavours.values() and flavours:
        report.faults.append(
            f"the onnxruntime that Python imports is {ort.__version__} at {Path(str(ort.__file__)).parent}, "
            "not the one that pip installed"
        )
    if provider == "cuda" or (provider == "auto" and "onnxruntime-gpu" in flavours):
        cuda = usable_cuda()
        report.facts.append(("cuda", str(cuda)))
        if cuda.obstacle is not None:
            report.faults.append(f"{cuda.refusal}; or use --provider cpu")


def _examine_release(report: Report, *, in_half_precision: bool = False) -> None:
    """Tell what is known to be wrong with this ONNX Runtime: as a hint where only a hostile file brings it about."""
    version = onnxruntime().__version__
    if "onnxruntime-gpu" in installed_flavours():
        wanted = 'the release that `pip install --upgrade "pocket-diffusion[cuda]"` brings'
    else:
        wanted = f'{RECOMMENDED} or newer: `pip install "onnxruntime>={RECOMMENDED}"`'
    for fault in known_faults(version, cpu_flags(), in_half_precision=in_half_precision):
        told = report.hints if fault.is_dangerous else report.faults
        told.append(f"ONNX Runtime {version} {fault.what} ({fault.source}); take {wanted}")


def _examine_products(report: Report) -> None:
    try:
        verdict = products_fault()
    except PocketDiffusionError as error:
        report.faults.append(str(error))
        return
    if verdict is None:
        verdict = "right, and fast" if products_are_fast() else "right; whether they are fast is not known here"
    report.facts.append(("8-bit products", verdict))


def _examine_bundle(report: Report, path: Path, provider: str) -> None:
    try:
        bundle = Bundle.open(path)
        chosen = choose_provider(provider, bundle.manifest.target)
        if chosen == "cpu" and bundle.manifest.target == "cuda":
            _examine_release(report, in_half_precision=True)
        for name in COMPONENTS:
            GraphSession(bundle.root, name, bundle.manifest.component(name), chosen)
        if chosen == "cpu":
            for name in bundle.manifest.int8_graphs:
                GraphSession(bundle.root, name, bundle.manifest.in_int8([name]).component(name), chosen)
        arithmetic = choose_arithmetic(AUTO, bundle, chosen)
    except PocketDiffusionError as error:
        report.faults.append(str(error))
        return
    manifest = bundle.manifest
    report.facts.append(("bundle", f"{path}: for {manifest.target}, loads on {chosen}"))
    report.facts.append(("arithmetic", str(arithmetic)))
    if manifest.target != chosen:
        report.hints.append(
            f"{path} was exported for {manifest.target} but would run on {chosen}, slower than it could; "
            f"export it with --target {chosen}"
        )


def _cpu_features() -> str:
    """Return the vector extensions that matter, where the system tells them (Linux does)."""
    flags = cpu_flags()
    if flags is None:
        return "features unknown"
    return ", ".join(flag for flag in USEFUL_FLAGS if flag in flags) or "no vector extension known to matter"
