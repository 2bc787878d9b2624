"""Which arithmetic is chosen, and that the networks, their memory and a picture's metadata follow the choice."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import COMPONENTS, Bundle, Manifest
from pocket_diffusion.errors import BundleDamagedError, InvalidRequestError
from pocket_diffusion.machine import cpu, session
from pocket_diffusion.machine.cpu import ZERO_POINT, probe_weights, products_are_right
from pocket_diffusion.machine.session import Provider
from pocket_diffusion.model import arithmetic
from pocket_diffusion.model.arithmetic import choose_arithmetic
from pocket_diffusion.model.memory import MODES, Demand, needed_memory

Certify = Callable[..., None]
RunCli = Callable[..., SimpleNamespace]
SMALL = {"width": 64, "height": 64, "steps": 1, "seed": 7}
OPTIONS = ("--width", 64, "--height", 64, "--steps", 1, "--provider", "cpu", "--seed", 7)


@pytest.fixture(autouse=True)
def fast_cpu(set_cpu: Callable[..., None]) -> None:
    set_cpu("avx512_vnni")


@pytest.fixture(autouse=True)
def exact_bundle(edit_manifest: Callable[..., None]) -> None:
    """Begin with a bundle that has no 8-bit graphs."""
    edit_manifest(lambda data: [data[role].pop("int8", None) for role in COMPONENTS])


def choose(asked: str, bundle: Path, provider: Provider = "cpu") -> arithmetic.ArithmeticChoice:
    return choose_arithmetic(asked, Bundle.open(bundle), provider)


def test_auto_computes_in_8_bits_where_certificate_and_cpu_allow_it(bundle: Path, certify: Certify) -> None:
    certify("unet")
    certify("vae_decoder")
    choice = choose("auto", bundle)
    assert choice.int8 == ("unet", "vae_decoder")
    assert choice.name == "int8"
    assert str(choice).startswith("chosen by auto: unet int8 (1.0e-02 off, within the bound of 5.0e-02), vae_decoder")


def test_auto_leaves_a_network_exact_that_is_above_its_bound(bundle: Path, certify: Certify) -> None:
    certify("unet", relative_error=0.051)
    certify("vae_decoder", relative_error=0.05)
    choice = choose("auto", bundle)
    assert choice.int8 == ("vae_decoder",)
    assert choice.name == "auto"
    assert "unet exact (5.1e-02 off, above the bound of 5.0e-02)" in str(choice)


def test_where_every_network_is_above_its_bound_auto_is_exact(bundle: Path, certify: Certify) -> None:
    certify("unet", relative_error=1)
    assert choose("auto", bundle).name == "exact"


def test_int8_is_honoured_above_the_bound(bundle: Path, certify: Certify) -> None:
    certify("unet", relative_error=1)
    choice = choose("int8", bundle)
    assert (choice.int8, choice.name) == (("unet",), "int8")
    assert str(choice).startswith("asked for: unet int8 (1.0e+00 off, above")


def test_exact_needs_neither_certificate_nor_cpu(
    bundle: Path, certify: Certify, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify("unet")
    damage(bundle / "unet.certificate.json")
    monkeypatch.setattr(arithmetic, "products_fault", lambda: pytest.fail("the CPU was tried"))
    choice = choose("exact", bundle)
    assert (choice.int8, choice.name, str(choice)) == ((), "exact", "asked for: exact")


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"0.01", b"0.00"))


@pytest.mark.parametrize("asked", ["auto", "int8"])
def test_a_certificate_that_was_edited_is_refused(bundle: Path, certify: Certify, asked: str) -> None:
    certify("unet")
    damage(bundle / "unet.certificate.json")
    with pytest.raises(BundleDamagedError, match=r"unet\.certificate\.json .*sha256 differs; .* --arithmetic exact"):
        Pipeline.load(bundle, provider="cpu", arithmetic=asked)
    assert Pipeline.load(bundle, provider="cpu", arithmetic="exact").arithmetic == "exact"


CASES = [
    ("no graph", "the bundle has no 8-bit graph", "export it with --weights int8, or use --arithmetic exact"),
    ("cuda", "8-bit graphs are for CPUs", "use --provider cpu, or use --arithmetic exact"),
    ("slow", "slower than exact ones on this CPU, which lacks VNNI", "use --arithmetic exact or auto"),
    ("wrong", "wrong on this CPU, whose sums saturate", "use --arithmetic exact or auto"),
]


@pytest.mark.parametrize(("case", "why", "advice"), CASES, ids=[case[0] for case in CASES])
def test_where_8_bits_are_not_possible_auto_is_exact_and_int8_is_refused(
    bundle: Path, certify: Certify, set_cpu: Callable[..., None], case: str, why: str, advice: str
) -> None:
    if case != "no graph":
        certify("unet")
    if case in ("slow", "wrong"):
        set_cpu("avx2", right=case == "slow")
    provider = "cuda" if case == "cuda" else "cpu"
    choice = choose("auto", bundle, provider)
    assert choice.name == "exact"
    assert str(choice).startswith("chosen by auto: exact, since ")
    assert why in str(choice)
    with pytest.raises(InvalidRequestError, match="arithmetic int8 is not possible here") as caught:
        choose("int8", bundle, provider)
    assert why in str(caught.value)
    assert advice in str(caught.value)


def test_where_the_system_does_not_tell_auto_is_careful_and_int8_is_honoured(
    bundle: Path, certify: Certify, set_cpu: Callable[..., None]
) -> None:
    certify("unet")
    set_cpu()
    choice = choose("auto", bundle)
    assert choice.name == "exact"
    assert "does not tell whether the CPU has instructions" in str(choice)
    assert choose("int8", bundle).name == "int8"


def test_saturation_cannot_happen_unseen(bundle: Path, certify: Certify, monkeypatch: pytest.MonkeyPatch) -> None:
    class Saturating:
        """Multiplies as a CPU does that claims to have VNNI and adds pairs in 16 bits all the same."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self, activations: np.ndarray) -> dict[str, np.ndarray]:
            weights = probe_weights().astype(int)
            terms = activations.astype(int)[:, :, None] * weights
            pairs = terms[:, :-1:2] + terms[:, 1::2]
            sums = np.clip(pairs, -(2**15), 2**15 - 1).sum(1) + terms[:, -1]
            return {"products": (sums - ZERO_POINT * weights.sum(0)).astype(np.float32)}

    certify("unet")
    monkeypatch.setattr(cpu, "products_are_right", products_are_right)
    monkeypatch.setattr(cpu, "GraphSession", Saturating)
    products_are_right.cache_clear()
    try:
        assert Pipeline.load(bundle, provider="cpu").arithmetic == "exact"
        with pytest.raises(InvalidRequestError, match="8-bit products come out wrong on this CPU"):
            Pipeline.load(bundle, provider="cpu", arithmetic="int8")
    finally:
        products_are_right.cache_clear()


