r"""A1111's prompt syntax as a tree, built in one pass.

    (text)  (text:1.3)                        attention: times 1.1, times 1.3
    [text]                                    attention: divided by 1.1
    [from:to:when]  [to:when]  [from::when]   a schedule: `to` follows `from` at a step or a fraction of all steps
    [a|b|c]                                   an alternation: the next option at each step
    BREAK                                     the rest begins a new chunk
    \( \) \[ \] \: \| \\                      the character itself

The syntax is documented in AUTOMATIC1111's wiki, page Features. Where the wiki is silent, we follow the examples in
`modules/prompt_parser.py`, with two exceptions: a bracket without a partner is text here, and so is a backslash that
escapes nothing.
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from pocket_diffusion.errors import InvalidRequestError

MAX_DEPTH = 50
MAX_WEIGHT = 10.0
MAX_COMBINED_WEIGHT = 1000.0
"""What nested weights may multiply to. 50 plain brackets make 117."""
_ATTENTION = 1.1
_SHOWN = 60

_TOKEN = re.compile(r"\\[\\()\[\]:|]|[()\[\]:|]|[^\\()\[\]:|]+|\\")
_BREAK = re.compile(r"\bBREAK\b")
# None of these can match one character in two ways, so none takes quadratic time.
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"[1-5][0-9]", re.ASCII)
"""Minutes: `(at 12:30)` is text, not a weight of 30."""
_NO_NUMBER = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE)
_PARTNERS = {")": "(", "]": "["}


class Break:
    """Where a chunk ends early."""


class _Mark(str):
    """A bracket, colon or bar that was not escaped: syntax where it has a meaning, text elsewhere."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Weighted:
    """Content with more or less attention."""

    content: "Nodes"
    factor: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """Content that gives way to other content."""

    before: "Nodes"
    after: "Nodes"
    when: str
    """A number: a fraction of the steps if it has a decimal point, else a step."""
    source: str
    """The schedule as it was written, shortened."""

    def first_after(self, steps: int) -> int:
        """Return the first step, counted from 0, with the new content; `steps` if there is none."""
        when = float(self.when) * (steps if "." in self.when else 1)
        return int(min(max(when, 0), steps))


@dataclass(frozen=True, slots=True)
class Alternation:
    """Options that take turns, one a step."""

    options: "tuple[Nodes, ...]"


Node: TypeAlias = str | Break | Weighted | Schedule | Alternation
Nodes: TypeAlias = tuple[Node, ...]


class Part(NamedTuple):
    """A piece of text with one weight."""

    text: str
    weight: float


Sections: TypeAlias = tuple[tuple[Part, ...], ...]
"""A prompt as one step reads it: weighted text, cut where BREAK stood; neighbours of equal weight are one part."""


@dataclass
class Syntax:
    """A parsed prompt, of any number of steps."""

    nodes: Nodes
    schedules: list[Schedule]
    alternations: list[Alternation]
    unmatched: list[int]
    """Positions of the brackets without a partner."""


def parse(text: str, name: str = "prompt") -> Syntax:
    """Return the tree of a prompt, in time linear in its length; no text is a syntax error.

    Raises:
        InvalidRequestError: a weight is out of range, or brackets nest deeper than `MAX_DEPTH`.

    """
    return _Parser(text, name).parse()


def render(nodes: Nodes, step: int, steps: int) -> Sections:
    """Return what is read at a step, counted from 0."""
    sections: list[list[tuple[list[str], float]]] = [[]]

    def add(nodes: Nodes, weight: float) -> None:
        for node in nodes:
            match node:
                case Break():
                    sections.append([])
                case Weighted():
                    add(node.content, weight * node.factor)
                case Schedule():
                    add(node.before if step < node.first_after(steps) else node.after, weight)
                case Alternation():
                    add(node.options[step % len(node.options)], weight)
                case _:
                    if not sections[-1] or sections[-1][-1][1] != weight:
                        sections[-1].append(([], weight))
                    sections[-1][-1][0].append(node)

    add(nodes, 1.0)
    return tuple(tuple(Part("".join(texts), weight) for texts, weight in section) for section in sections)


@dataclass
class _Open:
    """A bracket that waits for its partner."""

    bracket: str
    index: int
    """Of the bracket among the nodes."""
    position: int
    """Of the bracket in the text."""
    depth: int = 0
    """How deep the brackets nest that were closed inside this one."""
    weight: float = 1.0
    """The largest product of their weights."""

    def hold(self, depth: int, weight: float) -> None:
        """Take note of closed brackets inside."""
        self.depth = max(self.depth, depth)
        self.weight = max(self.weight, weight)


