"""A batch: what it writes, how it goes on, and what it refuses."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from loras import random_lora, write_safetensors
from pocket_diffusion import InvalidRequestError, LoraSpec, Order, OutputError, Pipeline
from pocket_diffusion.batch import Batch
from pocket_diffusion.batch.folder import Record
from serving import COMMAND

RunCli = Callable[..., SimpleNamespace]

PROMPTS = "prompt,width,height,steps,note\na lake,64,64,1,x\na boat,64,64,1,y\nred,65,64,1,\na tree,64,64,1,\n"
SMALL = Order(prompt="", width=64, height=64, steps=1)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text(PROMPTS)
    return path


def pictures(folder: Path) -> dict[str, str]:
    """The hash of each picture by its place."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("pictures/**/*.png"))
    }


def results(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_batch_draws_what_the_pipeline_draws_and_tells_of_each_row(prompts: Path, tmp_path: Path) -> None:
    with Batch(prompts, tmp_path / "out", processes=1) as batch:
        records = list(batch.draw())
        files = {path.name for path in batch.finish()}
    assert (batch.rows, batch.done) == (4, 3)
    assert [record.error for record in records] == [
        None, None, "width must be a multiple of 8, not 65; the nearest are 64 and 72", None,
    ]  # fmt: skip
    assert "contact-sheet.jpg" in files
    first = results(tmp_path / "out")[0]
    assert first["carried"] == {"note": "x"}
    path = tmp_path / "out" / str(first["file"])
    assert path == tmp_path / "out" / "pictures" / "0000" / "000001.png"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == first["sha256"]
    again = Pipeline.load(threads=1).generate("a lake", width=64, height=64, steps=1, seed=records[0].settings["seed"])
    np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(again.images[0]))


def test_parquet_has_the_same(prompts: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    prompts.write_text(PROMPTS.replace("note", "file"))  # a name that is taken
    with Batch(prompts, tmp_path / "out", processes=1) as batch:
        list(batch.draw())
        batch.finish()
    table = parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    for row, line in zip(table, results(tmp_path / "out"), strict=True):
        assert {name: row[name] for name in ("row", "key", "file", "sha256", "error")} == {
            name: line[name] for name in ("row", "key", "file", "sha256", "error")
        }
        assert row["prompt"] == line["settings"].get("prompt")
        assert row["seed"] == line["settings"].get("seed")
    assert [row["carried_file"] for row in table] == ["x", "y", None, None]


def test_a_batch_that_was_stopped_goes_on_where_it_was(prompts: Path, tmp_path: Path) -> None:
    with Batch(prompts, tmp_path / "whole", processes=1) as batch:
        list(batch.draw())
        batch.finish()
    with Batch(prompts, tmp_path / "out", processes=1) as batch:
        next(batch.draw())
    journal = tmp_path / "out" / "results.jsonl"
    with journal.open("a") as file:
        file.write('{"row":2,"ke')  # as a kill leaves it
    with Batch(prompts, tmp_path / "out", processes=1) as batch:
        assert batch.done == 1
        assert [record.row for record in batch.draw()] == [2, 3, 4]
        batch.finish()
    assert pictures(tmp_path / "out") == pictures(tmp_path / "whole")
    assert [line["row"] for line in results(tmp_path / "out")] == [1, 2, 3, 4]


def test_a_picture_that_is_gone_is_drawn_again_and_a_row_that_failed_is_tried_again(
    prompts: Path, tmp_path: Path
) -> None:
    with Batch(prompts, tmp_path / "out", processes=1) as batch:
        list(batch.draw())
    (tmp_path / "out" / "pictures" / "0000" / "000002.png").unlink()
    with Batch(prompts, tmp_path / "out", processes=1) as batch:
        assert [record.row for record in batch.draw()] == [2, 3]
        batch.finish()
    assert [line["row"] for line in results(tmp_path / "out")] == [1, 2, 3, 4]


def test_several_processes_draw_the_same(prompts: Path, tmp_path: Path) -> None:
    drawn = []
    for processes in (1, 2):
        with Batch(prompts, tmp_path / str(processes), processes=processes) as batch:
            records: list[Record] = list(batch.draw())
        drawn.append([(record.row, record.sha256) for record in records])
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"usual": Order(prompt="", negative_prompt="x")}, "negative_prompt"),
        ({"seed": 1}, "seed"),
        ({"memory": "low"}, "memory"),
    ],
)
def test_another_batch_is_refused(prompts: Path, tmp_path: Path, changed: dict[str, object], named: str) -> None:
    with Batch(prompts, tmp_path / "out", processes=1) as batch:
        next(batch.draw())
    with (
        pytest.raises(InvalidRequestError, match=f"differs in: {named}; "),
        Batch(prompts, tmp_path / "out", processes=1, **changed),
    ):
        pass
    prompts.write_text(PROMPTS + "more,64,64,1,\n")
    with pytest.raises(InvalidRequestError, match="differs in: prompts"), Batch(prompts, tmp_path / "out", processes=1):
        pass


