"""LoRAs and embeddings at run time, against diffusers that loads the same files; and what they leave as it was."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pocket_diffusion import InvalidRequestError, LoraUse, Pipeline
from pocket_diffusion.model.memory import MODES

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

Tensors = dict[str, torch.Tensor]

CLOSE = 1e-5
"""‖ours − theirs‖ / ‖theirs‖: float32 graphs that sum in another order."""
PROMPT = "a lake under snowy mountains"
UNET_LAYERS = [
    *(
        f"{block}.attentions.0.transformer_blocks.0.{name}"
        for block in ("down_blocks.0", "mid_block", "up_blocks.1")
        for name in ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_k", "attn2.to_out.0")
    ),
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.2",
]
CONVOLUTIONS = [
    "conv_in", "down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.0.conv2", "down_blocks.0.attentions.0.proj_in",
    "down_blocks.0.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv", "up_blocks.0.resnets.1.conv_shortcut",
]  # fmt: skip
TEXT_LAYERS = [
    f"text_model.encoder.layers.{i}.{name}"
    for i in range(2)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
]
MLP_LAYERS = ["text_model.encoder.layers.1.mlp.fc1", "text_model.encoder.layers.1.mlp.fc2"]


def weights_of(network: torch.nn.Module) -> Tensors:
    """Return a network's weights by published name: transformers 5 leaves a prefix out."""
    return {
        name if not name.startswith(("embeddings.", "encoder.", "final_layer_norm.")) else f"text_model.{name}": tensor
        for name, tensor in network.state_dict().items()
    }


class Factory:
    """Makes random LoRAs for a pipeline's layers."""

    def __init__(self, pipe: "StableDiffusionPipeline", seed: int = 0) -> None:
        self.weights = {"unet": weights_of(pipe.unet), "text_encoder": weights_of(pipe.text_encoder)}
        self._generator = torch.Generator().manual_seed(seed)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self._generator) * 0.2

    def pair(self, component: str, layer: str, rank: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
        """Return down and up."""
        outputs, *inputs = self.weights[component][f"{layer}.weight"].shape
        return self.random(rank, *inputs), self.random(outputs, rank, *([1] * (len(inputs) - 1)))


def kohya(factory: Factory) -> Tensors:
    tensors: Tensors = {}
    for component, prefix, layers in (
        ("unet", "lora_unet_", UNET_LAYERS + CONVOLUTIONS),
        ("text_encoder", "lora_te_", TEXT_LAYERS + MLP_LAYERS),
    ):
        for layer in layers:
            name = prefix + layer.replace(".", "_")
            tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = factory.pair(component, layer)
            tensors[f"{name}.alpha"] = torch.tensor(2.0)
    return tensors


def diffusers_of_old(factory: Factory) -> Tensors:
    tensors: Tensors = {}
    for layer in UNET_LAYERS[:-2]:
        attention, _, name = layer.removesuffix(".0").rpartition(".")
        tensors[f"unet.{attention}.processor.{name}_lora.down.weight"], up = factory.pair("unet", layer)
        tensors[f"unet.{attention}.processor.{name}_lora.up.weight"] = up
    for layer in TEXT_LAYERS:
        attention, _, name = layer.rpartition(".")
        old = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}[name]
        down, up = factory.pair("text_encoder", layer)
        tensors[f"text_encoder.{attention}.{old}_lora.down.weight"] = down
        tensors[f"text_encoder.{attention}.{old}_lora.up.weight"] = up
    return tensors


def diffusers_later(factory: Factory) -> Tensors:
    tensors: Tensors = {}
    for component, layers, kind in (("unet", UNET_LAYERS, "lora"), ("text_encoder", TEXT_LAYERS, "lora_linear_layer")):
        for layer in layers:
            name = f"{component}.{layer}.{kind}"
            tensors[f"{name}.down.weight"], tensors[f"{name}.up.weight"] = factory.pair(component, layer)
    return tensors


def diffusers_today(factory: Factory) -> Tensors:
    tensors: Tensors = {}
    for component, layers in (("unet", UNET_LAYERS + CONVOLUTIONS), ("text_encoder", TEXT_LAYERS + MLP_LAYERS)):
        for layer in layers:
            name = f"{component}.{layer}"
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = factory.pair(component, layer)
    return tensors


STYLES = [kohya, diffusers_of_old, diffusers_later, diffusers_today]


@pytest.fixture
def theirs(tiny_pipeline: "StableDiffusionPipeline") -> "StableDiffusionPipeline":
    """A pipeline of diffusers to be changed."""
    return copy.deepcopy(tiny_pipeline)


@pytest.fixture(scope="module")
def ours(tiny_bundle_fp32: Path) -> Iterator[Pipeline]:
    with Pipeline.load(tiny_bundle_fp32, provider="cpu") as pipeline:
        yield pipeline


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Tensors], Path]:
    def write(tensors: Tensors, name: str = "style", metadata: dict[str, str] | None = None) -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path, metadata)
        return path

    return write


