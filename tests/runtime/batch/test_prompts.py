"""Files of prompts, as people and programs write them."""

import json
from pathlib import Path

import pytest

from pocket_diffusion import InvalidRequestError
from pocket_diffusion.batch.prompts import PromptsWarning, read_prompts
from pocket_diffusion.batch.row import Row

LAKE = {"prompt": "a lake", "steps": "2"}


def write(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content.encode(encoding))
    return path


def prompts(path: Path, column: str = "prompt") -> list[str | None]:
    return [row.fields.get("prompt") for row in read_prompts(path, column)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "prompt,steps\na lake,2\n"),
        ("p.csv", '\ufeffprompt, steps\r\n"a lake",2\r\n\r\n'),
        ("p.tsv", "steps\tprompt\n2\ta lake\n"),
        ("p.jsonl", '{"prompt": "a lake", "steps": "2"}\n\n'),
    ],
    ids=["csv", "as Excel writes it", "tsv", "jsonl"],
)
def test_each_kind_of_table_is_read(tmp_path: Path, name: str, content: str) -> None:
    (row,) = read_prompts(write(tmp_path / name, content))
    assert row == Row(number=1, key="1", fields=LAKE)


def test_a_text_has_a_prompt_a_line(tmp_path: Path) -> None:
    assert prompts(write(tmp_path / "p.txt", "a lake\r\n\r\n  a boat, red \n")) == ["a lake", "a boat, red"]


def test_quotes_hold_separators_line_ends_and_other_alphabets(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", 'prompt,note\n"a lake, ""calm""\nat night",ñ\n湖,\n')
    assert prompts(path) == ['a lake, "calm"\nat night', "湖"]
    assert [row.carried for row in read_prompts(path)] == [{"note": "ñ"}, {}]


def test_parquet_is_read_by_pyarrow(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = pyarrow.table({"prompt": ["a lake", "a boat"], "steps": [2, None], "strength": [0.5, float("nan")]})
    parquet.write_table(table, tmp_path / "p.parquet")
    first, second = read_prompts(tmp_path / "p.parquet")
    assert first.fields == {"prompt": "a lake", "steps": 2, "strength": 0.5}
    assert second.fields == {"prompt": "a boat"}
    write(tmp_path / "q.parquet", "PAR1")
    with pytest.raises(InvalidRequestError, match="cannot be read as Parquet"):
        prompts(tmp_path / "q.parquet")


FLICKR30K = """image_name| comment_number| comment
1000092795.jpg| 0| Two young guys with shaggy hair look at their hands .
1000092795.jpg| 1| A child | a dog , "both" wet .
2199200615.jpg| 4   A dog runs across the grass .
broken
"""


def test_flickr30k_is_recognised_and_its_malformed_row_repaired(tmp_path: Path) -> None:
    path = write(tmp_path / "results.csv", FLICKR30K.replace("\n", "\r\n"))
    with pytest.warns(PromptsWarning, match="line 4: the separator"):
        rows = list(read_prompts(path))
    assert [row.key for row in rows] == ["1000092795.jpg#0", "1000092795.jpg#1", "2199200615.jpg#4", "4"]
    assert rows[1].fields == {"prompt": 'A child | a dog , "both" wet .'}
    assert rows[2].fields == {"prompt": "A dog runs across the grass ."}
    assert rows[2].carried == {"image_name": "2199200615.jpg", "comment_number": "4"}
    assert "line 5 is not" in (rows[3].error or "")


def test_a_row_that_cannot_be_read_says_so_and_the_others_are_read(tmp_path: Path) -> None:
    rows = list(read_prompts(write(tmp_path / "p.csv", "prompt,steps\na lake,2,3\na boat\n")))
    assert rows[0].error == "line 2 has 3 fields for 2 columns; quote what has the separator in it"
    assert rows[1].fields == {"prompt": "a boat"}
    rows = list(read_prompts(write(tmp_path / "p.jsonl", '{"prompt": "a lake"}\n[1]\n' + "[" * 5000 + "\n")))
    assert [bool(row.error) for row in rows] == [False, True, True]


def test_keys_name_rows(tmp_path: Path) -> None:
    assert [row.key for row in read_prompts(write(tmp_path / "p.csv", "id,prompt\nx,a\n,b\n"))] == ["x", "2"]
    with pytest.raises(InvalidRequestError, match="row 2 has the key 'x' of an earlier row"):
        prompts(write(tmp_path / "p.csv", "id,prompt\nx,a\nx,b\n"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "promt,steps\na,2\n", "no column 'prompt', but promt, steps; --prompt-column promt"),
        ("p.csv", "caption,steps\na,2\n", "no column 'prompt', but caption, steps; --prompt-column caption"),
        ("p.csv", "", "no column 'prompt', but none at all"),
        ("p.csv", "prompt,prompt\na,b\n", "the column 'prompt' twice"),
        ("p.csv", "prompt,count\na,2\n", "a column 'count' cannot be had, as a row is one picture"),
        ("p.csv", 'prompt\n"a lake' + "x" * 200_000, "is a quote not closed"),
        ("p.txt", "x" * (2**20 + 1), "a line of over 1,048,576 characters"),
        ("p.doc", "a lake", "prompts are read from .csv, .tsv, .jsonl, .parquet, .txt"),
    ],
    ids=["misspelt", "another name", "empty", "twice", "count", "quote", "long line", "ending"],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        prompts(write(tmp_path / name, content))
    assert message in str(caught.value)


def test_other_files_than_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="is not UTF-8"):
        prompts(write(tmp_path / "p.txt", "é", "latin-1"))
    with pytest.raises(FileNotFoundError):
        prompts(tmp_path / "nowhere.csv")
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        (tmp_path / "folder.csv").mkdir()
        prompts(tmp_path / "folder.csv")


def test_a_column_that_looks_misspelt_is_told(tmp_path: Path) -> None:
    with pytest.warns(PromptsWarning, match=r"'widht' is carried through and changes nothing; 'width' would"):
        prompts(write(tmp_path / "p.csv", "prompt,widht\na,2\n"))


def test_another_column_may_have_the_prompts(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", json.dumps({"caption": "a lake", "prompt": "x"}))
    (row,) = read_prompts(path, "caption")
    assert (row.fields, row.carried) == ({"prompt": "a lake"}, {"prompt": "x"})