def test_embeddings_and_loras_are_part_of_a_batch_by_their_content(prompts: Path, tmp_path: Path) -> None:
    bundle = Pipeline.load().bundle
    width = bundle.manifest.text_encoder.outputs[0].shape[-1]
    word, lora = tmp_path / "odd.safetensors", tmp_path / "style.safetensors"

    def begin(scale: float = 0.5) -> None:
        loras = [LoraSpec(lora, scale)]
        with Batch(prompts, tmp_path / "out", processes=1, embeddings=[word], loras=loras) as batch:
            next(batch.draw(), None)

    def write_word(value: float) -> None:
        write_safetensors(word, {"emb_params": np.full((1, width), value, np.float32)})

    write_word(0)
    write_safetensors(lora, random_lora(bundle))
    begin()
    (tmp_path / "elsewhere").mkdir()
    lora = lora.rename(tmp_path / "elsewhere" / lora.name)
    begin()
    with pytest.raises(InvalidRequestError, match=r"differs in: LoRA style \(1\); "):
        begin(scale=0.6)
    write_safetensors(lora, random_lora(bundle, seed=1))
    write_word(1)
    with pytest.raises(InvalidRequestError, match=r"differs in: LoRA style \(1\), embedding odd; "):
        begin()
    with (
        pytest.raises(InvalidRequestError, match=r"differs in: LoRA style \(1\), embedding odd; "),
        Batch(prompts, tmp_path / "out", processes=1),
    ):
        pass


def test_a_lora_of_a_folder_that_changes_in_between_is_named(tmp_path: Path) -> None:
    prompts, folder = tmp_path / "prompts.txt", tmp_path / "loras"
    prompts.write_text("a lake\na lake <lora:ink>\na boat\na boat <lora:ink>\n")
    folder.mkdir()
    bundle = Pipeline.load().bundle
    lora = write_safetensors(folder / "ink.safetensors", random_lora(bundle))
    with Batch(prompts, tmp_path / "out", usual=SMALL, processes=1, lora_folder=folder) as batch:
        drawing = batch.draw()
        assert [next(drawing).error for _ in range(2)] == [None, None]
    before = lora.read_bytes()
    write_safetensors(lora, random_lora(bundle, seed=1))
    with (
        Batch(prompts, tmp_path / "out", usual=SMALL, processes=1, lora_folder=folder) as batch,
        pytest.raises(InvalidRequestError, match=r"LoRA ink is not what it was when pictures in .* were drawn with it"),
    ):
        list(batch.draw())
    assert batch.done == len(pictures(tmp_path / "out")) == 3, "a boat needs no LoRA"
    lora.write_bytes(before)
    with Batch(prompts, tmp_path / "out", usual=SMALL, processes=1, lora_folder=folder) as batch:
        assert [record.row for record in batch.draw()] == [4]
    with (
        pytest.raises(InvalidRequestError, match="differs in: LoRA folder; "),
        Batch(prompts, tmp_path / "out", usual=SMALL, processes=1),
    ):
        pass


