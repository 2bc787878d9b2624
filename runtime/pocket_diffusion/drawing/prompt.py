"""From a prompt as it was typed to the weighted text of each step."""

import re
from bisect import bisect_right

from pocket_diffusion.drawing.prompt_grammar import Sections, Syntax, parse, render
from pocket_diffusion.errors import InvalidRequestError
from pocket_diffusion.order import LoraUse

MAX_CHARACTERS = 20_000
MAX_WARNINGS = 10
_SHOWN = 80

_NETWORK = re.compile(r"<(lora|lyco|hypernet):([^<>]*)>", re.IGNORECASE)
_LORA_KINDS = ("lora", "lyco")


class PromptWarning(UserWarning):
    """A part of a prompt does not do what it seems to ask for."""


class PromptTruncatedWarning(PromptWarning):
    """A prompt was longer than the text encoder reads; the rest was dropped."""


class Prompt:
    """A prompt for a number of steps."""

    def __init__(self, syntax: Syntax, steps: int, warnings: list[str]) -> None:
        """Bind a parsed prompt to `steps`; `read_prompt` finds its warnings."""
        self.steps = steps
        self.warnings = warnings
        """What should be said of it, a line each; at most `MAX_WARNINGS` and one that counts the others."""
        self._nodes = syntax.nodes
        # A step's text depends only on how many schedules have switched and on each alternation's turn.
        self._switches = sorted({schedule.first_after(steps) for schedule in syntax.schedules})
        self._cycles = sorted({len(alternation.options) for alternation in syntax.alternations})
        self._rendered: dict[tuple[int, ...], Sections] = {}

    def at(self, step: int) -> Sections:
        """Return the weighted text of a step, counted from 0, in the sections that BREAK makes."""
        state = (bisect_right(self._switches, step), *(step % cycle for cycle in self._cycles))
        if state not in self._rendered:
            self._rendered[state] = render(self._nodes, step, self.steps)
        return self._rendered[state]


def check_described(prompt: str) -> None:
    """Refuse an empty prompt, which models can draw and which is hardly meant where a person asks.

    Raises:
        InvalidRequestError: it is empty.

    """
    if not prompt.strip():
        raise InvalidRequestError('the prompt is empty; say what to draw, for example "a lake at sunset"')


def check_prompt(text: object, name: str = "prompt") -> None:
    """Refuse what cannot be a prompt; an empty one is for the caller to judge.

    Raises:
        InvalidRequestError: not text, or too long.

    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"the {name} must be text, not {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise InvalidRequestError(
            f"the {name} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read; shorten it"
        )
    for what, found in (("a NUL character", "\0" in text), ("half a surrogate pair", not _encodable(text))):
        if found:
            raise InvalidRequestError(f"the {name} contains {what}, which is not text; remove it")


def loras_in(text: str) -> tuple[LoraUse, ...]:
    """Return the LoRAs that a prompt names, as A1111 reads them.

    That is `<lora:name>`, `<lora:name:scale>` or `<lora:name:text encoder's scale:U-Net's scale>`; the scales may also
    be given as `te=` and `unet=`.

    Raises:
        InvalidRequestError: a scale is no number.

    """
    return tuple(_lora(match[2], match[0]) for match in _NETWORK.finditer(text) if match[1].lower() in _LORA_KINDS)


def read_prompt(text: str, steps: int, name: str = "prompt", *, takes_loras: bool = False) -> Prompt:
    """Parse a prompt in A1111's syntax; `prompt_grammar` describes it.

    With `takes_loras`, nothing is said of those that it names: `loras_in` finds them.

    Raises:
        InvalidRequestError: see `check_prompt` and `prompt_grammar.parse`.

    """
    check_prompt(text, name)
    plain = _NETWORK.sub("", text)
    syntax = parse(plain, name)
    warnings = [
        *_network_warnings(text, name, takes_loras=takes_loras),
        *_bracket_warnings(plain, syntax.unmatched, name),
        *_schedule_warnings(syntax, steps, name),
    ]
    if len(warnings) > MAX_WARNINGS:
        warnings[MAX_WARNINGS:] = [f"there are {len(warnings) - MAX_WARNINGS} more warnings about the {name}"]
    return Prompt(syntax, steps, warnings)


def shorten(text: str) -> str:
    """Return as much of a text as a message shows."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _lora(body: str, source: str) -> LoraUse:
    name, *given = (part.strip() for part in body.split(":"))
    scales: dict[str, float] = {}
    for place, value in zip(("te", "unet"), given, strict=False):
        place, value = value.lower().split("=", 1) if "=" in value else (place, value)
        try:
            scales[place.strip()] = float(value)
        except ValueError:
            scales[""] = 0.0
    if not name or len(given) > 2 or not scales.keys() <= {"te", "unet"}:
        raise InvalidRequestError(
            f"{shorten(source)!r} in the prompt is not understood; write <lora:name:0.8>, or "
            "<lora:name:0.8:0.5> with a scale for the text encoder and one for the U-Net"
        )
    text_encoder = scales.get("te", 1.0)
    return LoraUse(name=name, scale=scales.get("unet", text_encoder), text_encoder_scale=text_encoder)


def _network_warnings(text: str, name: str, *, takes_loras: bool) -> list[str]:
    networks = {(match[1].lower(), match[2].split(":")[0].strip()): None for match in _NETWORK.finditer(text)}
    found = []
    for kind, network in networks:
        if kind not in _LORA_KINDS:
            found.append(
                f"hypernetwork {shorten(network)!r} is not loaded: hypernetworks are not supported; "
                f"the {name} is drawn without it"
            )
        elif name != "prompt":
            found.append(f"LoRA {shorten(network)!r} is not loaded: name it in the prompt, not in the {name}")
        elif not takes_loras:
            found.append(
                f"LoRA {shorten(network)!r} is not loaded: no folder of LoRAs was given; "
                "the prompt is drawn without it; give --lora-folder"
            )
    return found


def _bracket_warnings(text: str, unmatched: list[int], name: str) -> list[str]:
    if not unmatched:
        return []
    shown = shorten(text[unmatched[0] :])
    found = f"a bracket of the {name} has no partner and is taken as text: {shown!r}"
    if len(unmatched) > 1:
        found = f"{len(unmatched):,} brackets of the {name} have no partner and are taken as text, first: {shown!r}"
    return [f"{found}; add the partner, or write a backslash before a bracket that is text"]


def _schedule_warnings(syntax: Syntax, steps: int, name: str) -> list[str]:
    all_steps = "1 step" if steps == 1 else f"{steps} steps"
    found = []
    for schedule in syntax.schedules:
        switch = schedule.first_after(steps)
        if switch >= steps:
            found.append(
                f"the schedule {schedule.source!r} in the {name} never takes effect in {all_steps}; "
                "name an earlier step or a smaller fraction"
            )
        elif switch == 0 and schedule.before:
            found.append(
                f"the schedule {schedule.source!r} in the {name} takes effect before the first of {all_steps}; "
                "name a later step or a larger fraction"
            )
    return found


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
