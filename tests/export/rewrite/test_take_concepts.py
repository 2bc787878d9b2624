"""Words that are not in the text encoder's vocabulary, given as vectors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pocket_diffusion.bundle import CONCEPTS, TensorSpec
from pocket_export.parts import Part, PromptEncoder
from pocket_export.rewrite import store_float16, take_concepts
from pocket_export.trace import trace
from pocket_models import TextEncoder, TextEncoderConfig

WORDS, WIDTH, TOKENS = 100, 64, 77
CONFIG = TextEncoderConfig(
    vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2
)
IDS = np.random.default_rng(0).integers(0, WORDS, (3, TOKENS))
VECTORS = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def part() -> Part:
    torch.manual_seed(0)
    context = ("batch", TOKENS, WIDTH)
    return Part(
        "text_encoder",
        PromptEncoder(TextEncoder(CONFIG).eval()),
        (TensorSpec(name="ids", dtype="int64", shape=("batch", TOKENS)),),
        (
            TensorSpec(name="context", dtype="float32", shape=context),
            TensorSpec(name="layers", dtype="float32", shape=(2, *context)),
        ),
        {"batch": 1},
        8,
        id_limit=WORDS,
    )


def run(model: ir.Model, **feeds: NDArray[Any]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return np.asarray(session.run(["context"], feeds)[0])


def test_nothing_changes_unless_concepts_are_given(part: Part) -> None:
    plain = run(trace(part), ids=IDS)
    model = take_concepts(trace(part))
    assert np.array_equal(run(model, ids=IDS), plain)
    assert np.array_equal(run(model, ids=IDS, concepts=VECTORS), plain)


@pytest.mark.parametrize(("rewrite", "tolerance"), [(lambda model: model, 1e-5), (store_float16, 5e-3)])
def test_ids_behind_the_vocabulary_are_the_concepts_vectors(
    part: Part, rewrite: Callable[[ir.Model], ir.Model], tolerance: float
) -> None:
    ids = IDS.copy()
    ids[0, 3:8] = WORDS + np.arange(5)
    ids[2, 70] = WORDS + 4
    larger = TextEncoder(CONFIG).eval()
    larger.load_state_dict(TextEncoder.state_dict(_encoder(part)))
    table = larger.text_model.embeddings.token_embedding
    table.weight = nn.Parameter(torch.cat([table.weight, torch.from_numpy(VECTORS)]))
    with torch.inference_mode():
        wanted = larger(torch.from_numpy(ids)).numpy()
    model = rewrite(take_concepts(trace(part)))
    found = run(model, ids=ids, concepts=VECTORS)
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)  # sums in another order; float16's steps
    assert np.abs(run(model, ids=IDS) - wanted).max() > 0.1


def test_the_option_is_described(part: Part) -> None:
    (option,) = [x for x in take_concepts(trace(part)).graph.inputs if x.name == CONCEPTS]
    assert option.dtype == ir.DataType.FLOAT
    assert option.shape == ir.Shape([CONCEPTS, WIDTH])


def test_a_network_without_ids_is_left_alone() -> None:
    spec = TensorSpec(name="x", dtype="float32", shape=("batch", 4))
    part = Part(
        "unet", nn.Linear(4, 4).eval(), (spec,), (TensorSpec(name="y", dtype="float32", shape=("batch", 4)),), {}, 8
    )
    assert [value.name for value in take_concepts(trace(part)).graph.inputs] == ["x"]


def _encoder(part: Part) -> TextEncoder:
    encoder = TextEncoder(CONFIG)
    assert isinstance(part.module, PromptEncoder)
    encoder.text_model = part.module.text_model
    return encoder