def test_a_folder_with_something_else_is_refused(prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(InvalidRequestError, match="has other files"), Batch(prompts, tmp_path / "out"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_two_at_once_are_refused(prompts: Path, tmp_path: Path) -> None:
    with (
        Batch(prompts, tmp_path / "out", processes=1),
        pytest.raises(OutputError, match="another process is drawing"),
        Batch(prompts, tmp_path / "out", processes=1),
    ):
        pass


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("what", ["a picture", "a line of the journal"])
def test_a_full_disk_ends_it_and_the_same_goes_on(tmp_path: Path, what: str) -> None:
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out"
    rows = [{"prompt": "a lake", "note": "x" * 50_000}, {"prompt": "a boat"}, {"prompt": "a tree"}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (
        ExitStack() as full,
        pytest.raises(
            OutputError, match=r"out cannot be written: [^;:]*; 1 pictures are there; make room, and give the same"
        ),
        Batch(prompts, out, usual=SMALL, processes=1) as batch,
    ):
        drawing = batch.draw()
        next(drawing)
        journal = (out / "results.jsonl").stat().st_size
        full.enter_context(full_after(1000 if what == "a picture" else journal + 100))
        list(drawing)
    assert not list(out.glob(".*"))
    with Batch(prompts, out, usual=SMALL, processes=1) as batch:
        assert batch.done == 1
        assert [record.row for record in batch.draw()] == [2, 3]
        before = (out / "results.jsonl").read_bytes()
        with full_after(1000), pytest.raises(OutputError, match="3 pictures are there; make room"):
            batch.finish()
    assert {path.name for path in out.iterdir()} == {"batch.json", "results.jsonl", "pictures"}
    assert (out / "results.jsonl").read_bytes() == before
    with Batch(prompts, out, usual=SMALL, processes=1) as batch:
        assert not list(batch.draw())
        assert len(batch.finish()) >= 1
    assert [line["row"] for line in results(out)] == [1, 2, 3]
    assert len(pictures(out)) == 3


def test_a_disk_that_is_full_from_the_beginning_is_told(prompts: Path, tmp_path: Path) -> None:
    with (
        full_after(0),
        pytest.raises(OutputError, match="0 pictures are there; make room"),
        Batch(prompts, tmp_path / "out", processes=1),
    ):
        pass
    assert not list((tmp_path / "out").iterdir())
    with Batch(prompts, tmp_path / "out", processes=1) as batch:
        assert next(batch.draw()).error is None


def test_a_row_whose_process_dies_is_recorded_and_the_others_are_drawn(tmp_path: Path) -> None:
    from deadly import DeadlyStudio
    from pocket_diffusion.batch.row import Row
    from pocket_diffusion.batch.workers import draw_in_processes

    rows = [Row(number=i, key=str(i), fields={"prompt": "die" if i == 2 else "a lake"}) for i in range(1, 6)]
    drawn = list(draw_in_processes(DeadlyStudio(None, SMALL, 0, tmp_path, {"threads": 1}), 2, rows))
    assert sorted(each.row.number for each in drawn) == [1, 2, 3, 4, 5]
    assert [each.row.number for each in drawn if each.error] == [2]


# The command line


def test_the_command_tells_what_it_wrote_and_what_failed(prompts: Path, tmp_path: Path, run_cli: RunCli) -> None:
    outcome = run_cli("batch", prompts, tmp_path / "out", "--processes", 1)
    assert outcome.code == 1
    error = outcome.err.splitlines()[-1]
    assert "row 3: width must be a multiple of 8" in outcome.err
    assert error.startswith("error: 3 of 4 pictures are drawn; ")
    prompts.write_text("prompt\na lake\n")
    outcome = run_cli("batch", prompts, tmp_path / "good", "--width", 64, "--height", 64, "--steps", 1)
    assert outcome.code == 0, outcome.err
    assert "(1 of 1 pictures are drawn)" in outcome.out


def test_strict_stops_at_the_first_row_that_fails(prompts: Path, tmp_path: Path, run_cli: RunCli) -> None:
    outcome = run_cli("batch", prompts, tmp_path / "out", "--processes", 1, "--strict")
    assert outcome.code == 1
    assert "error: row 3: width" in outcome.err
    assert len(pictures(tmp_path / "out")) == 2


WAITING = (
    "import sys; from pocket_diffusion.batch.folder import BatchFolder\n"
    "add = BatchFolder.add\n"
    "def add_and_wait(folder, drawn):\n"
    "    record = add(folder, drawn)\n"
    "    if len(folder) == 2: print('two are drawn', flush=True); sys.stdin.read()\n"
    "    return record\n"
    f"BatchFolder.add = add_and_wait\n{COMMAND}"
)
"""Goes on after two pictures when its input ends."""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_it_goes_on(tmp_path: Path, end: signal.Signals) -> None:
    (tmp_path / "p.txt").write_text("\n".join(f"a lake {number}" for number in range(12)))
    command = ["batch", "p.txt", "out", "--quiet", "--width", "64", "--height", "64", "--steps", "1"]
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, *command],
        cwd=tmp_path, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "two are drawn\n"
        os.killpg(process.pid, end)
        process.stdin.close()
        assert process.wait(120) == (130 if end is signal.SIGINT else -end)
    assert 2 <= len(pictures(tmp_path / "out")) < 12
    assert subprocess.run([sys.executable, "-c", COMMAND, *command], cwd=tmp_path, check=False).returncode == 0
    assert len(results(tmp_path / "out")) == len(pictures(tmp_path / "out")) == 12
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"batch.json", "results.jsonl", "pictures"}
    assert not list((tmp_path / "out").glob(".*"))
