"""The joint action as other libraries know it: one vector of whole numbers, or one number of a list.

```
vector   MultiDiscrete: one column per head; columns that the operation does not use count for nothing
number   Discrete: place in the list of all joint actions that differ in what they cause
```
A mask per column cannot say "slot 2 only for CULL": the union mask allows whatever some legal joint action
uses, and what is still illegal then counts as WAIT. The mask over the list is exact.

Shapes: E rows, H heads, N joint actions, M = sum of the column sizes. Knows no gymnasium.
"""

from __future__ import annotations

from itertools import product
from typing import final

import torch
from torch import Tensor

from esper.leyline import LifecycleOp
from esper.tamiyo import ActionLayout, PolicyInputs

_STRUCTURE = ("op", "slot", "blueprint")


@final
class ActionTable:
    """All joint actions of a layout with given numbers of slots and blueprints.

    Example:
        table = ActionTable(layout, num_slots=2, num_blueprints=2)
        table.sizes                        # (4, 2, 2)
        len(table.joint_actions)           # 9: WAIT, 4 GERMINATE, 2 FOSSILIZE, 2 CULL
    """

    def __init__(self, layout: ActionLayout, num_slots: int = 1, num_blueprints: int = 1) -> None:
        """List the joint actions.

        Args:
            layout: Heads and which operation uses which.
            num_slots: S, padding included; not read without a slot head.
            num_blueprints: B, padding included; not read without a blueprint head.
        """
        counts = {"op": len(layout.op_names), "slot": num_slots, "blueprint": num_blueprints}
        counts |= layout.argument_sizes
        self._layout = layout
        self._sizes = tuple(counts[head] for head in layout.heads)
        self._uses = torch.tensor([layout.uses[head] for head in layout.heads]).T  # [O, H] bool
        # 1) what masks speak of: operation, slot, blueprint
        self._structure = torch.tensor(
            [
                (op, slot, blueprint)
                for op in range(counts["op"])
                for slot in _choices(layout, "slot", op, num_slots)
                for blueprint in _choices(layout, "blueprint", op, num_blueprints)
            ]
        )
        self._place = torch.zeros(counts["op"], num_slots, num_blueprints, dtype=torch.int64)
        self._place[tuple(self._structure.T)] = torch.arange(len(self._structure))
        # 2) times the arguments, which are always legal
        rows, parents = [], []
        for parent, (op, slot, blueprint) in enumerate(self._structure.tolist()):
            chosen = dict(zip(_STRUCTURE, (op, slot, blueprint), strict=True))
            front = [value for head, value in chosen.items() if head in layout.uses]
            tails = product(
                *(_choices(layout, head, op, size) for head, size in layout.argument_sizes.items())
            )
            for tail in tails:
                rows.append((*front, *tail))
                parents.append(parent)
        self._joint = torch.tensor(rows)
        self._parents = torch.tensor(parents)
        self._members = self._build_members()
        wait = LifecycleOp.WAIT.value
        self._wait = layout.op_names.index(wait) if wait in layout.op_names else None

    @property
    def sizes(self) -> tuple[int, ...]:
        """[H] number of choices of each column."""
        return self._sizes

    @property
    def joint_actions(self) -> Tensor:
        """[N, H] int64: every causally distinct joint action once, 0 in columns that it does not use."""
        return self._joint.clone()

    def exact_mask(self, inputs: PolicyInputs) -> Tensor:
        """Return [E, N] bool: which joint actions are legal."""
        return self._legal(inputs)[:, self._parents]

    def union_mask(self, inputs: PolicyInputs) -> Tensor:
        """Return [E, M] bool: which index of which column some legal joint action uses; no column is empty.

        A column that no legal action uses has index 0 alone, the one that counts for nothing.
        """
        legal = self._legal(inputs)
        reached = legal.float() @ self._members.float() > 0.0
        columns = list(torch.split(reached, list(self._sizes[: self._num_structure]), dim=-1))
        for column in columns:
            column[:, 0] |= ~column.any(dim=-1)
        columns += [legal.new_ones(len(legal), size) for size in self._sizes[self._num_structure :]]
        return torch.cat(columns, dim=-1)

    def canonical(self, actions: Tensor) -> Tensor:
        """Return [E, H] the same actions with 0 in the columns that their operation does not use."""
        return actions * self._uses[actions[:, 0]]

    def is_legal(self, actions: Tensor, inputs: PolicyInputs) -> Tensor:
        """Return [E] bool: whether the masks of the inputs allow the canonical actions [E, H]."""
        columns = dict(zip(self._layout.heads, actions.T, strict=True))
        zero = torch.zeros_like(actions[:, 0])
        places = self._place[tuple(columns.get(head, zero) for head in _STRUCTURE)]
        return self._legal(inputs)[torch.arange(len(actions)), places]

    def resolve(self, actions: Tensor, inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        """Return [E, H] what is to be carried out, and [E] bool where the action was illegal.

        An illegal action becomes WAIT; where the layout has no such operation it stays, and the environment
        counts it as whatever waiting is there.

        Args:
            actions: [E, H] int64, each within the sizes.
            inputs: Observations that the actions answer.
        """
        chosen = self.canonical(actions)
        is_invalid = ~self.is_legal(chosen, inputs)
        if self._wait is not None:
            wait = torch.zeros_like(chosen)
            wait[:, 0] = self._wait
            chosen = torch.where(is_invalid[:, None], wait, chosen)
        return chosen, is_invalid

    @property
    def _num_structure(self) -> int:
        return len(self._sizes) - len(self._layout.argument_sizes)

    def _legal(self, inputs: PolicyInputs) -> Tensor:
        """Return [E, rows of the structure] bool."""
        op, slot, blueprint = self._structure.T
        legal = inputs["mask_op"][:, op]
        if "slot" in self._layout.uses:
            is_free = ~torch.tensor(self._layout.uses["slot"])[op]
            legal = legal & (inputs["mask_slot"][:, op, slot] | is_free)
        if "blueprint" in self._layout.uses:
            is_free = ~torch.tensor(self._layout.uses["blueprint"])[op]
            legal = legal & (inputs["mask_blueprint"][:, slot, blueprint] | is_free)
        return legal

    def _build_members(self) -> Tensor:
        """Return [rows of the structure, columns of op, slot and blueprint] bool: what each row uses."""
        op = self._structure[:, 0]
        heads = [head for head in _STRUCTURE if head in self._layout.uses]
        parts = []
        for head, size in zip(heads, self._sizes, strict=False):
            column = self._structure[:, _STRUCTURE.index(head)]
            one_hot = torch.nn.functional.one_hot(column, size).bool()
            parts.append(one_hot & torch.tensor(self._layout.uses[head])[op][:, None])
        return torch.cat(parts, dim=-1)


def build_action_table(layout: ActionLayout, inputs: PolicyInputs) -> ActionTable:
    """Return the table for the numbers of slots and blueprints that the masks of some inputs have."""
    num_slots = inputs["mask_slot"].shape[-1] if "slot" in layout.uses else 1
    num_blueprints = inputs["mask_blueprint"].shape[-1] if "blueprint" in layout.uses else 1
    return ActionTable(layout, num_slots, num_blueprints)


def _choices(layout: ActionLayout, head: str, op: int, size: int) -> range:
    """Indices of a head that differ in what they cause."""
    return range(size if head in layout.uses and layout.uses[head][op] else 1)
