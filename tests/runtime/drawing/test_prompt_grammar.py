r"""A1111's prompt syntax, by the examples of its wiki and of its `modules/prompt_parser.py`."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocket_diffusion.drawing.prompt_grammar import MAX_DEPTH, Part, Sections, parse, render
from pocket_diffusion.errors import InvalidRequestError

STEPS = 10
SPECIAL = r"\()[]:|"


def sections(text: str, step: int = 0, steps: int = STEPS) -> Sections:
    return render(parse(text).nodes, step, steps)


def parts(text: str) -> list[tuple[str, float]]:
    (section,) = sections(text)
    return [tuple(part) for part in section]


def texts(text: str, steps: int = STEPS) -> list[str]:
    """Return the text of each step without its weights."""
    nodes = parse(text).nodes
    return ["".join(part.text for section in render(nodes, i, steps) for part in section) for i in range(steps)]


def approx(expected: list[tuple[str, float]]) -> list[tuple[str, object]]:
    # Two orders of multiplying a few float64 differ by some 1e-16.
    return [(text, pytest.approx(weight, rel=1e-12)) for text, weight in expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("a clock (at 12:30)", [("a clock ", 1), ("at 12:30", 1.1)]),  # a time, no weight of 30
        (r"\(literal\]", [("(literal]", 1)]),
        # Its long example with the bracket closed that it leaves open; it weighs all that follows such a one.
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).)",
            [
                *[("a ", 1), ("house", 1.573), (" ", 1.1), ("on", 1), (" a ", 1.1)],
                *[("hill", 0.55), (", sun, ", 1.1), ("sky", 1.4641), (".", 1.1)],
            ],
        ),
        ("a ((word))", [("a ", 1), ("word", 1.21)]),
        ("a [word]", [("a ", 1), ("word", 1 / 1.1)]),
        ("a (word:0.25)", [("a ", 1), ("word", 0.25)]),
        ("anime_\\(character\\)", [("anime_(character)", 1)]),
        ("(a: +.5 )", [("a", 0.5)]),
        ("(a:b:2)", [("a:b", 2)]),
        ("(a:-1)", [("a", -1)]),
        ("((a:2):0)", [("a", 0)]),
        ("(a:1) b", [("a b", 1)]),
    ],
)
def test_attention_is_that_of_a1111(text: str, expected: list[tuple[str, float]]) -> None:
    assert parts(text) == approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("test", ["test"] * 10),
        ("a [b:3]", ["a "] * 3 + ["a b"] * 7),
        ("a [b: 3]", ["a "] * 3 + ["a b"] * 7),
        ("a [b: 3 ]", ["a "] * 3 + ["a b"] * 7),
        ("a [[[b]]:2]", ["a "] * 2 + ["a b"] * 8),
        ("[(a:2):3]", [""] * 3 + ["a"] * 7),
        ("a [b : c : 1] d", ["a b  d"] + ["a  c  d"] * 9),
        ("a[b:[c:d:2]:1]e", ["abe"] + ["ace"] + ["ade"] * 8),
        ("a [unbalanced", ["a [unbalanced"] * 10),
        ("a [b:.5] c", ["a  c"] * 5 + ["a b c"] * 5),
        ("a [{b|d{:.5] c", ["a  c"] * 5 + ["a {b|d{ c"] * 5),
        ("((a][:b:c [d:3]", ["((a][:b:c "] * 3 + ["((a][:b:c d"] * 7),
        ("[a|(b:1.1)]", ["a", "b"] * 5),
        ("[fe|]male", ["female", "male"] * 5),
        ("[fe|||]male", ["female", "male", "male", "male"] * 2 + ["female", "male"]),
        ("[a::4]b", ["ab"] * 4 + ["b"] * 6),
        ("[:a:4]b", ["b"] * 4 + ["ab"] * 6),
        ("[a:b:1.0]", ["a"] * 10),  # with a decimal point it is a fraction
        ("[a:b:1]", ["a"] + ["b"] * 9),
        ("[a:b:99]", ["a"] * 10),
        ("[a:b:-3]", ["b"] * 10),
        ("[a:b:1e999]", ["a"] * 10),
        ("[[a|b]:c:4]", ["a", "b", "a", "b"] + ["c"] * 6),
        ("[[a:b:2]|c]", ["a", "c"] + ["b", "c"] * 4),
    ],
)
def test_schedules_are_those_of_a1111(text: str, expected: list[str]) -> None:
    assert texts(text) == expected


def test_the_documented_example_of_several_schedules() -> None:
    read = texts(
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
        "[ in background:0.25] [shoddy:masterful:0.5]",
        steps=100,
    )
    assert [read[step] for step in (24, 49, 59, 74, 99)] == [
        "fantasy landscape with a mountain and an oak in foreground shoddy",
        "fantasy landscape with a lake and an oak in foreground in background shoddy",
        "fantasy landscape with a lake and an oak in foreground in background masterful",
        "fantasy landscape with a lake and an oak in background masterful",
        "fantasy landscape with a lake and a christmas tree in background masterful",
    ]


def test_attention_reaches_into_schedules_and_alternations() -> None:
    assert sections("(a [b:[c|d]:0.5]:2)", step=0) == ((Part("a b", 2),),)
    assert sections("(a [b:[c|(d:3)]:0.5]:2)", step=7) == ((Part("a ", 2), Part("d", 6)),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a BREAK b", [["a"], ["b"]]),
        ("a\n BREAK\nBREAK b", [["a"], [], ["b"]]),
        ("BREAK a BREAK", [[], ["a"], []]),
        ("BREAKfast, a_BREAK, break", [["BREAKfast, a_BREAK, break"]]),
        ("(a BREAK b:1.5) c", [["a"], ["b", " c"]]),
    ],
)
def test_break_begins_a_section(text: str, expected: list[list[str]]) -> None:
    assert [[part.text for part in section] for section in sections(text)] == expected


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("(ratio:wide)", "ratio:wide"),
        ("(a:1.2.3)", "a:1.2.3"),
        ("(a:)", "a:"),
        ("(a:1|2)", "a:1|2"),
        ("[a:b]", "a:b"),
        ("[a:b:c:3]", "a:b:c:3"),
        ("[a:b:x]", "a:b:x"),
        (r"[a\|b]", "a|b"),
        (r"(a\:1.5)", "a:1.5"),
        (r"[a\:b:c:0]", "c"),
        ("a: b | c", "a: b | c"),
        (r"C:\dir\\", "C:\\dir\\"),
        ("1,\ufeff\n🏔️", "1,\ufeff\n🏔️"),
    ],
)
def test_what_only_resembles_syntax_is_text(text: str, read: str) -> None:
    assert texts(text) == [read] * STEPS


@pytest.mark.parametrize(
    ("text", "read", "unmatched"),
    [
        ("(lake", "(lake", [0]),
        ("lake)", "lake)", [4]),
        ("a ((b)", "a (b", [2]),
        ("(a [b) c", "a [b c", [3]),
        ("[a:b:0.5", "[a:b:0.5", [0]),
        ("[a|b", "[a|b", [0]),
        ("]a[", "]a[", [0, 2]),
        ("[ (a [b)", "[ a [b", [0, 5]),
        (r"\(a) b", "(a) b", [3]),
    ],
)
def test_a_bracket_without_a_partner_is_text(text: str, read: str, unmatched: list[int]) -> None:
    assert texts(text) == [read] * STEPS
    assert parse(text).unmatched == unmatched


@pytest.mark.parametrize("weight", ["1e9", "nan", "inf", "-Infinity", "10.01", "-11", "9" * 400])
def test_a_weight_out_of_range_is_refused(weight: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"^the weight '.+' in the prompt must be a number from -10 to 10; "):
        parse(f"a (b:{weight})")


@pytest.mark.parametrize("weight", ["10", "-10", "0", "1e1"])
def test_a_weight_at_the_end_of_the_range_is_taken(weight: str) -> None:
    assert parts(f"(a:{weight})") == [("a", float(weight))]


def test_nested_weights_are_refused_where_they_multiply_beyond_float32() -> None:
    assert parts("(((a:10):-10):10)") == [("a", -1000)]
    with pytest.raises(InvalidRequestError, match=r"^nested weights in the prompt multiply to 1e[+]04; at most"):
        parse("((([(a:-10)|b]:10):10):10)")


@pytest.mark.parametrize(("opening", "closing"), [("(", ")"), ("[", "]"), ("[a:", ":3]"), ("[a|", "]"), ("([", "])")])
def test_brackets_nest_so_deep_and_no_deeper(opening: str, closing: str) -> None:
    levels = MAX_DEPTH // len(re.findall(r"[(\[]", opening))
    parse(opening * levels + "a" + closing * levels)
    with pytest.raises(InvalidRequestError, match=f"^the negative prompt nests brackets deeper than {MAX_DEPTH}; take"):
        parse(opening * (levels + 1) + "a" + closing * (levels + 1), "negative prompt")


def test_depth_is_counted_through_brackets_without_a_partner() -> None:
    with pytest.raises(InvalidRequestError, match="deeper"):
        parse("(" * (MAX_DEPTH + 1) + "[[" + ")" * (MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "text",
    [
        *("(" * 10_000, "[" * 10_000, ")" * 10_000, "]" * 10_000, "()" * 5000, "(]" * 5000, "([)]" * 2500),
        *("[a:" * 3000, "[a|" * 3000, "[a|b]" * 4000, "[a:b:3]" * 2800, ":" * 20_000, "BREAK " * 3300),
        "(a:" + "1" * 19_990 + "x)",
    ],
    ids=lambda text: text[:8],
)
def test_ten_thousand_brackets_are_read(text: str) -> None:
    assert len(texts(text)) == STEPS


@pytest.mark.parametrize("text", ["(" * 5000 + ")" * 5000, "[a|" * 3000 + "]" * 3000], ids=lambda text: text[:8])
def test_ten_thousand_nested_brackets_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="deeper"):
        parse(text)


@given(st.text(alphabet=st.characters(exclude_characters=SPECIAL)).filter(lambda text: "BREAK" not in text))
def test_text_without_special_characters_is_read_as_it_is(text: str) -> None:
    assert sections(text) == ((Part(text, 1),) if text else (),)


@given(st.text(alphabet="ab 1.,:|()[]\\") | st.text())
def test_escaped_text_is_read_as_it_was(text: str) -> None:
    escaped = re.sub(r"[\\()\[\]:|]", r"\\\g<0>", text.replace("BREAK", ""))
    assert texts(escaped) == [text.replace("BREAK", "")] * STEPS


@given(st.text(alphabet="abc ()[]\\"))
def test_attention_loses_nothing_but_syntax(text: str) -> None:
    (read, *_) = texts(text)
    assert re.sub(r"[\\()\[\]]", "", read) == re.sub(r"[\\()\[\]]", "", text)


@given(st.text() | st.text(alphabet="ab (([[))]]::||0123456789.-\\BREAK ", max_size=300))
def test_any_text_is_read_or_refused_as_a_request(text: str) -> None:
    try:
        syntax = parse(text)
    except InvalidRequestError:
        return
    for step in range(3):
        for section in render(syntax.nodes, step, 3):
            assert all(part.text and abs(part.weight) <= 1000 for part in section)
