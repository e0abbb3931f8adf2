from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from esper.kasmina import (
    SegmentedHost,
    TransformerHost,
    TransformerHostConfig,
    build_seeded,
    count_flops,
    count_trainable,
)
from esper.kasmina.hosts.transformer import compute_waves
from esper.leyline import ConfigError, Layout
from kasmina.growing import draw_tokens, make_transformer


def test_parameter_count_is_known() -> None:
    host = TransformerHost(TransformerHostConfig(vocabulary=256, context=64))
    # norms 2 x 128, queries, keys, values without bias, projection, mlp
    block = 256 + 3 * 64 * 64 + 64 * 64 + 64 + 2 * 64 * 256 + 256 + 64
    assert count_trainable(host) == 2 * 256 * 64 + 64 * 64 + 2 * block + 2 * 64


def test_tied_weights_are_one_tensor_and_count_once() -> None:
    tied = TransformerHost(TransformerHostConfig(vocabulary=256, context=64, is_tied=True))
    free = TransformerHost(TransformerHostConfig(vocabulary=256, context=64))
    assert count_trainable(free) - count_trainable(tied) == 256 * 64
    assert tied.get_parameter("head.1.weight") is tied.embedding.tokens.weight


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_flops_on_meta_equal_the_hand_count(positions: str) -> None:
    v, t, c, hidden, blocks = 50, 12, 32, 96, 3
    config = TransformerHostConfig(
        vocabulary=v, context=t, width=c, num_blocks=blocks, num_heads=2, mlp_ratio=3.0, positions=positions
    )
    linear = t * (3 * c * c + c * c + 2 * c * hidden)
    attention = 2 * t * t * c  # q k^T and a v, the masked half as well
    assert count_flops(TransformerHost(config), (t,), torch.int64) == 2 * (
        blocks * (linear + attention) + t * c * v
    )


@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_forward_is_the_chain_of_its_segments(positions: str, is_tied: bool) -> None:
    host = make_transformer(positions=positions, is_tied=is_tied, dropout=0.1).eval()
    hidden = inputs = draw_tokens(2, 6)
    for _, segment in host.segments():
        hidden = segment(hidden)
    assert isinstance(host, SegmentedHost)
    assert host(inputs).shape == (2, 6, 11)
    assert torch.equal(host(inputs), hidden)


def test_points_stand_after_each_block() -> None:
    points = make_transformer().injection_points()
    assert [(p.slot_id, p.path, p.num_channels) for p in points] == [
        ("block1", "block1", 16), ("block2", "block2", 16),
    ]  # fmt: skip
    assert {point.layout for point in points} == {Layout.SEQUENCE}


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_no_output_depends_on_a_later_token(positions: str) -> None:
    host = make_transformer(positions=positions).eval()
    tokens = draw_tokens(3, 8)
    before = host(tokens)
    for place in range(1, 8):
        changed = tokens.clone()
        changed[:, place:] = (changed[:, place:] + 1) % 11
        assert torch.allclose(host(changed)[:, :place], before[:, :place], atol=1e-6)
        assert not torch.allclose(host(changed)[:, place:], before[:, place:], atol=1e-6)


def test_attention_equals_the_formula_written_out() -> None:
    host = make_transformer().eval()
    block = host.get_submodule("block1")
    h = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    attention = block.get_submodule("attention")
    mixed = F.linear(h, attention.get_parameter("mix.weight"))
    query, key, value = (part.view(2, 5, 4, 4).transpose(1, 2) for part in mixed.chunk(3, dim=-1))
    scores = query @ key.transpose(-1, -2) / math.sqrt(4)
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
    read = scores.masked_fill(hidden, -math.inf).softmax(dim=-1) @ value
    expected = attention.get_submodule("project")(read.transpose(1, 2).reshape(2, 5, 16))
    assert torch.allclose(attention(h), expected, atol=1e-6)


@pytest.mark.parametrize("vocabulary", [2, 11, 256, 5000])
@pytest.mark.parametrize("is_tied", [False, True])
def test_first_loss_is_about_that_of_a_uniform_guess(vocabulary: int, is_tied: bool) -> None:
    config = TransformerHostConfig(vocabulary=vocabulary, context=32, num_blocks=3, is_tied=is_tied)
    host = build_seeded(lambda: TransformerHost(config), 1)
    tokens = torch.randint(vocabulary, (8, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = F.cross_entropy(host(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert float(loss) == pytest.approx(math.log(vocabulary), abs=0.05)


def test_shorter_sequences_than_the_context_are_taken_and_longer_ones_are_not() -> None:
    host = make_transformer().eval()
    assert host(draw_tokens(2, 3)).shape == (2, 3, 11)
    with pytest.raises(RuntimeError, match="size of tensor"):
        host(draw_tokens(2, 9))


def test_waves_are_sines_and_cosines_of_falling_speed() -> None:
    waves = compute_waves(5, 6) / (0.02 * math.sqrt(2))
    for place in range(5):
        for pair in range(3):
            angle = place / 10_000 ** (2 * pair / 6)
            assert float(waves[place, 2 * pair]) == pytest.approx(math.sin(angle), abs=1e-5)
            assert float(waves[place, 2 * pair + 1]) == pytest.approx(math.cos(angle), abs=1e-5)


def test_dropout_acts_in_training_only() -> None:
    host, tokens = make_transformer(dropout=0.5), draw_tokens(2, 8)
    assert not torch.equal(host(tokens), host(tokens))
    assert torch.equal(host.eval()(tokens), host(tokens))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocabulary", 1), ("context", 0), ("width", 1), ("num_blocks", 0), ("num_heads", 0),
        ("num_heads", 5), ("mlp_ratio", 0.0), ("positions", "learnt"), ("dropout", 1.0),
    ],
)  # fmt: skip
def test_setting_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    settings: dict[str, object] = {"vocabulary": 10, "context": 8, field: value}
    with pytest.raises(ConfigError, match=rf"model\.{field}="):
        TransformerHostConfig(**settings)  # type: ignore[arg-type]


def test_sinusoidal_positions_need_an_even_width() -> None:
    with pytest.raises(ConfigError, match=r"model\.width=9"):
        TransformerHostConfig(vocabulary=4, context=4, width=9, num_heads=1, positions="sinusoidal")