def relative(found: Any, wanted: Any) -> float:  # noqa: ANN401 - arrays of either kind
    found, wanted = (np.asarray(x, np.float64) for x in (found, wanted))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


LATENTS = np.random.default_rng(1).normal(size=(1, 4, 8, 12)).astype(np.float32)


def outputs(ours: Pipeline, prompt: str = PROMPT) -> tuple[np.ndarray, np.ndarray]:
    """Return a context, and the noise that the U-Net predicts under it."""
    context = ours.encode_prompt(prompt)
    return context, ours.predict_noise(LATENTS, 500, context)


def their_outputs(theirs: "StableDiffusionPipeline", prompt: str = PROMPT) -> tuple[np.ndarray, np.ndarray]:
    prompt = theirs.maybe_convert_prompt(prompt, theirs.tokenizer)  # words of several vectors become several words
    ids = theirs.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.inference_mode():
        context = theirs.text_encoder(ids)[0]
        noise = theirs.unet(torch.from_numpy(LATENTS), torch.tensor([500.0]), context).sample
    return context.numpy(), noise.numpy()


def check_alike(ours: Pipeline, theirs: "StableDiffusionPipeline", prompt: str = PROMPT, bound: float = CLOSE) -> None:
    for found, wanted in zip(outputs(ours, prompt), their_outputs(theirs, prompt), strict=True):
        assert relative(found, wanted) < bound


@pytest.mark.parametrize("style", STYLES)
def test_a_lora_is_what_diffusers_makes_of_it(
    ours: Pipeline, theirs: "StableDiffusionPipeline", write: Callable[..., Path], style: Callable[[Factory], Tensors]
) -> None:
    before = outputs(ours)
    path = write(style(Factory(theirs)))
    theirs.load_lora_weights(str(path))
    ours.set_loras([path])
    check_alike(ours, theirs)
    assert min(relative(a, b) for a, b in zip(outputs(ours), before, strict=True)) > 0.05

    theirs.set_adapters("default_0", {"unet": 0.6, "text_encoder": -0.3})
    ours.set_loras([f"{path}:0.6:-0.3"])
    check_alike(ours, theirs)

    ours.set_loras([])
    assert all(np.array_equal(a, b) for a, b in zip(outputs(ours), before, strict=True))


def test_alpha_in_diffusers_metadata_counts(
    ours: Pipeline, theirs: "StableDiffusionPipeline", write: Callable[..., Path]
) -> None:
    tensors = diffusers_today(Factory(theirs))
    names = sorted({key.removeprefix("unet.").partition(".lora_")[0] for key in tensors if key.startswith("unet.")})
    settings = {"unet.r": 3, "unet.lora_alpha": 6, "unet.target_modules": names}
    tensors = {key: tensor for key, tensor in tensors.items() if key.startswith("unet.")}
    path = write(tensors, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(settings)})
    theirs.load_lora_weights(str(path))
    ours.set_loras([path])
    check_alike(ours, theirs)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_several_loras_add_up(ours: Pipeline, theirs: "StableDiffusionPipeline", write: Callable[..., Path]) -> None:
    one = write(kohya(Factory(theirs)), "one")
    two = write(diffusers_later(Factory(theirs, seed=1)), "two")
    theirs.load_lora_weights(str(one), adapter_name="one")
    theirs.load_lora_weights(str(two), adapter_name="two")
    theirs.set_adapters(["one", "two"], [0.5, 0.25])
    ours.set_loras([f"{one}:0.5", f"{two}:0.25"])
    check_alike(ours, theirs)


