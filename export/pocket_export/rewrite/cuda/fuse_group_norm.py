"""Group normalisation as one operator, with the SiLU behind it and the sum before it.

ONNX Runtime's kernels (com.microsoft's GroupNorm and SkipGroupNorm, docs/ContribOperators.md) want channels last, which
is `nhwc`'s doing; gamma and beta are float32 whatever the rest is.
"""

import onnx_ir as ir

from pocket_diffusion.layers import Reshape
from pocket_export.rewrite.cuda.kernels import DOMAIN, normalises_groups
from pocket_export.rewrite.initializers import derive, drop_unused, layout_of
from pocket_export.rewrite.nodes import Nodes, only_user
from pocket_export.rewrite.sizes import fixed_shape


def fuse_group_norm(model: ir.Model) -> ir.Model:
    """Replace the tracer's group norms by GroupNorm, and by SkipGroupNorm where a sum of feature maps is normalised.

    Norms that the kernels do not take stay as they are. SiLU must be a QuickGelu: see `fuse_silu`.
    """
    for node in [node for node in model.graph if node.op_type == "InstanceNormalization"]:
        _fuse_norm(model, node)
    for node in [node for node in model.graph if node.op_type == "GroupNorm"]:
        _fuse_sum(model, node)
    return model


def _fuse_norm(model: ir.Model, node: ir.Node) -> None:
    """Fuse InstanceNormalization of groups, Mul and Add of channels, and SiLU."""
    grouped = node.inputs[0].producer() if node.inputs[0] is not None else None
    restored = only_user(node)
    scaled = only_user(restored)
    shifted = only_user(scaled)
    chain = [part.op_type if part else "" for part in (grouped, restored, scaled, shifted)]
    if chain != ["Reshape", "Reshape", "Mul", "Add"] or only_user(grouped) is not node:
        return
    assert grouped is not None and restored is not None and scaled is not None and shifted is not None  # noqa: S101 - just looked
    scale, weight, bias = node.inputs[1], scaled.inputs[1], shifted.inputs[1]
    if scale is None or not scale.is_initializer() or weight is None or bias is None:
        return
    groups, channels = fixed_shape(scale)[0], _channels(grouped.inputs[0])
    if layout_of(weight) is None or layout_of(bias) is None or not normalises_groups(channels, groups):
        return
    parts = [shifted, scaled, restored, node, grouped]
    silu = only_user(shifted)
    activated = silu is not None and silu.op_type == "QuickGelu" and silu.attributes.get_float("alpha", 1.702) == 1
    if silu is not None and activated:
        parts.insert(0, silu)
    gamma, beta = (derive(model, value, Reshape(shape=(channels,))) for value in (weight, bias))  # were `[C, 1, 1]`
    nodes = Nodes(model)
    out = nodes.add(
        *("GroupNorm", grouped.inputs[0], gamma, beta),
        domain=DOMAIN,
        epsilon=node.attributes.get_float("epsilon", 1e-5),
        groups=groups,
        activation=int(activated),
        channels_last=0,
    )
    nodes.insert_before(parts[0])
    ir.convenience.replace_nodes_and_values(model.graph, parts[0], parts, [], list(parts[0].outputs), [out])
    for value in (weight, bias):
        drop_unused(model, value)


def _fuse_sum(model: ir.Model, norm: ir.Node) -> None:
    """Fuse a GroupNorm with the sum that it normalises: of two feature maps, or of one and a number a channel."""
    total = norm.inputs[0]
    add = total.producer() if total is not None else None
    if total is None or add is None or add.op_type != "Add":
        return
    x, skip = add.inputs
    if x is not None and not _is_like(x, total):
        x, skip = skip, x
    if not (_is_like(x, total) and (_is_like(skip, total) or _is_by_channel(skip, total))):
        return
    is_taken = len(total.uses()) > 1 or total in model.graph.outputs
    nodes = Nodes(model)
    outputs = nodes.add_many(
        "SkipGroupNorm",
        x,
        *norm.inputs[1:],
        skip,
        outputs=2 if is_taken else 1,
        domain=DOMAIN,
        **{name: attribute.value for name, attribute in norm.attributes.items()},
    )
    nodes.insert_before(add)
    replaced = [norm.outputs[0], total][: len(outputs)]
    ir.convenience.replace_nodes_and_values(model.graph, norm, [norm, add], [], replaced, outputs)


def _is_like(value: ir.Value | None, total: ir.Value) -> bool:
    return value is not None and value.shape is not None and value.shape == total.shape


def _is_by_channel(value: ir.Value | None, total: ir.Value) -> bool:
    """Tell whether a value is `[N, C, 1, 1]` where the total is `[N, C, H, W]`."""
    if value is None or value.shape is None or total.shape is None:
        return False
    return list(value.shape) == [*list(total.shape)[:2], 1, 1]


def _channels(value: ir.Value | None) -> int:
    assert value is not None and value.shape is not None  # noqa: S101 - the tracer gives every feature map a shape
    return int(value.shape[1])  # type: ignore[arg-type] # channels are fixed
