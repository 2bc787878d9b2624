"""Valid inputs changed by chance: bytes, JSON, pickles, and the containers around them, which are made whole again.

Most readers check a length, a checksum or the brackets before all else. A change that breaks these tests nothing behind
them, so that formats have mutators of their own, which write them around what was changed.
"""

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from random import Random
from typing import Any

BETWEEN = b"\0\0\0\0"
"""Between the contents of files, where an input is several of them."""
LARGEST = 2**18
"""Bytes of an input: what hurts should be small."""
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**28, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_DIGITS = ("0", "-1", "3", "255", "65536", "4294967296", "9223372036854775808", "1e308", "NaN", "9" * 400)
_DEEP = "\0deep\0"
"""Stands for brackets in brackets, which `json.dumps` would not write."""
_VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 255, 10**7, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e-300, 1e308, float("inf"),
    float("nan"), "", "a", "0", "-1", "../../etc/passwd", "/dev/zero", "a" * 10_000, "\ud800", "\0", "é" * 99, [], {},
    [[]], [None], [0] * 1000, {"": None}, _DEEP,
)  # fmt: skip

Mutator = Callable[[Random], bytes]
"""Makes another input at each call."""


def by_bytes(seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> Mutator:
    """Change bytes without regard to what they mean; `words` are put in where chance has it."""
    return lambda random: change_bytes(random.choice(seeds), random, seeds, words)


def by_json(seeds: Sequence[Any], wrap: Callable[[bytes], bytes] = bytes) -> Mutator:
    """Change values, names and structure of JSON; `wrap` writes what belongs around it."""
    texts = [json.dumps(seed) for seed in seeds]
    return lambda random: wrap(_changed_json(json.loads(random.choice(texts)), random))


def by_pickle(seeds: Sequence[Mapping[str, bytes]], pickle: str, words: Sequence[bytes]) -> Mutator:
    """Change the pickle in a zip file, given as its entries by name, and store it with right checksums."""
    pickles = [seed[pickle] for seed in seeds]

    def mutate(random: Random) -> bytes:
        entries = dict(random.choice(seeds))
        entries[pickle] = change_bytes(entries[pickle], random, pickles, words)
        return zip_of(entries)

    return mutate


def by_png(seeds: Sequence[bytes], words: Sequence[bytes] = ()) -> Mutator:
    """Change the chunks of PNGs: their contents, order and number, with right lengths and checksums."""

    def mutate(random: Random) -> bytes:
        chunks = _png_chunks(random.choice(seeds))
        others = _png_chunks(random.choice(seeds))
        for _ in range(_how_many(random)):
            place = random.randrange(len(chunks))
            kind, content = chunks[place]
            match random.randrange(5):
                case 0:
                    chunks.insert(place, random.choice(others))
                case 1:
                    chunks[place:place] = [chunks[place]] * random.choice((1, 10, 1000))
                case 2 if kind == b"IDAT":
                    plain = _decompressed(content)
                    chunks[place] = kind, zlib.compress(change_bytes(plain, random, [plain], words))
                case 3 if len(chunks) > 1:
                    del chunks[place]
                case _:
                    chunks[place] = kind, change_bytes(content, random, [other for _, other in others], words)
        return png_of(chunks)[:LARGEST]

    return mutate


def any_of(*mutators: Mutator) -> Mutator:
    """Use one of several mutators each time."""
    return lambda random: random.choice(mutators)(random)


def by_files(files: Sequence[bytes], mutators: Sequence[Mutator]) -> Mutator:
    """Change one of several files that are read together, each by its own mutator; see `BETWEEN`."""

    def mutate(random: Random) -> bytes:
        place = random.randrange(len(files))
        return BETWEEN.join([*files[:place], mutators[place](random), *files[place + 1 :]])

    return mutate


def change_bytes(content: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Return content with one or more changes."""
    for _ in range(_how_many(random)):
        content = random.choice(_CHANGES)(content, random, others, words)[:LARGEST]
    return content


def zip_of(entries: Mapping[str, bytes]) -> bytes:
    """Return a zip file, the same each time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def png_of(chunks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a PNG of these chunks (PNG specification, section 5)."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _png_chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], 8
    while place < len(png):
        length = int.from_bytes(png[place : place + 4], "big")
        chunks.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + length]))
        place += length + 12
    return chunks


def _decompressed(content: bytes) -> bytes:
    try:
        return zlib.decompress(content)
    except zlib.error:  # an earlier change left it no stream
        return content


def by_protobuf(seeds: Sequence[bytes], words: Sequence[bytes]) -> Mutator:
    """Change the fields of protobuf messages at any depth, with right lengths around them."""
    messages = [_fields(seed) for seed in seeds]
    assert None not in messages

    def mutate(random: Random) -> bytes:
        fields = list(random.choice(messages) or ())
        for _ in range(_how_many(random)):
            fields = _changed_message(fields, random, words)
        return _message(fields)[: 4 * LARGEST]

    return mutate


Field = tuple[int, int, bytes]
"""A field's number, its wire type, and its content without the length."""


