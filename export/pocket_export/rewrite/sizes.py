"""How large a graph's values are when the model's usual picture is drawn: what rewrites decide by."""

import onnx_ir as ir


def fixed_shape(value: ir.Value) -> list[int]:
    """Return the shape of an initializer."""
    assert value.const_value is not None  # noqa: S101 - that is what makes it one
    return [int(size) for size in value.const_value.shape.numpy()]


def usual_shape(model: ir.Model, picture: ir.Value) -> list[int]:
    """Return the shape `[batch, channels, height, width]` of a feature map at the model's usual sizes."""
    assert picture.shape is not None  # noqa: S101 - the tracer gives every feature map one
    sizes: dict[str, int] = model.meta["usual_sizes"]
    names = ("batch", "", "latent_height", "latent_width")
    return [_evaluate(dim, sizes, name) for dim, name in zip(picture.shape, names, strict=True)]


def _evaluate(dim: int | ir.SymbolicDim, sizes: dict[str, int], unnamed: str) -> int:
    """Return a size; torch.export forgets the name of what an input's size is a multiple of."""
    if isinstance(dim, int):
        return dim
    known = {symbol: sizes[symbol if symbol in sizes else unnamed] for symbol in dim.free_symbols()}
    size = dim.evaluate(known)
    assert isinstance(size, int)  # noqa: S101 - every symbol has a value
    return size
