"""What all errors have in common."""

import pytest

from pocket_diffusion.errors import BundleFormatError, CheckpointNotFoundError, PocketDiffusionError


@pytest.mark.parametrize("kind", [PocketDiffusionError, BundleFormatError, CheckpointNotFoundError])
def test_a_message_is_one_printable_line_whatever_is_in_it(kind: type[PocketDiffusionError]) -> None:
    assert str(kind("no 'a\nb\x1b[2J\ud800'; fetch\tit again")) == "no 'a b�[2J�'; fetch it again"


def test_a_long_message_keeps_its_beginning_and_its_end() -> None:
    message = str(PocketDiffusionError(f"a lake {'x' * 10**6} is not known; draw another"))
    assert len(message) < 1100
    assert message.startswith("a lake xxx")
    assert message.endswith("x is not known; draw another")
