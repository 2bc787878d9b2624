"""Graph rewrites: each a function from a model to a model that computes the same, in one file of its own."""

from pocket_export.rewrite.fold_transposes import fold_transposes
from pocket_export.rewrite.store_float16 import store_float16
from pocket_export.rewrite.store_int8 import store_int8

__all__ = ["fold_transposes", "store_float16", "store_int8"]
