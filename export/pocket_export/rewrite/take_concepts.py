"""The text encoder may be given the vectors of words that are not in its vocabulary.

Textual inversion (Gal et al. 2022, section 4) learns such vectors for a new word; all else stays as it is.
"""

import numpy as np
import onnx_ir as ir

from pocket_diffusion.bundle import CONCEPTS
from pocket_export.rewrite.initializers import add_initializer
from pocket_export.rewrite.nodes import Nodes


def take_concepts(model: ir.Model) -> ir.Model:
    """Give a text encoder an optional input `[concepts, width]`: the vectors of the ids behind its vocabulary.

    The first of them has the id that is the vocabulary's size. Without the input there is one vector of zeros.
    """
    ids = next((value for value in model.graph.inputs if value.name == "ids"), None)
    lookup = None if ids is None else next((node for node in ids.consumers() if node.op_type == "Gather"), None)
    if ids is None or lookup is None:
        return model
    words = lookup.inputs[0]
    if words is None or words.const_value is None:
        raise AssertionError(f"{lookup.name}: the vocabulary's vectors are no initializer")
    size, width = words.const_value.shape.numpy()
    default = ir.tensor(np.zeros((1, width), words.const_value.dtype.numpy()), name=CONCEPTS)
    concepts = add_initializer(model, default)
    concepts.shape = ir.Shape([CONCEPTS, width])
    model.graph.inputs.append(concepts)

    nodes = Nodes(model)
    limit, first = nodes.int64(size), nodes.int64(0)
    is_concept = nodes.add("GreaterOrEqual", ids, limit)
    known = nodes.add("Gather", words, nodes.add("Where", is_concept, first, ids))
    given = nodes.add("Gather", concepts, nodes.add("Where", is_concept, nodes.add("Sub", ids, limit), first))
    vectors = nodes.add("Where", nodes.add("Unsqueeze", is_concept, -1), given, known)
    nodes.insert_before(lookup)
    out = lookup.outputs[0]
    for value in (known, given, vectors):
        value.shape, value.dtype = out.shape, words.const_value.dtype
    ir.convenience.replace_all_uses_with(out, vectors)
    model.graph.remove(lookup, safe=True)
    return model
