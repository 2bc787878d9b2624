"""The CLIP text encoder: token ids to the context that the U-Net attends to."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocket_models.attention import AttentionProduct
from pocket_models.config import TextEncoderConfig


class Embeddings(nn.Module):
    """Token and position embeddings, summed."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids `[batch, tokens]` to `[batch, tokens, hidden]`."""
        embedded: Tensor = self.token_embedding(ids) + self.position_embedding.weight[: ids.shape[1]]
        return embedded


class CausalSelfAttention(nn.Module):
    """Each token attends to itself and those before it."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.product = AttentionProduct(config.num_attention_heads, causal=True)
        self.out_proj = nn.Linear(size, size)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, tokens, hidden]` to the same shape."""
        out: Tensor = self.out_proj(self.product(self.q_proj(x), self.k_proj(x), self.v_proj(x)))
        return out


class MLP(nn.Module):
    """The two-layer network of an encoder layer."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.quick = config.hidden_act == "quick_gelu"
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, tokens, hidden]` to the same shape."""
        hidden = self.fc1(x)
        # OpenAI's CLIP used this sigmoid approximation of the GELU (Hendrycks & Gimpel 2016, section 2).
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick else functional.gelu(hidden)
        out: Tensor = self.fc2(hidden)
        return out


class EncoderLayer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = CausalSelfAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, tokens, hidden]` to the same shape."""
        x = x + self.self_attn(self.layer_norm1(x))
        out: Tensor = x + self.mlp(self.layer_norm2(x))
        return out


class Encoder(nn.Module):
    """The stack of layers (a module of its own because the published names have it)."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map `[batch, tokens, hidden]` to the output of each layer, of the same shape."""
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        return outputs


class TextTransformer(nn.Module):
    """Embeddings, layers, final norm."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor) -> list[Tensor]:
        """Map ids `[batch, tokens]` to the normed output of each layer, `[batch, tokens, hidden]`."""
        return [self.final_layer_norm(x) for x in self.encoder(self.embeddings(ids))]


class TextEncoder(nn.Module):
    """transformers' `CLIPTextModel`, down to its last hidden state."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.text_model = TextTransformer(config)

    def forward(self, ids: Tensor) -> Tensor:
        """Map token ids int64 `[batch, tokens]` to the context `[batch, tokens, hidden_size]`."""
        context: Tensor = self.text_model(ids)[-1]
        return context