def lycoris(factory: Factory) -> tuple[Tensors, dict[str, torch.Tensor]]:
    """Return LoHa, LoKr, LoCon with a core, and DoRA, and what they make of the U-Net's weights."""
    tensors: Tensors = {}
    changed: dict[str, torch.Tensor] = {}

    def add(layer: str, make: Callable[[torch.Tensor], torch.Tensor], **parts: torch.Tensor) -> None:
        for part, tensor in parts.items():
            name = {"down": "lora_down.weight", "mid": "lora_mid.weight", "up": "lora_up.weight"}.get(part, part)
            tensors[f"lora_unet_{layer.replace('.', '_')}.{name}"] = tensor
        changed[f"{layer}.weight"] = make(factory.weights["unet"][f"{layer}.weight"].double())

    attention, convolution = UNET_LAYERS[0], "down_blocks.0.resnets.0.conv1"
    a1, b1, a2, b2 = (factory.random(*shape) for shape in ((32, 4), (4, 32), (32, 4), (4, 32)))
    add(
        attention,
        lambda w: w + 0.5 * (a1 @ b1).double() * (a2 @ b2).double(),
        hada_w1_a=a1, hada_w1_b=b1, hada_w2_a=a2, hada_w2_b=b2, alpha=torch.tensor(2.0),
    )  # fmt: skip
    w1, w2 = factory.random(4, 4), factory.random(8, 8, 3, 3)
    add(
        convolution,
        lambda w: w + torch.kron(w1[..., None, None].double(), w2.double()),
        lokr_w1=w1, lokr_w2=w2, alpha=torch.tensor(9999999.0),
    )  # fmt: skip
    down, mid, up = factory.random(4, 32, 1, 1), factory.random(4, 4, 3, 3), factory.random(32, 4, 1, 1)
    add(
        "down_blocks.0.resnets.0.conv2",
        lambda w: w + torch.einsum("om,mnhw,ni->oihw", up[..., 0, 0].double(), mid.double(), down[..., 0, 0].double()),
        down=down, mid=mid, up=up,
    )  # fmt: skip
    a, b, sizes = factory.random(4, 32), factory.random(32, 4), factory.random(32, 1).abs() + 1

    def decomposed(weight: torch.Tensor) -> torch.Tensor:
        total = weight + b.double() @ a.double()
        return sizes * total / total.norm(dim=1, keepdim=True)

    add(UNET_LAYERS[2], decomposed, down=a, up=b, dora_scale=sizes)
    return tensors, changed


def test_lycoris_and_dora_are_what_their_papers_say(
    ours: Pipeline, theirs: "StableDiffusionPipeline", write: Callable[..., Path]
) -> None:
    tensors, changed = lycoris(Factory(theirs))
    theirs.unet.load_state_dict({name: tensor.float() for name, tensor in changed.items()}, strict=False)
    before = outputs(ours)
    ours.set_loras([write(tensors)])
    check_alike(ours, theirs)
    assert relative(outputs(ours)[1], before[1]) > 0.05


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_stored_weights_are_changed_too(
    request: pytest.FixtureRequest,
    theirs: "StableDiffusionPipeline",
    write: Callable[..., Path],
    storage: str,
    mode: str,
) -> None:
    bundle: Path = request.getfixturevalue(f"tiny_bundle_{storage}")
    path = write(kohya(Factory(theirs)))
    theirs.load_lora_weights(str(path))
    with Pipeline.load(bundle, provider="cpu", memory=mode, arithmetic="exact", loras=[path]) as ours:
        check_alike(ours, theirs, bound={"fp16": 2e-3, "int8": 4e-2}[storage])  # what rounding the weights makes
        changed = outputs(ours)
        ours.set_loras([])
        plain = outputs(ours)
        assert min(relative(a, b) for a, b in zip(changed, plain, strict=True)) > 0.1
    with Pipeline.load(bundle, provider="cpu", memory=mode, arithmetic="exact") as untouched:
        assert all(np.array_equal(a, b) for a, b in zip(outputs(untouched), plain, strict=True))


def test_8_bit_products_have_the_changed_weights(
    theirs: "StableDiffusionPipeline", write: Callable[..., Path], tiny_bundle_int8: Path
) -> None:
    from pocket_diffusion.machine.cpu import products_are_right

    if not products_are_right():
        pytest.skip("this CPU's 8-bit products overflow")
    path = write(kohya(Factory(theirs)))
    theirs.load_lora_weights(str(path))
    with Pipeline.load(tiny_bundle_int8, provider="cpu", arithmetic="int8", loras=[path]) as ours:
        check_alike(ours, theirs, bound=5e-2)


def test_a_change_closes_only_the_networks_that_it_affects(
    theirs: "StableDiffusionPipeline", write: Callable[..., Path], tiny_bundle_fp32: Path
) -> None:
    both = kohya(Factory(theirs))
    unet_alone = {key: tensor for key, tensor in both.items() if key.startswith("lora_unet")}
    with Pipeline.load(tiny_bundle_fp32, provider="cpu", memory="fast") as ours:
        opened: list[str] = []
        open_session = ours.components.open_session
        ours.components._open = lambda role: opened.append(role) or open_session(role)  # type: ignore[func-returns-value, assignment]

        def opened_for_a_picture() -> list[str]:
            opened.clear()
            ours.generate(PROMPT, steps=1, seed=1)
            return sorted(opened)

        assert opened_for_a_picture() == ["text_encoder", "unet", "vae_decoder"]
        assert opened_for_a_picture() == []
        path = write(unet_alone)
        for loras in ([path], [f"{path}:0.5"], []):
            ours.set_loras(loras)
            assert opened_for_a_picture() == ["unet"]
        ours.set_loras([write(both)])
        assert opened_for_a_picture() == ["text_encoder", "unet"]
        ours.set_loras([write(both)])
        assert opened_for_a_picture() == []


