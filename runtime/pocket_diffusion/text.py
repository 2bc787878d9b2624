"""Texts that strangers' files and requests have put something into, made fit to be shown."""


def one_line(text: str, most: int | None = None) -> str:
    """Return a text as one line without control characters, which could steer a terminal; `most` is as below."""
    line = " ".join(text.split())
    if most is not None:
        line = shortened(line, most)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def shortened(text: str, most: int) -> str:
    """Return a text without its middle if it has more than so many characters: what to do next stands at the end."""
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