@pytest.mark.parametrize("asked", ["", "Int8", "fp8", None, 8, [], "9" * 400])
def test_an_unknown_word_is_refused_with_those_allowed(asked: object) -> None:
    with pytest.raises(InvalidRequestError, match="is not known; choose one of auto, exact, int8") as caught:
        Pipeline.load(arithmetic=asked)
    assert len(str(caught.value)) < 120


def test_a_bundle_without_8_bit_graphs_is_opened_without_trying_the_cpu(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arithmetic, "products_fault", lambda: pytest.fail("the CPU was tried"))
    assert Pipeline.load(bundle, provider="cpu").arithmetic == "exact"


def opened_graphs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Note the session options by the graph's file name."""
    options, open_graph = {}, session._open

    def watched(graph: Path, provider: Provider, given: object, *others: object) -> object:
        options[graph.name] = given
        return open_graph(graph, provider, given, *others)

    monkeypatch.setattr(session, "_open", watched)
    return options


@pytest.mark.parametrize("memory", MODES)
def test_the_networks_are_opened_from_the_graphs_chosen(
    bundle: Path, certify: Certify, monkeypatch: pytest.MonkeyPatch, memory: str
) -> None:
    certify("unet")
    opened = opened_graphs(monkeypatch)
    Pipeline.load(bundle, provider="cpu", memory=memory).generate("a lake", **SMALL)
    assert sorted(opened) == ["text_encoder.onnx", "unet.int8.onnx", "vae_decoder.onnx"]
    opened.clear()
    Pipeline.load(bundle, provider="cpu", memory=memory, arithmetic="exact").generate("a lake", **SMALL)
    assert sorted(opened) == ["text_encoder.onnx", "unet.onnx", "vae_decoder.onnx"]


