"""Text for a terminal."""


def one_line(text: str) -> str:
    """Return a text as one line without control characters, which strangers' files could steer a terminal with."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
