"""The base of all structs that are read from a bundle's files."""

import msgspec


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, and refuses fields it does not know. Type checkers want `frozen=True` repeated below it."""
