"""Exports for tests that do not look at memory."""

import pytest

from pocket_diffusion.bundle import Bundle
from pocket_export.export import export


def export_unmeasured(*arguments: object, **options: object) -> Bundle:
    """Export as where a process cannot tell its memory: for small models, to measure that takes the most time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pocket_export.memory.own_anonymous_memory", lambda: 0)
        return export(*arguments, **options)
