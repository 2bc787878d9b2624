"""The command line: exit codes, one line on stderr, nothing half-written."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import pytest
from PIL import Image

import pocket_diffusion
from pocket_diffusion import Pipeline
from pocket_diffusion.bundle import Manifest
from pocket_diffusion.cli import cli
from pocket_diffusion.cli.generate import _Progress
from pocket_diffusion.drawing.caches import CACHES
from pocket_diffusion.drawing.samplers import SAMPLERS
from pocket_diffusion.drawing.schedulers import SCHEDULERS
from pocket_diffusion.errors import RuntimeUnavailableError
from pocket_diffusion.machine import session
from pocket_diffusion.machine.cpu import cores
from pocket_diffusion.pipeline import DEFAULT_BUNDLE

SMALL = ("--width", 64, "--height", 64, "--steps", 1, "--provider", "cpu", "--seed", 7)
RunCli = Callable[..., SimpleNamespace]


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    return tmp_path / "cwd"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_picture_is_drawn_and_reported(run_cli: RunCli, cwd: Path) -> None:
    outcome = run_cli("generate", "a lake 🏔️", *SMALL)
    assert (outcome.code, outcome.err) == (0, "drawing: 1 step\n")
    assert outcome.out.startswith("picture.png  (64x64, seed 7, ")
    assert files(cwd) == ["picture.png"]


def test_progress_in_a_log_is_one_line_with_the_time_left_by_the_steps_after_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = _Progress(hidden=False)
    for done, now in ((1, 100.0), (2, 102.0), (3, 104.0), (4, 106.0)):
        monkeypatch.setattr(time, "perf_counter", lambda now=now: now)
        progress.update(SimpleNamespace(number=done, total=4))
    assert capsys.readouterr().err == "drawing: 4 steps, about 4 s left\n"


def test_a_picture_is_drawn_again_as_it_says(run_cli: RunCli, cwd: Path) -> None:
    first = ["a lake", "--width", 64, "--height", 64, "--steps", 2, "--variation", 0.2, "--arithmetic", "exact"]
    assert run_cli("generate", *first, "-o", "a.png").code == 0
    for name in ("b.png", "c.jpg"):
        assert run_cli("generate", "--from", "a.png", "-o", name).code == 0
    assert run_cli("generate", "--from", "c.jpg", "-o", "d.png").code == 0
    for name in ("b.png", "d.png"):
        assert Image.open(cwd / name).tobytes() == Image.open(cwd / "a.png").tobytes()
    assert run_cli("generate", "a boat", "--from", "a.png", "--steps", 1, "--sampler", "euler", "-o", "e.png").code == 0
    told = json.loads(Image.open(cwd / "e.png").text["pocket-diffusion"])
    assert (told["prompt"], told["steps"], told["sampler"], told["width"]) == ("a boat", 1, "euler", 64)


def test_what_a_picture_does_not_say_is_asked_for(run_cli: RunCli, cwd: Path) -> None:
    assert "Missing argument 'PROMPT'; or give a picture" in run_cli("generate").error
    Image.new("RGB", (64, 64)).save(cwd / "plain.png")
    assert "does not say how it was made" in run_cli("generate", "--from", "plain.png").error
    drawn = run_cli("generate", "a lake", "--image", "plain.png", "--steps", 2, "-o", "a.png")
    assert drawn.code == 0, drawn.err
    assert "was made of another picture; give that with --image" in run_cli("generate", "--from", "a.png").error
    assert run_cli("generate", "--from", "a.png", "--image", "plain.png", "-o", "b.png").code == 0
    assert Image.open(cwd / "b.png").tobytes() == Image.open(cwd / "a.png").tobytes()


def test_words_that_the_model_does_not_know_are_told_in_one_line(run_cli: RunCli) -> None:
    outcome = run_cli("generate", "a (Dragon:1.2) by a lake, [a dragon|a robot] <lora:x:0>", *SMALL, "--quiet")
    assert "warning: this model does not know dragon, robot; `pocket-diffusion inspect` lists" in outcome.err
    assert " lake" in run_cli("inspect").out


def test_quiet_says_nothing(run_cli: RunCli, cwd: Path) -> None:
    outcome = run_cli("generate", "a lake", *SMALL, "--quiet", "-o", "a.webp")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert files(cwd) == ["a.webp"]


def test_what_nobody_named_replaces_nothing(run_cli: RunCli, cwd: Path) -> None:
    (cwd / "picture.png").write_text("mine")
    (cwd / "folder").mkdir()
    (cwd / "folder" / "picture.png").write_text("mine too")
    assert run_cli("generate", "a lake", *SMALL).code == 0
    assert run_cli("generate", "a lake", *SMALL, "-o", "folder").code == 0
    assert (cwd / "picture.png").read_text() == "mine"
    assert (cwd / "folder" / "picture.png").read_text() == "mine too"
    assert files(cwd) == ["folder", "folder/picture-2.png", "folder/picture.png", "picture-2.png", "picture.png"]


def test_several_pictures_go_to_a_folder_by_their_seeds(run_cli: RunCli, cwd: Path) -> None:
    assert run_cli("generate", "a lake", *SMALL, "--count", 2, "-o", "new/folder").code == 0
    assert files(cwd) == ["new", "new/folder", "new/folder/7.png", "new/folder/8.png"]


def test_several_pictures_have_a_files_name_with_numbers(run_cli: RunCli, cwd: Path) -> None:
    assert (
        run_cli("generate", "a lake", *SMALL, "--steps", 2, "--preview-every", 1, "--count", 2, "-o", "l.jpg").code == 0
    )
    assert files(cwd) == ["l-1.jpg", "l-2.jpg"]


def test_image_and_mask_are_taken_from_files(run_cli: RunCli, cwd: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(cwd / "in.png")
    options = ("--image", "in.png", "--mask", "in.png", "--strength", 1)
    assert run_cli("generate", "a lake", *SMALL, *options, "-o", "out.png").code == 0
    with Image.open(cwd / "out.png") as image:
        assert json.loads(image.text["pocket-diffusion"])["task"] == "inpainting"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--steps", "0"], "steps must be a whole number from 1"),
        (["--steps", "many"], "'many' is not a valid integer"),
        (["--width", "7"], "width must be a whole number from 64"),
        (["--guidance", "nan"], "guidance_scale must be a number"),
        (["--seed", "-1"], "seed must be"),
        (["--count", "0"], "count must be"),
        (["--sampler", "euler9"], "did you mean euler"),
        (["--scheduler", "karas"], "did you mean karras"),
        (["--sampler", "LCM", "--scheduler", "karras"], "does not take the scheduler karras"),
        (["--guidance-interval", "0.8:0.2"], "guidance_interval 0.8:0.2 is reversed"),
        (["--cache", "teacache:2"], "cache 'teacache:2' is not known; choose one of none, reuse, deep"),
        (["--guidance-interval", "0.5:0.5"], "guidance_interval 0.5:0.5 is empty"),
        (["--guidance-interval", "1"], "'1' is not two numbers such as 0.2:0.8"),
        (["--guidance-rescale", "2"], "guidance_rescale must be a number from 0 to 1"),
        (["--image-guidance", "2"], "image_guidance_scale is for models that change a picture"),
        (["--clip-skip", "99"], "clip_skip must be at most"),
        (["--sampler", "dpmpp_2m", "--eta", "1"], "adds no noise"),
        (["--preview-every", "0"], "0 is not in the range"),
        (["--provider", "tpu"], "'auto', 'cpu', 'cuda'"),
        (["--threads", "0"], "threads must be a whole number from 1 to 1024"),
        (["--threads", "10000"], "threads must be"),
        (["--mask", "m.png"], "a mask needs the image"),
        (["--strength", "0.5"], "--strength goes with --image"),
        (["--image", "missing.png"], "there is no such image"),
        (["--no-such-option"], "No such option"),
        (["--model", "nowhere"], "no bundle at nowhere"),
        (["-o", "a.bmp"], "choose such an ending"),
        (["-o", "missing/a.png"], "is no folder; make it first"),
        (["-o", "file/a.png"], "is no folder"),
        (["-o", "file", "--count", "2"], "is a file; with --count > 1, -o names a folder"),
        (["-o", "file/folder", "--count", "2"], "is no folder"),
        (["-o", "x" * 300 + ".png"], "cannot be written"),
    ],
    ids=" ".join,
)
def test_a_wrong_request_is_one_line_and_draws_nothing(
    run_cli: RunCli, cwd: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], why: str
) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("work was begun")

    monkeypatch.setattr(Pipeline, "_walk", refuse)
    (cwd / "file").touch()
    outcome = run_cli("generate", "a lake", *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert why in outcome.error
    assert files(cwd) == ["file"]


@pytest.mark.parametrize("prompt", ["", "x" * 30_000, "a \udce9 lake"], ids=["empty", "long", "surrogate"])
def test_a_prompt_that_cannot_be_drawn_is_refused(run_cli: RunCli, cwd: Path, prompt: str) -> None:
    outcome = run_cli("generate", prompt)
    assert outcome.code == 2
    assert "the prompt" in outcome.error
    assert files(cwd) == []


def test_a_prompt_beyond_the_limit_is_warned_about_in_one_line(run_cli: RunCli) -> None:
    outcome = run_cli("generate", ", " * 4000, *SMALL)
    assert outcome.code == 0
    warning, progress = outcome.err.splitlines()
    assert warning.startswith("warning: the prompt is longer than")
    assert progress.startswith("drawing: ")


def pocket(*arguments: object, cwd: Path, stdout: int | BinaryIO = subprocess.PIPE) -> "subprocess.Popen[bytes]":
    code = "import sys; from pocket_diffusion.cli import main; sys.argv[0] = 'pocket-diffusion'; main()"
    command = [sys.executable, "-c", code, *(os.fsencode(str(argument)) for argument in arguments)]
    return subprocess.Popen(command, cwd=cwd, stdout=stdout, stderr=subprocess.PIPE)


def test_bytes_that_are_no_text_on_the_real_command_line(tmp_path: Path) -> None:
    process = pocket("generate", "a \udce9 lake", cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, len(err.splitlines())) == (2, b"", 1)
    assert b"not text" in err


def test_ctrl_c_ends_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        # Shells have background jobs ignore Ctrl-C, and this test may be part of one.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pocket_diffusion import Pipeline; from pocket_diffusion.cli import main\n"
        "draw = Pipeline._walk\n"
        "def announce(*rest): print('drawing', flush=True); return draw(*rest)\n"
        "Pipeline._walk = announce; main()"
    )
    command = [
        "generate",
        "a lake",
        "--sampler",
        "ddpm",
        "--steps",
        "1000",
        "--width",
        "512",
        "--height",
        "512",
        "--provider",
        "cpu",
    ]
    (tmp_path / "cwd").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", code, *command],
        cwd=tmp_path / "cwd", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "drawing\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    # click ends the terminal's ^C with a line break of its own; before it stands the progress, if that was told already
    lines = [line for line in err.splitlines() if line and not line.startswith("drawing: ")]
    assert lines == ["error: interrupted; nothing half-written was left"]
    assert files(tmp_path / "cwd") == []


@pytest.mark.parametrize("imported", ["click", "pocket_diffusion.cli.samplers", "numpy"])
def test_ctrl_c_while_modules_are_imported_ends_in_one_line(imported: str) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == sys.argv[2]:\n"
        "            try: signal.raise_signal(signal.SIGINT)\n"
        "            except KeyboardInterrupt: pass\n"  # as callbacks of the import system and C code lose it
        "sys.meta_path.insert(0, Finder())\n"
        "from pocket_diffusion.__main__ import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code, "samplers", imported], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.split("\n") == ["", "error: interrupted; nothing half-written was left", ""]


def test_ctrl_c_of_which_others_make_another_error_is_ctrl_c(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeUnavailableError("ONNX Runtime does not load") from None

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(Pipeline, "load", load)
    outcome = run_cli("generate", "a lake")
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    assert (outcome.code, outcome.error) == (130, "error: interrupted; nothing half-written was left")


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with Path("/dev/full").open("wb") as full:
        process = pocket("samplers", cwd=tmp_path, stdout=full)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err.startswith(b"error: the output cannot be written: No space left on device; make room")
    assert err.count(b"\n") == 1


def test_more_threads_than_cores_are_not_used() -> None:
    with pytest.warns(UserWarning, match="1024 threads would wait for each other"):
        pipeline = Pipeline.load(threads=1024)
    assert pipeline.threads == cores()


@pytest.mark.parametrize("debug", [False, True])
def test_a_bug_is_one_line_unless_it_is_looked_for(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, debug: bool
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(Pipeline, "load", fail)
    if debug:
        monkeypatch.setenv("POCKET_DIFFUSION_DEBUG", "1")
        with pytest.raises(ZeroDivisionError):
            run_cli("generate", "a lake")
        return
    outcome = run_cli("generate", "a lake")
    assert outcome.code == 1
    assert "unexpected ZeroDivisionError: oh (this is a bug" in outcome.error


def test_a_missing_onnxruntime_says_which_extra_to_install(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(session, "installed_flavours", dict)
    outcome = run_cli("generate", "a lake")
    assert outcome.code == 1
    assert 'pip install "pocket-diffusion[cpu]"' in outcome.error


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(
    run_cli: RunCli, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fill)
    outcome = run_cli("generate", "a lake", *SMALL)
    assert (outcome.code, outcome.out) == (2, "")
    assert "picture.png cannot be written: No space left on device" in outcome.error
    assert files(cwd) == []


def test_version(run_cli: RunCli) -> None:
    outcome = run_cli("--version")
    assert (outcome.code, outcome.out) == (0, f"pocket-diffusion, version {pocket_diffusion.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_the_commands(run_cli: RunCli, arguments: list[str]) -> None:
    outcome = run_cli(*arguments)
    assert (outcome.code, outcome.err) == (0, "")
    listed = [line.split()[0] for line in outcome.out.split("Commands:\n")[1].splitlines()]
    assert {"generate", "export", "inspect", "verify", "doctor"} <= set(listed)


@pytest.mark.parametrize("command", cli.list_commands(None))
def test_help_of_each_command_ends_with_examples(run_cli: RunCli, command: str) -> None:
    _, examples = run_cli(command, "--help").out.split("\nExamples:\n")
    assert all(f" {command}" in line for line in examples.splitlines())


def test_an_unknown_command_is_one_line(run_cli: RunCli) -> None:
    outcome = run_cli("paint")
    assert outcome.code == 2
    assert "No such command 'paint'" in outcome.error
    assert "--help" in outcome.error


@pytest.mark.parametrize("path", [[], [DEFAULT_BUNDLE]], ids=["embedded", "named"])
def test_inspect_shows_what_is_in_a_bundle(run_cli: RunCli, manifest: Manifest, path: list[Path]) -> None:
    outcome = run_cli("inspect", *path)
    assert (outcome.code, outcome.err) == (0, "")
    for fact in (manifest.architecture, manifest.provenance.source, f"weights stored as {manifest.weights}", "unet"):
        assert fact in outcome.out
    worst = max(figure.relative_error for figure in manifest.unet.parity)
    assert f"{worst:.1e} relative" in outcome.out


def test_inspect_tells_how_far_float16_reaches(
    run_cli: RunCli, bundle: Path, edit_manifest: Callable[..., None]
) -> None:
    assert "operators in float32" not in run_cli("inspect", bundle).out
    found = {"peak": 162499.0, "where": "Add at a.bias", "limit": 30000.0, "in_float32": 12, "operators": 206}
    edit_manifest(lambda data: data["vae_decoder"].update(range=found))
    told = run_cli("inspect", bundle).out
    assert "vae_decoder    numbers up to 162,499 (Add at a.bias); 12 of 206 operators in float32\n" in told
    assert told.count("operators in float32") == 1


def test_inspect_tells_whether_weights_can_be_changed(run_cli: RunCli, bundle_of_format_2: Path) -> None:
    assert "can be given     LoRA, embeddings\n" in run_cli("inspect", DEFAULT_BUNDLE).out
    assert "neither LoRA nor embeddings; export the bundle again" in run_cli("inspect", bundle_of_format_2).out


def test_inspect_tells_what_was_chosen(run_cli: RunCli, bundle: Path, edit_manifest: Callable[..., None]) -> None:
    notes = ["prediction type v_prediction, by its tensor 'v_pred'", "VAE of other.safetensors, as asked"]
    edit_manifest(lambda data: data["provenance"].update(notes=notes))
    assert "".join(f"chosen           {note}\n" for note in notes) in run_cli("inspect", bundle).out


def test_inspect_json_is_the_manifest(run_cli: RunCli) -> None:
    outcome = run_cli("inspect", DEFAULT_BUNDLE, "--json")
    shown, written = json.loads(outcome.out), json.loads((DEFAULT_BUNDLE / "bundle.json").read_bytes())
    assert shown["files"] == written["files"]
    assert shown["unet"] == written["unet"]


def test_inspect_shows_a_bundle_whose_parity_was_not_measured(
    run_cli: RunCli, bundle: Path, edit_manifest: Callable[..., None]
) -> None:
    edit_manifest(lambda data: data["unet"].update(parity=[]))
    assert "not measured" in run_cli("inspect", bundle).out


LAYERS = [
    {"name": f"{way}.{i}", "stored": "int8", "computed": way, "storage_error": 1e-3, "error": error}
    for way, errors in {"tensor": [0.01, 0.04, 0.02], "token": [0.03], "float32": [None, None]}.items()
    for i, error in enumerate(errors)
]


def test_inspect_shows_how_exact_8_bit_graphs_are(run_cli: RunCli, bundle: Path, certify: Callable[..., None]) -> None:
    certify("unet", layers=LAYERS, what="4 prompts\x1b[2J")
    certify("vae_encoder", relative_error=0.5, psnr_db=None)
    outcome = run_cli("inspect", bundle)
    unet, encoder = outcome.out.split("unet in 8 bits\n")[1].split("vae_encoder in 8 bits\n")
    lines = [" ".join(line.split()) for line in unet.splitlines()]
    assert lines[:6] == [
        "error 1.0e-02 relative to the exact graph (5.0e-02): auto uses it",
        "largest error 2.0e-02 in 12 evaluations",
        "picture 42.0 dB",
        "measured on 4 prompts\N{REPLACEMENT CHARACTER}[2J",
        "layers 3 with one scale, 1 with a scale a token, 2 in float32",
        "worst layers tensor.1 4.0e-02 (with one scale), token.0 3.0e-02 (with a scale a token), "
        "tensor.2 2.0e-02 (with one scale)",
    ]
    assert "auto does not use it" in encoder
    assert "draws none" in encoder


def test_inspect_does_not_make_up_figures_of_layers(
    run_cli: RunCli, bundle: Path, certify: Callable[..., None]
) -> None:
    """An import knows none."""
    for computed, words in (("tensor", "not measured"), ("float32", "none")):
        layer = {"name": "a.weight", "stored": "int8", "computed": computed, "storage_error": None, "error": None}
        certify("unet", layers=[layer])
        shown = run_cli("inspect", bundle).out.split("unet in 8 bits\n")[1].splitlines()
        assert shown[5].split() == ["worst", "layers", *words.split()]


def test_inspect_json_has_the_certificates(run_cli: RunCli, bundle: Path, certify: Callable[..., None]) -> None:
    certify("unet", layers=LAYERS)
    shown = json.loads(run_cli("inspect", bundle, "--json").out)
    assert shown["certificates"]["unet"] == json.loads((bundle / "unet.certificate.json").read_bytes())
    assert shown["unet"]["int8"]["graph"] == "unet.int8.onnx"


@pytest.mark.parametrize("path", [[], [DEFAULT_BUNDLE]], ids=["embedded", "named"])
def test_verify_of_a_whole_bundle(run_cli: RunCli, manifest: Manifest, path: list[Path]) -> None:
    outcome = run_cli("verify", *path)
    assert (outcome.code, outcome.err) == (0, "")
    assert f"all {len(manifest.files)} files are what bundle.json says" in outcome.out


def test_samplers_lists_every_sampler_scheduler_and_cache_with_a_sentence(run_cli: RunCli) -> None:
    lines = run_cli("samplers").out.splitlines()
    for row in (*SAMPLERS.values(), *SCHEDULERS.values()):
        (line,) = [line for line in lines if line.startswith(f"{row.name} ") and line.endswith(row.summary)]
        assert row.label in line
    for kind in CACHES.values():
        assert [line.split()[1] for line in lines if line.endswith(kind.summary)] == [str(kind.usual)]


def test_previews_are_written_beside_the_picture_while_it_is_drawn(
    run_cli: RunCli, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    generate_module = importlib.import_module("pocket_diffusion.cli.generate")
    save = generate_module.save_picture

    def watched(picture: Image.Image, path: Path) -> None:
        save(picture, path)
        written.append(files(cwd))

    monkeypatch.setattr(generate_module, "save_picture", watched)
    assert run_cli("generate", "a lake", *SMALL, "--steps", 5, "--preview-every", 2, "-o", "lake.png").code == 0
    assert written == [["lake-preview.png"]] * 2
    assert files(cwd) == ["lake.png"]


def test_a_preview_replaces_no_file_of_that_name(run_cli: RunCli, cwd: Path) -> None:
    (cwd / "lake-preview.png").write_text("mine")
    options = ("--steps", 3, "--preview-every", 1, "-o", "lake.png")
    assert run_cli("generate", "a lake", *SMALL, *options).code == 0
    assert (cwd / "lake-preview.png").read_text() == "mine"
    assert files(cwd) == ["lake-preview.png", "lake.png"]


@pytest.mark.parametrize("output", [".", "new/folder", "out.v2"])
def test_several_pictures_with_previews_go_to_any_folder(run_cli: RunCli, cwd: Path, output: str) -> None:
    options = ("--steps", 2, "--count", 2, "--preview-every", 1, "-o", output)
    assert run_cli("generate", "a lake", *SMALL, *options).code == 0
    assert sorted(path.name for path in (cwd / output).glob("*.png")) == ["7.png", "8.png"]
