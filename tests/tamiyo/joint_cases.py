"""Random joint distributions with every irregularity, and their exact enumeration by plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from esper.leyline import LifecycleOp
from esper.tamiyo.action_layout import HEAD_OPS, ActionLayout
from esper.tamiyo.distributions import ActionLogits, ActionMask, JointDistribution

OPS = tuple(LifecycleOp)
GROWTH_LAYOUT = ActionLayout(
    op_names=tuple(op.value for op in OPS),
    uses={head: tuple(op in ops for op in OPS) for head, ops in HEAD_OPS.items()},
    argument_sizes={"blend": 2, "curve": 1, "tempo": 2, "alpha_target": 2},
)
"""All seven heads; one argument has a single choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JointCase:
    """Logits (leaves, so that gradients can be read) and masks of N rows."""

    layout: ActionLayout
    logits: ActionLogits
    mask: ActionMask

    @property
    def distribution(self) -> JointDistribution:
        return JointDistribution(self.layout, self.logits, self.mask)

    @property
    def leaves(self) -> list[Tensor]:
        structure = [self.logits.op, self.logits.slot, self.logits.blueprint]
        return [leaf for leaf in (*structure, *self.logits.arguments.values()) if leaf is not None]


def make_case(
    seed: int,
    *,
    rows: int = 3,
    slots: int = 2,
    blueprints: int = 3,
    layout: ActionLayout = GROWTH_LAYOUT,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.5,
    is_factored: bool = False,
) -> JointCase:
    """Return a random case whose reachable rows are never empty; unreachable ones often are.

    Args:
        is_factored: Slots, blueprints and arguments do not depend on what was drawn before.
    """
    rng = torch.Generator().manual_seed(seed)
    num_ops = len(layout.op_names)

    def leaf(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=rng, dtype=torch.float64) * scale
        return values.to(dtype).requires_grad_()

    def coin(*shape: int, chance: float) -> Tensor:
        return torch.rand(shape, generator=rng) < chance

    has_slot, has_blueprint = "slot" in layout.uses, "blueprint" in layout.uses
    blueprint_mask = coin(rows, slots, blueprints, chance=0.5)
    slot_mask = coin(rows, num_ops, slots, chance=0.5)
    if has_blueprint:
        births = torch.tensor(layout.uses["blueprint"])[:, None]
        slot_mask &= ~births | blueprint_mask.any(dim=-1)[:, None]
    op_mask = coin(rows, num_ops, chance=0.8)
    if has_slot:
        op_mask &= ~torch.tensor(layout.uses["slot"]) | slot_mask.any(dim=-1)
    op_mask[:, 0] = True
    wide = 1 if is_factored else num_ops
    deep = 1 if is_factored or not has_slot else slots
    return JointCase(
        layout=layout,
        logits=ActionLogits(
            op=leaf(rows, num_ops),
            slot=leaf(rows, wide, slots) if has_slot else None,
            blueprint=leaf(rows, 1 if is_factored else slots, blueprints) if has_blueprint else None,
            arguments={head: leaf(rows, wide, deep, size) for head, size in layout.argument_sizes.items()},
        ),
        mask=ActionMask(
            op=op_mask,
            slot=slot_mask if has_slot else None,
            blueprint=blueprint_mask if has_blueprint else None,
        ),
    )


def _choices(logits: Tensor, legal: Tensor) -> list[tuple[int, Tensor]]:
    """Legal indices with their log-probabilities: a softmax over the legal ones alone, in float64."""
    indices = legal.nonzero().flatten().tolist()
    log_probs = torch.log_softmax(logits.double()[indices], dim=-1)
    return list(zip(indices, log_probs, strict=True))


def _at(table: Tensor, *index: int) -> Tensor:
    """Index a table whose dimensions may be 1 where nothing depends on them."""
    for place in index:
        table = table[place if table.shape[0] > 1 else 0]
    return table


def _options(case: JointCase, row: int, head: str, chosen: dict[str, int]) -> list[tuple[int, Tensor]]:
    """What a head offers after the choices before it: only index 0, for nothing, where it is not used."""
    logits, mask, op = case.logits, case.mask, chosen.get("op", 0)
    if not case.layout.uses[head][op]:
        return [(0, torch.zeros((), dtype=torch.float64))]
    slot = chosen.get("slot", 0)
    if head == "op":
        return _choices(logits.op[row], mask.op[row])
    if head == "slot":
        assert logits.slot is not None
        assert mask.slot is not None
        return _choices(_at(logits.slot[row], op), mask.slot[row, op])
    if head == "blueprint":
        assert logits.blueprint is not None
        assert mask.blueprint is not None
        return _choices(_at(logits.blueprint[row], slot), mask.blueprint[row, slot])
    scores = _at(logits.arguments[head][row], op, slot)
    return _choices(scores, torch.ones_like(scores, dtype=torch.bool))


def enumerate_joint(
    case: JointCase, row: int, chosen: dict[str, int] | None = None
) -> Iterator[tuple[tuple[int, ...], tuple[Tensor, ...]]]:
    """Yield every legal joint action of a row with the log-probability of each column.

    Args:
        chosen: Choices of the first heads; None = start from the first.
    """
    chosen = {} if chosen is None else chosen
    heads = case.layout.heads[len(chosen) :]
    if not heads:
        yield (), ()
        return
    for index, log_prob in _options(case, row, heads[0], chosen):
        for rest, scores in enumerate_joint(case, row, chosen | {heads[0]: index}):
            yield (index, *rest), (log_prob, *scores)
