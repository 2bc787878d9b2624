"""Prompts: text of a sane length, and what should be said of one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocket_diffusion.drawing.prompt import MAX_CHARACTERS, MAX_WARNINGS, check_prompt, loras_in, read_prompt
from pocket_diffusion.drawing.prompt_grammar import Part
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.order import LoraUse


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x" * 2**20, r"has 1,048,576 characters; at most 20,000 are read; shorten it"),
        ("\0" * 100, "contains a NUL character, which is not text; remove it"),
        ("a \udce9 lake", "contains half a surrogate pair, which is not text; remove it"),
        (None, "must be text, not NoneType"),
        (b"a lake", "must be text, not bytes"),
    ],
)
@pytest.mark.parametrize("name", ["prompt", "negative prompt"])
def test_what_is_no_prompt_is_refused(text: str, why: str, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^the {name} {why}$"):
        check_prompt(text, name)
    with pytest.raises(InvalidRequestError, match=f"^the {name} {why}$"):
        read_prompt(text, 20, name)


@pytest.mark.parametrize("text", ["(a:11)", "((((a:9):9):9):9)", "(" * 51 + ")" * 51])
def test_a_refusal_names_the_prompt(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="the negative prompt"):
        read_prompt(text, 20, "negative prompt")


@pytest.mark.parametrize("text", ["", "🏔️🌅 👩‍👩‍👧‍👦", "x" * MAX_CHARACTERS, "\n\t"])
def test_what_is_text_is_let_through(text: str) -> None:
    check_prompt(text)
    assert read_prompt(text, 20).warnings == []


def test_each_step_is_read_at_its_turn() -> None:
    prompt = read_prompt("[a:b:0.5] [c|d|e] [f::4]", 6)
    read = [prompt.at(step)[0][0].text for step in range(6)]
    assert read == ["a c f", "a d f", "a e f", "b c f", "b d ", "b e "]


def test_steps_that_read_the_same_are_read_once() -> None:
    prompt = read_prompt("[a:b:0.5] [c|d]", 20)
    assert prompt.at(0) is prompt.at(8)
    assert prompt.at(0) is not prompt.at(10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a (lake",
            "a bracket of the prompt has no partner and is taken as text: '(lake'; "
            "add the partner, or write a backslash before a bracket that is text",
        ),
        (
            "a [lake:hill:0.5, (sky",
            "2 brackets of the prompt have no partner and are taken as text, first: '[lake:hill:0.5, (sky'; "
            "add the partner, or write a backslash before a bracket that is text",
        ),
        (
            "[a:b:99]",
            "the schedule '[a:b:99]' in the prompt never takes effect in 20 steps; "
            "name an earlier step or a smaller fraction",
        ),
        (
            "[a:b:1.0]",
            "the schedule '[a:b:1.0]' in the prompt never takes effect in 20 steps; "
            "name an earlier step or a smaller fraction",
        ),
        (
            "[(a:2):b:0.01]",
            "the schedule '[(a:2):b:0.01]' in the prompt takes effect before the first of 20 steps; "
            "name a later step or a larger fraction",
        ),
        (
            "a lake <lora:old film:0.8>",
            "LoRA 'old film' is not loaded: no folder of LoRAs was given; the prompt is drawn without it; "
            "give --lora-folder",
        ),
        (
            "<lyco:x>",
            "LoRA 'x' is not loaded: no folder of LoRAs was given; the prompt is drawn without it; give --lora-folder",
        ),
        (
            "<Hypernet:y:1>",
            "hypernetwork 'y' is not loaded: hypernetworks are not supported; the prompt is drawn without it",
        ),
    ],
)
def test_what_a_prompt_asks_for_in_vain_is_said(text: str, message: str) -> None:
    assert read_prompt(text, 20).warnings == [message]


@pytest.mark.parametrize("text", ["[a:b:19]", "[a:b:1]", "[a:0]", "[a:b:0.95]", "(a) [b] [c|d] \\(", "<b:1> < lora:x>"])
def test_what_takes_effect_is_not_warned_about(text: str) -> None:
    assert read_prompt(text, 20).warnings == []


def test_networks_are_taken_out_of_the_text() -> None:
    prompt = read_prompt("a (lake <lora:x:0.8:0.5>:1.2)<lora:x:1>, <lyco:(>", 20)
    assert prompt.at(0) == ((Part("a ", 1), Part("lake ", 1.2), Part(", ", 1)),)
    assert len(prompt.warnings) == 2  # x once, and the LyCORIS network; the bracket in its name is none


def test_loras_in_the_prompt_are_not_warned_of_where_there_is_a_folder() -> None:
    assert read_prompt("a <lora:x:0.8>", 20, takes_loras=True).warnings == []
    (warning,) = read_prompt("a <lora:x:0.8>", 20, "negative prompt", takes_loras=True).warnings
    assert warning == "LoRA 'x' is not loaded: name it in the prompt, not in the negative prompt"


@pytest.mark.parametrize(
    ("text", "scale", "text_encoder_scale"),
    [  # modules of A1111: extra_networks_lora.py reads the text encoder's first
        ("<lora:old film>", 1, 1),
        ("a <lora:old film:0.8>, b", 0.8, 0.8),
        ("<lora:old film:0.8:0.5>", 0.5, 0.8),
        ("<LyCO: old film :-1.5e0>", -1.5, -1.5),
        ("<lora:old film:unet=0.5>", 0.5, 1),
        ("<lora:old film:te=0.25:unet=0.5>", 0.5, 0.25),
    ],
)
def test_a_prompt_names_loras_as_a1111_reads_them(text: str, scale: float, text_encoder_scale: float) -> None:
    assert loras_in(text) == (LoraUse(name="old film", scale=scale, text_encoder_scale=text_encoder_scale),)


@pytest.mark.parametrize("text", ["<lora:>", "<lora:a:>", "<lora:a:b>", "<lora:a:1:1:1>", "<lora:a:dyn=4>"])
def test_refuses_a_lora_that_is_not_understood(text: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"is not understood; write <lora:name:0\.8>") as refused:
        loras_in(f"a lake {text}")
    assert text in str(refused.value)


def test_warnings_are_a_line_each_and_not_too_many_or_long() -> None:
    name = "x\n" * 500
    text = f"<lora:{name}:1>" + "".join(f"<lora:{i}:1>" for i in range(100)) + "[" * 1000 + "[a\n:b:99]" * 100
    warnings = read_prompt(text, 20, "negative prompt").warnings
    assert len(warnings) == MAX_WARNINGS + 1
    assert warnings[-1] == "there are 192 more warnings about the negative prompt"
    assert not any("\n" in warning or len(warning) > 400 for warning in warnings)


@given(st.text() | st.text(alphabet="ab ([)]:|0123456789.\\<lora:>", max_size=200), st.integers(1, 30))
def test_any_text_is_read_or_refused_as_a_request(text: str, steps: int) -> None:
    try:
        prompt = read_prompt(text, steps)
    except InvalidRequestError:
        return
    assert all(prompt.at(step) for step in range(steps))