def _changed_message(fields: list[Field], random: Random, words: Sequence[bytes]) -> list[Field]:
    if not fields:
        return fields
    fields = list(fields)
    place = random.randrange(len(fields))
    number, wire, content = fields[place]
    inner = _fields(content) if wire == 2 else None
    if inner and random.random() < 0.8:
        fields[place] = number, wire, _message(_changed_message(inner, random, words))
        return fields
    match random.randrange(5):
        case 0:
            del fields[place]
        case 1:
            fields[place:place] = [fields[place]] * random.choice((1, 2, 100))
        case 2:
            fields[place] = random.randrange(1, 20), wire, content
        case 3:
            fields.insert(place, random.choice(fields))
        case _ if wire == 0:
            fields[place] = number, wire, _varint(random.choice(_NUMBERS))
        case _ if wire == 2:
            fields[place] = number, wire, random.choice([*words, change_bytes(content, random, [content], words)])
        case _:
            fields[place] = number, wire, random.randbytes(len(content))
    return fields


def _fields(content: bytes) -> list[Field] | None:
    """Return what fields content has as a protobuf message, or None where it is none."""
    fields, place = [], 0
    while place < len(content):
        tag, begin = _read_varint(content, place)
        match tag & 7:
            case 0:
                _, end = _read_varint(content, begin)
            case 1:
                end = begin + 8
            case 2:
                length, begin = _read_varint(content, begin)
                end = begin + length
            case 5:
                end = begin + 4
            case _:
                return None
        if tag >> 3 == 0 or end > len(content):
            return None
        fields.append((tag >> 3, tag & 7, content[begin:end]))
        place = end
    return fields


def _message(fields: Sequence[Field]) -> bytes:
    parts = []
    for number, wire, content in fields:
        parts += [_varint(number << 3 | wire), _varint(len(content)) if wire == 2 else b"", content]
    return b"".join(parts)


def _read_varint(content: bytes, place: int) -> tuple[int, int]:
    """Return a number and where it ends: behind the content, where it is cut off."""
    number = shift = 0
    while place < len(content):
        number |= (content[place] & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if content[place - 1] < 0x80:
            return number, place
    return number, len(content) + 1


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _how_many(random: Random) -> int:
    return random.choice((1, 1, 1, 2, 3, 8))


def _flip(content: bytes, random: Random, _: object, __: object) -> bytes:
    if not content:
        return content
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]


def _set_number(content: bytes, random: Random, _: object, __: object) -> bytes:
    """Put in a number at a limit, in any width and order: lengths, counts and sizes are such."""
    width, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
    number = random.choice(_NUMBERS) % 2 ** (8 * width)
    place = random.randrange(len(content) + 1)
    return content[:place] + number.to_bytes(width, order) + content[place + width :]


def _set_digits(content: bytes, random: Random, _: object, __: object) -> bytes:
    found = list(re.finditer(rb"\d+", content[:4096]))
    if not found:
        return content
    digits = random.choice(found)
    return content[: digits.start()] + random.choice(_DIGITS).encode() + content[digits.end() :]


def _cut(content: bytes, random: Random, _: object, __: object) -> bytes:
    begin, end = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return content[:begin] + content[end:]


def _end(content: bytes, random: Random, _: object, __: object) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _repeat(content: bytes, random: Random, _: object, __: object) -> bytes:
    begin, end = sorted(random.randrange(len(content) + 1) for _ in range(2))
    part = content[begin : min(end, begin + 100)]
    return content[:begin] + part * random.choice((2, 30, 2000)) + content[begin:]


def _splice(content: bytes, random: Random, others: Sequence[bytes], _: object) -> bytes:
    other = random.choice(others)
    begin, end = sorted(random.randrange(len(other) + 1) for _ in range(2))
    place = random.randrange(len(content) + 1)
    return content[:place] + other[begin:end] + content[place + random.choice((0, end - begin)) :]


def _put_word(content: bytes, random: Random, others: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    if not words:
        return _splice(content, random, others, words)
    place = random.randrange(len(content) + 1)
    return content[:place] + random.choice(words) * random.choice((1, 1, 1, 2, 50)) + content[place:]


_CHANGES = (_flip, _set_number, _set_digits, _cut, _end, _repeat, _splice, _put_word, _put_word)


def _changed_json(value: Any, random: Random) -> bytes:  # noqa: ANN401 - any JSON
    root = {"": value}
    for _ in range(_how_many(random)):
        _change_one_value(root, random)
    text = json.dumps(root[""])
    return text.replace(json.dumps(_DEEP), "[" * 100_000 + "]" * random.choice((0, 100_000))).encode()


def _change_one_value(root: dict[str, Any], random: Random) -> None:
    places = list(_places(root))
    parent, key = random.choice(places)
    other, other_key = random.choice(places)
    match random.randrange(6):
        case 0 if parent is not root:
            del parent[key]
        case 1 if isinstance(parent, dict) and parent is not root:
            parent[random.choice((f"{key} ", "", "a" * 1000, str(other_key)))] = parent.pop(key)
        case 2 if isinstance(parent[key], list):
            parent[key] = parent[key] * random.choice((2, 100))
        case 3 if isinstance(parent[key], int | float) and not isinstance(parent[key], bool):
            parent[key] = random.choice((-parent[key], parent[key] + 1, parent[key] * 1000, str(parent[key])))
        case 4:
            parent[key] = deepcopy(other[other_key])  # no value may hold itself
        case _:
            parent[key] = deepcopy(random.choice(_VALUES))


def _places(parent: dict[str, Any] | list[Any]) -> list[tuple[Any, Any]]:
    keys = list(parent) if isinstance(parent, dict) else range(len(parent))
    found: list[tuple[Any, Any]] = []
    for key in keys:
        found.append((parent, key))
        if isinstance(parent[key], dict | list):
            found += _places(parent[key])
    return found
