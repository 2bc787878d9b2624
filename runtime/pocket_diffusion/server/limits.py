"""What a server takes on: refused is what asks for more."""

from dataclasses import dataclass

from pocket_diffusion.drawing.resolve import Drawing
from pocket_diffusion.errors import InvalidRequestError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The most of everything."""

    # of a request
    body_bytes: int = 24 * 2**20
    body_seconds: float = 60.0
    """How long a client may take to send a request's body."""
    bodies_bytes: int = 48 * 2**20
    """Of all requests that are being received and checked."""
    answers_bytes: int = 16 * 2**20
    """Of all large answers that clients have not read yet."""
    prompt_characters: int = 4000
    # of a picture that is sent
    reading_seconds: int = 15
    """Of the processor's time."""
    reading_bytes: int = 512 * 2**20
    """Of memory, in a process of its own."""
    readings: int = 2
    """At once, of different clients."""
    inputs_bytes: int = 32 * 2**20
    """Of all pictures that are kept for graphs to come."""
    # of a drawing
    pixels: int = 1024 * 1024
    """Of one picture."""
    steps: int = 150
    """That are taken: a picture to start from leaves out the first of more."""
    count: int = 16
    seconds: float = 3600.0
    """How long one drawing may take."""
    # of the server
    queue: int = 256
    """Drawings that wait."""
    waiting_pixels: int = 16 * 2**20
    """Of the pictures that waiting drawings start from, five bytes each."""
    pictures: int = 256
    """Finished pictures that are kept; the oldest go first."""
    unfollowed_seconds: float = 60.0
    """How long a drawing goes on after the last that followed its events is gone."""

    def check_prompt(self, text: str, name: str) -> None:
        """Refuse a text that is too long.

        Raises:
            InvalidRequestError: that is so.

        """
        if len(text) > self.prompt_characters:
            raise InvalidRequestError(
                f"the {name} has {len(text):,} characters; at most {self.prompt_characters:,} are taken; shorten it"
            )

    def check(self, drawing: Drawing) -> None:
        """Refuse a drawing that is too much.

        Raises:
            InvalidRequestError: names the option and the most that is allowed.

        """
        if drawing.width * drawing.height > self.pixels:
            raise InvalidRequestError(
                f"{drawing.width}x{drawing.height} is too large; at most {self.pixels:,} pixels are drawn here"
            )
        for name, value, most in (("steps", drawing.steps_to_take, self.steps), ("count", drawing.count, self.count)):
            if value > most:
                raise InvalidRequestError(f"{name} must be at most {most} here, not {value}")