def test_a_picture_says_what_it_was_drawn_with(
    theirs: "StableDiffusionPipeline", write: Callable[..., Path], tiny_bundle_fp32: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "loras"
    (folder / "below").mkdir(parents=True)
    always = write(kohya(Factory(theirs)), "always")
    write(kohya(Factory(theirs, 1)), "loras/below/named")
    write(kohya(Factory(theirs, 2)), "loras/ordered")
    word = write({"emb_params": torch.randn(2, 64)}, "Catstyle")
    options = {"provider": "cpu", "lora_folder": folder, "embeddings": [word]}
    with Pipeline.load(tiny_bundle_fp32, loras=[f"{always}:0.5"], **options) as ours:
        result = ours.generate(
            "a lake, catstyle <lora:named:0.75:0.25>", steps=1, seed=3, loras=[LoraUse(name="ordered", scale=0.5)]
        )
        result.save(tmp_path / "picture.png")
        with pytest.raises(InvalidRequestError, match="LoRA 'name' is not known; there are 2, such as named"):
            ours.generate("a <lora:name:1>", steps=1)
    text = Image.open(tmp_path / "picture.png").text  # type: ignore[attr-defined]
    lines = text["parameters"].splitlines()
    assert lines[0] == "a lake, catstyle <lora:named:0.75:0.25> <lora:always:0.5> <lora:ordered:0.5>"
    header = 8 + int.from_bytes(always.read_bytes()[:8], "little")
    short = hashlib.sha256(always.read_bytes()[header:]).hexdigest()[:12]
    assert f'Lora hashes: "always: {short}, ordered: ' in lines[-1]
    assert 'TI hashes: "catstyle: ' in lines[-1]
    told = next(json.loads(value) for name, value in text.items() if name != "parameters")
    assert told["lora_sha256"]["always"] == hashlib.sha256(always.read_bytes()).hexdigest()
    assert set(told["lora_sha256"]) == {"always", "named", "ordered"}
    assert told["pipeline_loras"] == [{"name": "always", "scale": 0.5}]
    assert told["loras"] == [{"name": "ordered", "scale": 0.5}]
    with Pipeline.load(tiny_bundle_fp32, loras=[f"{always}:0.5"], **options) as ours:
        again = ours.generate(told["prompt"], steps=1, seed=3, loras=[LoraUse(**use) for use in told["loras"]])
        assert np.array_equal(again.latents, result.latents)
        plain = ours.generate("a lake, catstyle", steps=1, seed=3)
        assert relative(again.latents, plain.latents) > 0.01


@pytest.mark.parametrize(
    ("name", "tensors", "token", "prompt"),
    [
        ("catstyle", {"emb_params": (3, 64)}, "catstyle", "a (CatStyle) lake"),
        ("cat-style", {"string_to_param.*": (1, 64)}, "cat-style", "a lake, cat-style, cat-style"),
        ("learned_embeds", {"<cat-toy>": (64,)}, "<cat-toy>", "a <cat-toy> at a lake"),
        ("learned_embeds", {"<cat-toy>": (4, 64)}, "<cat-toy>", "<cat-toy>, at a lake"),
    ],
)
def test_an_embedding_is_what_diffusers_makes_of_it(
    theirs: "StableDiffusionPipeline",
    tiny_bundle_fp32: Path,
    tmp_path: Path,
    name: str,
    tensors: dict[str, tuple[int, ...]],
    token: str,
    prompt: str,
) -> None:
    torch.manual_seed(0)
    content: Any = {key: torch.randn(shape) for key, shape in tensors.items()}
    vectors = next(iter(content.values()))
    path = tmp_path / f"{name}.pt"
    if "emb_params" in content:
        path = path.with_suffix(".safetensors")
        save_file(content, path)
    elif "string_to_param.*" in content:  # as A1111 writes them
        torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": name, "step": 3}, path)
    else:
        torch.save(content, path)
    theirs.load_textual_inversion({token: vectors}, token=token)
    with Pipeline.load(tiny_bundle_fp32, provider="cpu", embeddings=[path]) as ours:
        plain = prompt.replace("(", "").replace(")", "").replace("CatStyle", token)
        context = ours.encode_prompt(plain)
        assert relative(context, their_outputs(theirs, plain)[0]) < CLOSE
        weighted = ours.encode_prompt(f"({token}:1.0) x {prompt}"), ours.encode_prompt(f"({token}:1.5) x {prompt}")
        assert relative(*weighted) > 1e-3
        assert np.array_equal(ours.encode_prompt(plain.upper().replace("TOKEN", token)), ours.encode_prompt(plain))
    with Pipeline.load(tiny_bundle_fp32, provider="cpu") as untouched:
        assert relative(untouched.encode_prompt(plain), context) > 0.01