@pytest.mark.parametrize(("memory", "prepacked"), [("fast", True), ("balanced", False), ("low", False)])
def test_an_8_bit_graph_is_prepacked_in_fast_alone(
    bundle: Path, certify: Certify, monkeypatch: pytest.MonkeyPatch, memory: str, prepacked: bool
) -> None:
    certify("unet")
    opened = opened_graphs(monkeypatch)
    Pipeline.load(bundle, provider="cpu", memory=memory).components.open_session("unet")
    if prepacked:
        with pytest.raises(RuntimeError, match="disable_prepacking"):
            opened["unet.int8.onnx"].get_session_config_entry("session.disable_prepacking")
    else:
        assert opened["unet.int8.onnx"].get_session_config_entry("session.disable_prepacking") == "1"


def test_memory_is_that_of_the_graphs_chosen(
    bundle: Path, certify: Certify, edit_manifest: Callable[..., None], manifest: Manifest
) -> None:
    figures = {"base": 10**9, "per_pixel": 0, "expanded_weights": 0, "least": 0}
    certify("unet")
    edit_manifest(lambda data: data["unet"]["int8"].update(memory=figures))
    demand = Demand.usual(manifest)
    for asked, needed in (("exact", needed_memory(manifest, MODES["low"], demand)), ("int8", 10**9 + 60 * 128 * 128)):
        chosen = Pipeline.load(bundle, provider="cpu", arithmetic=asked).bundle.manifest
        assert needed_memory(chosen, MODES["low"], demand) == needed


def test_a_picture_carries_the_arithmetic_that_draws_it_again(bundle: Path, certify: Certify, tmp_path: Path) -> None:
    certify("unet")
    drawn = Pipeline.load(bundle, provider="cpu").generate("a lake", **SMALL)
    drawn.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        data, text = json.loads(image.text["pocket-diffusion"]), image.text["parameters"]
    assert data["arithmetic"] == "int8"
    assert ", Arithmetic: int8, Version: " in text
    again = Pipeline.load(bundle, provider="cpu", arithmetic=data["arithmetic"]).generate("a lake", **SMALL)
    assert again.images[0].tobytes() == drawn.images[0].tobytes()


def test_an_exact_picture_is_told_as_ever(bundle: Path, certify: Certify, tmp_path: Path) -> None:
    certify("unet")
    exact = Pipeline.load(bundle, provider="cpu", arithmetic="exact")
    exact.generate("a lake", **SMALL).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert "arithmetic" not in json.loads(image.text["pocket-diffusion"])
        assert "Arithmetic" not in image.text["parameters"]


def test_verbose_says_which_arithmetic_and_why(run_cli: RunCli, bundle: Path, certify: Certify) -> None:
    certify("unet")
    lines = run_cli("generate", "a lake", *OPTIONS, "-m", bundle, "--verbose").err.splitlines()
    (line,) = [line for line in lines if line.startswith("arithmetic ")]
    assert line.startswith("arithmetic chosen by auto: unet int8 (")


def test_the_command_line_passes_it_on(run_cli: RunCli, bundle: Path, certify: Certify) -> None:
    certify("unet", relative_error=1)
    lines = run_cli("generate", "a lake", *OPTIONS, "-m", bundle, "--verbose", "--arithmetic", "int8").err.splitlines()
    assert any(line.startswith("arithmetic asked for: unet int8 (") for line in lines)


@pytest.mark.parametrize("command", [["generate", "a lake"], ["serve"]], ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("word", "why"), [("int8", "export it with --weights int8"), ("fp8", "'auto', 'exact', 'int8'")]
)
def test_what_is_not_possible_is_one_line(
    run_cli: RunCli, bundle: Path, command: list[str], word: str, why: str
) -> None:
    outcome = run_cli(*command, "-m", bundle, "--provider", "cpu", "--arithmetic", word)
    assert (outcome.code, outcome.out) == (2, "")
    assert why in outcome.error


def test_exact_loads_nothing_heavy(bundle: Path, certify: Certify) -> None:
    certify("unet")
    code = (
        "import sys; from pocket_diffusion import Pipeline\n"
        "Pipeline.load(sys.argv[1], provider='cpu', arithmetic='exact'); print('onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