@dataclass
class _Parser:
    """Keeps all nodes in one list; a closing bracket folds those since its partner into one.

    A bracket that finds no partner needs no undoing: its mark stays in the list, as text.
    """

    text: str
    name: str
    nodes: list[Node] = field(default_factory=list)
    open: list[_Open] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"(": 0, "[": 0})
    """How many of each are open."""
    schedules: list[Schedule] = field(default_factory=list)
    alternations: list[Alternation] = field(default_factory=list)
    unmatched: list[int] = field(default_factory=list)

    def parse(self) -> Syntax:
        for match in _TOKEN.finditer(self.text):
            token = match[0]
            if token in self.counts:
                self.open.append(_Open(token, len(self.nodes), match.start()))
                self.counts[token] += 1
                self.nodes.append(_Mark(token))
            elif token in _PARTNERS:
                self._close(token, match.start())
            elif token in {":", "|"}:
                self.nodes.append(_Mark(token))
            elif token[0] == "\\":
                self.nodes.append(token[1:] or token)
            else:
                self._add_text(token)
        self.unmatched += [bracket.position for bracket in self.open]
        return Syntax(tuple(self.nodes), self.schedules, self.alternations, sorted(self.unmatched))

    def _add_text(self, text: str) -> None:
        first, *others = _BREAK.split(text)
        if not others:
            self.nodes.append(text)
            return
        self._add_unless_empty(first.rstrip())
        for other in others[:-1]:
            self.nodes.append(Break())
            self._add_unless_empty(other.strip())
        self.nodes.append(Break())
        self._add_unless_empty(others[-1].lstrip())

    def _add_unless_empty(self, text: str) -> None:
        if text:
            self.nodes.append(text)

    def _close(self, token: str, position: int) -> None:
        partner = _PARTNERS[token]
        if not self.counts[partner]:
            self.unmatched.append(position)
            self.nodes.append(_Mark(token))
            return
        while self.open[-1].bracket != partner:
            self.unmatched.append(self._pop().position)
        opening = self.open[-1]
        content = self.nodes[opening.index + 1 :]
        node = self._round(content) if partner == "(" else self._square(content, opening.position, position)
        self.nodes[opening.index :] = [node]
        opening.depth += 1
        if isinstance(node, Weighted):
            opening.weight *= abs(node.factor)
        self._check(opening)
        self._pop()

    def _pop(self) -> _Open:
        """Take the last open bracket away; the one around it holds what it held."""
        bracket = self.open.pop()
        self.counts[bracket.bracket] -= 1
        if self.open:
            self.open[-1].hold(bracket.depth, bracket.weight)
        return bracket

    def _check(self, bracket: _Open) -> None:
        if bracket.depth > MAX_DEPTH:
            raise InvalidRequestError(f"the {self.name} nests brackets deeper than {MAX_DEPTH}; take some out")
        if bracket.weight > MAX_COMBINED_WEIGHT:
            raise InvalidRequestError(
                f"nested weights in the {self.name} multiply to {bracket.weight:.3g}; "
                f"at most {MAX_COMBINED_WEIGHT:g} is drawn with; lower them"
            )

    def _round(self, content: list[Node]) -> Weighted:
        head, last = _split_last(content)
        if _TIME.fullmatch(last) and head and isinstance(head[-1], str) and head[-1][-1:].isdigit():
            return Weighted(tuple(content), _ATTENTION)
        if _NUMBER.fullmatch(last) or _NO_NUMBER.fullmatch(last):
            weight = float(last)
            if not abs(weight) <= MAX_WEIGHT:  # written so that nan is refused
                raise InvalidRequestError(
                    f"the weight {_shorten(last)!r} in the {self.name} must be a number from {-MAX_WEIGHT:g} to "
                    f"{MAX_WEIGHT:g}; write \\( and \\) for brackets that are text"
                )
            return Weighted(tuple(head), weight)
        return Weighted(tuple(content), _ATTENTION)

    def _square(self, content: list[Node], start: int, end: int) -> Node:
        head, last = _split_last(content)
        if _NUMBER.fullmatch(last):
            contents = _split(head, ":")
            if len(contents) <= 2:
                before = contents[0] if len(contents) == 2 else ()
                schedule = Schedule(before, contents[-1], last, _shorten(self.text[start : end + 1]))
                self.schedules.append(schedule)
                return schedule
        options = _split(content, "|")
        if len(options) > 1:
            alternation = Alternation(tuple(options))
            self.alternations.append(alternation)
            return alternation
        return Weighted(tuple(content), 1 / _ATTENTION)


def _split_last(content: list[Node]) -> tuple[list[Node], str]:
    """Return what precedes the last colon, and the text behind it if there is nothing but one piece of text."""
    if len(content) < 2 or not _is_mark(content[-2], ":") or not isinstance(content[-1], str):
        return content, ""
    return content[:-2], content[-1].strip()


def _split(content: list[Node], mark: str) -> list[Nodes]:
    pieces: list[list[Node]] = [[]]
    for node in content:
        if _is_mark(node, mark):
            pieces.append([])
        else:
            pieces[-1].append(node)
    return [tuple(piece) for piece in pieces]


def _is_mark(node: Node, mark: str) -> bool:
    return isinstance(node, _Mark) and node == mark


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
