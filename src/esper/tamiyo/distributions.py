"""The distribution of a joint action whose parts depend on each other: sampled, scored and measured exactly.

```
op                                  p(op)
slot given op                       p(slot | op)
blueprint given slot                p(blueprint | slot)         where the operation uses a blueprint
argument given op and slot          p(argument | op, slot)      each where the operation uses it
```
All conditionals are at hand at once, so that entropies are sums over what could be drawn, not estimates from
what was: H = H(op) + sum p(op) H(slot | op) + sum p(op) p(slot | op) H(blueprint | slot) + ... An estimate
from the drawn operation would lack the gradient through p(op).

Shapes: N rows, O operations, S slots, B blueprints, K choices, H heads. Everything here is float32 whatever
the autocast (float64 stays): bfloat16 moves a ratio by more than a trust region allows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from esper.leyline import EsperError
from esper.tamiyo.action_layout import BLUEPRINT_HEAD, OP_HEAD, SLOT_HEAD, ActionLayout

_Choose = Callable[[str, Tensor], Tensor]
"""Head and its log-probabilities [N, K] to indices [N]."""


@final
class EmptyMaskError(EsperError):
    """Raised when a row has no legal choice to draw from: the masks of its environment are wrong."""

    def __init__(self, name: str, head: str, row: int) -> None:
        """Say which environment and head; `row` is its place, for whoever knows a better name."""
        super().__init__(f"{name}: no legal choice for head {head!r}; WAIT must always be legal")
        self.head, self.row = head, row


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActionLogits:
    """Unnormalised log-probabilities of all conditionals, any floating dtype."""

    op: Tensor
    """[N, O]."""
    slot: Tensor | None = None
    """[N, O, S]; also [N, 1, S] where slots do not depend on the operation."""
    blueprint: Tensor | None = None
    """[N, S, B]; also [N, 1, B] where blueprints do not depend on the slot."""
    arguments: Mapping[str, Tensor] = field(default_factory=dict)
    """Head -> [N, O, S, K]; O and S may each be 1 where nothing depends on them."""


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ActionMask:
    """Legality; True = may be drawn. Arguments are always legal."""

    op: Tensor
    """[N, O] bool."""
    slot: Tensor | None = None
    """[N, O, S] bool; the row of an operation that uses no slot is ignored."""
    blueprint: Tensor | None = None
    """[N, S, B] bool."""


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Return log-probabilities over the last dimension in float32 (float64 stays); finfo.min where masked.

    A row without a legal choice gets log-probabilities that mean nothing, but are finite, as are their
    gradients: such rows exist for operations that are themselves illegal.

    Args:
        logits: [..., K].
        mask: [..., K] bool, broadcast against the logits.
    """
    wide = logits if logits.dtype is torch.float64 else logits.float()
    fill = torch.finfo(wide.dtype).min
    log_probs = torch.log_softmax(wide.masked_fill(~mask, fill), dim=-1)
    return log_probs.masked_fill(~mask, fill)


