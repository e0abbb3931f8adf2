"""A small decoder-only language model as a host: tokens in, a guess of the next token at every position out.

```
embedding   token embedding + position                               [B, T] int64 -> [B, T, C]
block i     h + attention(norm(h)), then h + mlp(norm(h))            a growth point after each block
head        norm, linear map to the vocabulary                       -> logits [B, T, V]
```
Pre-norm (Xiong et al. 2020) and causal: nothing at position t depends on a later token. Knows tokens as
numbers; what they stand for, losses and data are others' business.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from esper.kasmina.attention import CausalSelfAttention
from esper.kasmina.config import require_range
from esper.kasmina.hosts.protocol import InjectionPoint
from esper.leyline import ConfigError, Layout, suggest

POSITION_NAMES = ("learned", "sinusoidal")
_INIT_STD = 0.02
_LONGEST_WAVE = 10_000.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerHostConfig:
    """Shape of a `TransformerHost`."""

    vocabulary: int
    """Different tokens V, >= 2."""
    context: int
    """Longest sequence T, >= 1."""
    width: int = 64
    """Size C of the stream between blocks, >= 2; 64 is small on purpose, growth adds what is missing."""
    num_blocks: int = 2
    """Blocks, >= 1; two are the least in which attention can build on attention."""
    num_heads: int = 4
    """Attention heads, >= 1, a divisor of `width`; 4 heads of 16 at the default width."""
    mlp_ratio: float = 4.0
    """Hidden units of a block's MLP per unit of `width`, > 0; 4 is the usual choice (Vaswani et al. 2017)."""
    positions: str = "learned"
    """"learned" or "sinusoidal"; learned, because a short context costs few parameters."""
    is_tied: bool = False
    """Whether the head uses the token embedding's weights. Off: a small vocabulary has little to save, and
    tied weights would let the tail after a slot own parameters in front of it."""
    dropout: float = 0.0
    """Rate on embeddings, attention weights and what a block adds, in [0, 1); 0, because small hosts
    underfit."""

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a value is outside the range that its field states.
        """
        for name, low, high in (
            ("vocabulary", 2, 2**20),
            ("context", 1, 65536),
            ("width", 2, 65536),
            ("num_blocks", 1, 1024),
            ("num_heads", 1, 65536),
            ("mlp_ratio", 1e-3, 64.0),
            ("dropout", 0.0, 0.99),
        ):
            require_range("model", name, getattr(self, name), low, high)
        if self.width % self.num_heads:
            raise ConfigError(
                f"model.num_heads={self.num_heads}: must divide model.width={self.width}, e.g. "
                f"{math.gcd(self.width, self.num_heads)}"
            )
        if self.positions not in POSITION_NAMES:
            raise ConfigError(
                f"model.positions={self.positions!r}: {suggest(self.positions, POSITION_NAMES)}"
            )
        if self.positions == "sinusoidal" and self.width % 2:
            raise ConfigError(f"model.width={self.width}: must be even for model.positions='sinusoidal'")

    @property
    def hidden_width(self) -> int:
        """Hidden units of a block's MLP."""
        return max(1, round(self.mlp_ratio * self.width))


@final
class TokenEmbedding(nn.Module):
    """Tokens [B, T] int64 to vectors [B, T, C]: what the token is plus where it stands."""

    positions: Tensor

    def __init__(self, config: TransformerHostConfig) -> None:
        """Draw token vectors, and positions where they are learned."""
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.tokens.weight, std=_INIT_STD)
        if config.positions == "learned":
            self.positions = nn.Parameter(_INIT_STD * torch.randn(config.context, config.width))
        else:
            # Persistent: an exported network must find it among its weights.
            self.register_buffer("positions", compute_waves(config.context, config.width))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return [B, T, C] for tokens [B, T], T at most the context."""
        out: Tensor = self.dropout(self.tokens(tokens) + self.positions[: tokens.shape[1]])
        return out


@final
class TransformerBlock(nn.Module):
    """h + attention(norm(h)), then h + mlp(norm(h))."""

    def __init__(self, config: TransformerHostConfig) -> None:
        """Build; what enters the stream is scaled by 1 / sqrt(2 blocks), so that depth does not raise it."""
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = CausalSelfAttention(config.width, config.num_heads, config.dropout)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.hidden_width),
            nn.GELU(),
            nn.Linear(config.hidden_width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)
        small = 1.0 / math.sqrt(2 * config.num_blocks)
        with torch.no_grad():
            for part in (self.attention.project, self.mlp[-1]):
                assert isinstance(part, nn.Linear)
                part.weight.mul_(small)
                nn.init.zeros_(part.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Map h [B, T, C] to the same shape."""
        h = h + self.dropout(self.attention(self.attention_norm(h)))
        out: Tensor = h + self.dropout(self.mlp(self.mlp_norm(h)))
        return out


@final
class TransformerHost(nn.Module):
    """Tokens [B, T] int64 to logits [B, T, V]; a growth point after each block."""

    def __init__(self, config: TransformerHostConfig) -> None:
        """Build; weights come from the global random stream, the first loss is about ln V."""
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        for index in range(config.num_blocks):
            self.add_module(f"block{index + 1}", TransformerBlock(config))
        last = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.is_tied:
            last.weight = self.embedding.tokens.weight
        else:
            # Small, so that the first guess is close to uniform whatever the stream holds.
            nn.init.normal_(last.weight, std=_INIT_STD)
        self.head = nn.Sequential(nn.LayerNorm(config.width), last)

    def segments(self) -> tuple[tuple[str, nn.Module], ...]:
        """Return the embedding, the blocks and the head, in forward order."""
        names = ["embedding", *(f"block{index + 1}" for index in range(self.config.num_blocks)), "head"]
        return tuple((name, self.get_submodule(name)) for name in names)

    def injection_points(self) -> tuple[InjectionPoint, ...]:
        """Return one point after each block."""
        return tuple(
            InjectionPoint(
                slot_id=f"block{index + 1}",
                path=f"block{index + 1}",
                layout=Layout.SEQUENCE,
                num_channels=self.config.width,
            )
            for index in range(self.config.num_blocks)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits [B, T, V] for tokens [B, T] int64, T at most the context."""
        hidden = inputs
        for _, segment in self.segments():
            hidden = segment(hidden)
        return hidden


def compute_waves(context: int, width: int) -> Tensor:
    """Return sine and cosine positions [T, C] float32, even C (Vaswani et al. 2017, section 3.5).

    Column 2 i holds sin(t / 10000^(2 i / C)), column 2 i + 1 the cosine. They are scaled to the spread of
    learned ones at birth (0.02), beside which token vectors are drawn.
    """
    rates = _LONGEST_WAVE ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(context, dtype=torch.float64)[:, None] * rates  # [T, C / 2]
    waves = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
    return (_INIT_STD * math.sqrt(2.0) * waves).to(torch.float32)