def masked_entropy(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Return -sum p ln p over the legal choices of the last dimension, in nats; 0 where there are none."""
    safe = log_probs.masked_fill(~mask, 0.0)
    return -(safe.exp() * safe).masked_fill(~mask, 0.0).sum(dim=-1)


def _make_drawable(log_probs: Tensor, legal: Tensor) -> Tensor:
    """Make rows uniform over what is legal where there is nothing to draw from: [N, K] each.

    Those are rows that are not finite, and rows of a head that the operation does not use. A draw from one of
    them would fail for all; what it yields counts for nothing, for its log-probability is 0 or not finite.
    """
    is_sound = log_probs.exp().sum(dim=-1, keepdim=True) > 0.5  # 1 up to rounding; 0 or NaN otherwise
    even = torch.zeros_like(log_probs).masked_fill(~legal, torch.finfo(log_probs.dtype).min)
    return torch.where(is_sound, log_probs, even)


@final
class JointDistribution:
    """N rows of a joint distribution.

    Example:
        JointDistribution(layout, logits, mask).log_prob(actions)  # [N, H]
    """

    def __init__(self, layout: ActionLayout, logits: ActionLogits, mask: ActionMask) -> None:
        """Normalise every conditional once; masks are never applied again.

        Raises:
            ValueError: If a head of the layout has no logits or no mask, or there are some for a head that
                it lacks.
        """
        given = {OP_HEAD} | ({SLOT_HEAD} if logits.slot is not None else set())
        given |= ({BLUEPRINT_HEAD} if logits.blueprint is not None else set()) | set(logits.arguments)
        if given != set(layout.heads):
            raise ValueError(f"logits for {sorted(given)}, the layout has the heads {layout.heads}")
        for head, its_mask in ((SLOT_HEAD, mask.slot), (BLUEPRINT_HEAD, mask.blueprint)):
            if (head in layout.uses) != (its_mask is not None):
                problem = "has no mask" if its_mask is None else "has a mask, but there is no such head"
                raise ValueError(f"{head!r} {problem}; the layout has the heads {layout.heads}")
        self._layout = layout
        self._mask = mask
        num_rows, num_ops = logits.op.shape
        self._op = masked_log_softmax(logits.op, mask.op)
        self._slot: Tensor | None = None
        self._blueprint: Tensor | None = None
        num_slots = 1
        if logits.slot is not None and mask.slot is not None:
            num_slots = mask.slot.shape[-1]
            self._slot = masked_log_softmax(logits.slot.expand(mask.slot.shape), mask.slot)
        if logits.blueprint is not None and mask.blueprint is not None:
            self._blueprint = masked_log_softmax(
                logits.blueprint.expand(mask.blueprint.shape), mask.blueprint
            )
        self._arguments = {}
        for head, raw in logits.arguments.items():
            wide = raw if raw.dtype is torch.float64 else raw.float()
            shape = (num_rows, num_ops, num_slots, raw.shape[-1])
            self._arguments[head] = torch.log_softmax(wide, dim=-1).expand(shape)
        device = logits.op.device
        self._rows = torch.arange(num_rows, device=device)
        self._used = {head: torch.tensor(used, device=device) for head, used in layout.uses.items()}

    def check_not_empty(self, names: tuple[str, ...] | None = None) -> None:
        """Refuse rows from which nothing legal could be drawn.

        A finite fill would turn such a row silently into a uniform one.

        Args:
            names: [N] names of the environments, for the message; None = row numbers.

        Raises:
            EmptyMaskError: Naming the environment and the head.
        """
        empty = {OP_HEAD: ~self._mask.op.any(dim=-1)}
        if self._mask.slot is not None:
            needs = self._mask.op & self._uses(SLOT_HEAD)
            empty[SLOT_HEAD] = (needs & ~self._mask.slot.any(dim=-1)).any(dim=-1)
        if self._mask.slot is not None and self._mask.blueprint is not None:
            needs = self._mask.op & self._uses(BLUEPRINT_HEAD)
            needed = (self._mask.slot & needs[..., None]).any(dim=1)
            empty[BLUEPRINT_HEAD] = (needed & ~self._mask.blueprint.any(dim=-1)).any(dim=-1)
        for head, is_empty in empty.items():
            if bool(is_empty.any()):  # sync: once per decision, on masks that come from the CPU
                row = int(is_empty.nonzero()[0])
                name = f"row {row}" if names is None else names[row]
                raise EmptyMaskError(name, head, row)

    # ------------------------------------------------------------------ drawing

    def sample(self, noise: Tensor) -> Tensor:
        """Draw N joint actions [N, H] int64; columns that the drawn operation does not use are 0.

        Each head takes the choice whose stretch of the cumulated probabilities holds the row's number, so
        that a row's action depends on that row alone.

        Args:
            noise: [N, H] in [0, 1), e.g. of `draw_noise`.

        Raises:
            ValueError: If the shape is another.
        """
        shape = (len(self._op), len(self._layout.heads))
        if tuple(noise.shape) != shape:
            raise ValueError(
                f"noise of shape {list(noise.shape)}: need {list(shape)}, a number per row and head"
            )

        def draw(head: str, log_probs: Tensor) -> Tensor:
            reached = log_probs.double().exp().cumsum(dim=-1)
            drawn = noise[:, self._layout.heads.index(head), None] * reached[:, -1:]
            # What is masked adds nothing to the sum, so that no number falls into its stretch.
            return (reached <= drawn).sum(dim=-1)

        return self._pick(draw)

    def mode(self) -> Tensor:
        """Return the greedy joint actions [N, H]: the likeliest operation, then each likeliest choice."""
        return self._pick(lambda _, log_probs: log_probs.argmax(dim=-1))

    def _pick(self, choose: _Choose) -> Tensor:
        op = choose(OP_HEAD, _make_drawable(self._op, self._mask.op))
        slot = torch.zeros_like(op)
        columns = [op]
        if self._slot is not None:
            assert self._mask.slot is not None
            used = self._uses(SLOT_HEAD)[op]
            legal = self._mask.slot[self._rows, op] | ~used[:, None]
            slot = choose(SLOT_HEAD, _make_drawable(self._slot[self._rows, op], legal)) * used
            columns.append(slot)
        if self._blueprint is not None:
            assert self._mask.blueprint is not None
            used = self._uses(BLUEPRINT_HEAD)[op]
            legal = self._mask.blueprint[self._rows, slot] | ~used[:, None]
            drawable = _make_drawable(self._blueprint[self._rows, slot], legal)
            columns.append(choose(BLUEPRINT_HEAD, drawable) * used)
        for head, table in self._arguments.items():
            log_probs = table[self._rows, op, slot]
            everything = torch.ones_like(log_probs, dtype=torch.bool)
            columns.append(choose(head, _make_drawable(log_probs, everything)) * self._uses(head)[op])
        return torch.stack(columns, dim=-1)

    # ------------------------------------------------------------------ scoring

    def active(self, actions: Tensor) -> Tensor:
        """Return [N, H] bool: which columns the operation of each row uses."""
        op = actions[:, 0]
        return torch.stack([self._uses(head)[op] for head in self._layout.heads], dim=-1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return [N, H] log-probabilities of the columns given those before them; 0 where not used.

        The joint log-probability is their sum.
        """
        op = actions[:, 0]
        slot = actions[:, self._layout.heads.index(SLOT_HEAD)] if self._slot is not None else op * 0
        columns = [self._op[self._rows, op]]
        if self._slot is not None:
            columns.append(self._slot[self._rows, op, slot])
        if self._blueprint is not None:
            blueprint = actions[:, self._layout.heads.index(BLUEPRINT_HEAD)]
            columns.append(self._blueprint[self._rows, slot, blueprint])
        for head, log_probs in self._arguments.items():
            chosen = actions[:, self._layout.heads.index(head)]
            columns.append(log_probs[self._rows, op, slot, chosen])
        return torch.stack(columns, dim=-1).masked_fill(~self.active(actions), 0.0)

    def entropy(self) -> Tensor:
        """Return [N, H] nats: each head's conditional entropy, weighted by how likely its condition is.

        Their sum is the entropy of the joint action.
        """
        op_probs = self._op.exp()
        columns = [masked_entropy(self._op, self._mask.op)]
        reach = op_probs[:, :, None]
        if self._slot is not None:
            assert self._mask.slot is not None
            legal = self._mask.slot & self._uses(SLOT_HEAD)[:, None]
            columns.append((op_probs * masked_entropy(self._slot, legal)).sum(dim=-1))
            # An operation without a slot reaches its arguments through slot 0, whatever the mask says there.
            free = torch.zeros_like(self._slot)
            free[:, :, 0] = 1.0
            by_slot = torch.where(self._uses(SLOT_HEAD)[:, None], self._slot.exp(), free)
            reach = op_probs[:, :, None] * by_slot
        if self._blueprint is not None:
            assert self._mask.blueprint is not None
            births = (reach * self._uses(BLUEPRINT_HEAD)[:, None]).sum(dim=1)
            columns.append((births * masked_entropy(self._blueprint, self._mask.blueprint)).sum(dim=-1))
        for head, log_probs in self._arguments.items():
            spread = -(log_probs.exp() * log_probs).sum(dim=-1)
            columns.append((reach * spread * self._uses(head)[:, None]).sum(dim=(1, 2)))
        return torch.stack(columns, dim=-1)

    # ------------------------------------------------------------------ counting and showing

    def num_valid(self) -> Tensor:
        """Return [N] int64: how many joint actions are legal; 1 = the step is forced."""
        num_rows, num_ops = self._op.shape
        counts = torch.ones(num_rows, num_ops, 1, dtype=torch.int64, device=self._op.device)
        if self._mask.slot is not None:
            free = torch.zeros_like(self._mask.slot)
            free[:, :, 0] = True
            counts = torch.where(self._uses(SLOT_HEAD)[:, None], self._mask.slot, free).long()
        if self._mask.blueprint is not None:
            options = self._mask.blueprint.sum(dim=-1)[:, None, :]
            counts = torch.where(self._uses(BLUEPRINT_HEAD)[:, None], counts * options, counts)
        for head, log_probs in self._arguments.items():
            counts = torch.where(self._uses(head)[:, None], counts * log_probs.shape[-1], counts)
        return (counts.sum(dim=-1) * self._mask.op).sum(dim=-1)

    def probabilities(self, actions: Tensor) -> dict[str, Tensor]:
        """Return head -> [N, K] probabilities along the path of the given actions, for inspection."""
        op = actions[:, 0]
        slot = actions[:, self._layout.heads.index(SLOT_HEAD)] if self._slot is not None else op * 0
        shown = {OP_HEAD: self._op.exp()}
        if self._slot is not None:
            shown[SLOT_HEAD] = self._slot[self._rows, op].exp()
        if self._blueprint is not None:
            shown[BLUEPRINT_HEAD] = self._blueprint[self._rows, slot].exp()
        return shown | {h: log_probs[self._rows, op, slot].exp() for h, log_probs in self._arguments.items()}

    def _uses(self, head: str) -> Tensor:
        """[O] bool: which operations use the head."""
        return self._used[head]
