"""A host with its slots beside it, as one module that trains, grows, forgets and is measured.

```
MorphogeneticModel
  host    untouched: its state-dict keys stay, its forward is its own
  slots   ModuleDict of SeedSlot, connected by bound-method hooks
```
It applies actions through the lifecycle and knows nothing about who decided them, about losses or
optimisers. What it changed is returned as events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from esper.kasmina.attach import attach_hooks, probe_slots
from esper.kasmina.blending import Seed, build_seed
from esper.kasmina.blueprints.registry import BlueprintRegistry
from esper.kasmina.blueprints.spec import SlotSpec
from esper.kasmina.compiled import CompiledHost
from esper.kasmina.config import LifecycleConfig
from esper.kasmina.cost import count_trainable
from esper.kasmina.gates import QualityGates
from esper.kasmina.host_costs import measure_host
from esper.kasmina.hosts.protocol import HostProtocol, InjectionPoint
from esper.kasmina.incubation import Incubation
from esper.kasmina.inputs import Inputs
from esper.kasmina.isolation import pass_straight_through, teach_residual
from esper.kasmina.lifecycle import Birth, Clock, Lifecycle
from esper.kasmina.pricing import price_module
from esper.kasmina.recomputing import RecomputeRule
from esper.kasmina.seed_state import SeedState
from esper.kasmina.seeded_build import build_seeded
from esper.kasmina.slot import NORMAL_PLAN, ForwardPlan, SeedSlot
from esper.kasmina.slot_report import build_report
from esper.kasmina.topology import hash_topology
from esper.leyline import (
    Action,
    ConfigError,
    Event,
    HostError,
    JsonValue,
    Layout,
    LifecycleOp,
    SeedStage,
    SlotReport,
    UnknownNameError,
)


@final
class MorphogeneticModel(nn.Module):
    """Host plus slots. Built once; later changes of topology go through `apply_action` or `restore`."""

    def __init__(
        self,
        host: nn.Module,
        sample: Inputs,
        *,
        registry: BlueprintRegistry,
        gates: QualityGates,
        lifecycle: LifecycleConfig,
        slots: Sequence[str] = (),
        points: Sequence[InjectionPoint] = (),
    ) -> None:
        """Attach a dormant slot to each growth point.

        Args:
            host: Any module, on its device; with `injection_points()` where none are given.
            sample: One batch on that device, at least one item; only shapes matter.
            registry: Blueprints that may be germinated.
            gates: Quality gates with the task's threshold.
            lifecycle: How seeds move.
            slots: Growth points to use; empty = all of them.
            points: Growth points; empty = those that the host declares.

        Raises:
            HostError: If the host declares no growth point, or one that its forward does not honour.
            UnknownNameError: If `slots` names a growth point that there is not.
        """
        super().__init__()
        points = _choose_points(points or _declared_points(host), slots)
        specs = probe_slots(host, points, sample)
        by_slot = {point.slot_id: point for point in points}
        self._paths = {spec.slot_id: by_slot[spec.slot_id].path for spec in specs}
        self.host = host
        self.registry = registry
        self.lifecycle = Lifecycle(lifecycle, gates)
        self.incubation = Incubation(
            lifecycle.incubation,
            residual_scale=lifecycle.residual_scale,
            residual_weight=lifecycle.residual_weight,
        )
        self.recompute = RecomputeRule()
        self.slots = nn.ModuleDict(
            {_key(spec.slot_id): SeedSlot(spec, by_slot[spec.slot_id].tap) for spec in specs}
        )
        self.slot_ids: tuple[str, ...] = tuple(spec.slot_id for spec in specs)
        for slot in self.each_slot():
            slot.teacher = pass_straight_through if self.incubation.is_in_graph else None
            slot.records_gradient = self.incubation.needs_host_gradient
        # In a tuple, because a module stored as an attribute would be registered a second time.
        self._forward_host: tuple[Callable[..., object]] = (host,)
        self.input_shape = tuple(sample.shape[1:]) if isinstance(sample, Tensor) else ()
        self.input_dtype = sample.dtype if isinstance(sample, Tensor) else torch.float32
        self._host_costs = measure_host(host, sample, self._paths, registry.prices)
        firsts = [None if spec.pair is None else spec.pair.first.path for spec in specs]
        attach_hooks(host, list(self._paths.values()), list(self.each_slot()), firsts)

    # ------------------------------------------------------------------ structure

    def each_slot(self) -> Iterator[SeedSlot]:
        """Yield the slots in forward order."""
        for module in self.slots.values():
            assert isinstance(module, SeedSlot)
            yield module

    def slot(self, slot_id: str) -> SeedSlot:
        """Return one slot.

        Raises:
            KeyError: If there is no such slot.
        """
        module = self.slots[_key(slot_id)]
        assert isinstance(module, SeedSlot)
        return module

    def path(self, slot_id: str) -> str:
        """Return the path of the module at a slot, in the host."""
        return self._paths[slot_id]

    @property
    def specs(self) -> tuple[SlotSpec, ...]:
        """What passes at each slot, in forward order."""
        return tuple(slot.spec for slot in self.each_slot())

    def host_parameters(self) -> dict[str, nn.Parameter]:
        """Return the host's parameters by qualified name ("host. ...")."""
        return {f"host.{name}": parameter for name, parameter in self.host.named_parameters()}

    def seed_parameters(self, slot_id: str) -> dict[str, nn.Parameter]:
        """Return the parameters of the seed in a slot by qualified name; empty without a seed."""
        prefix = f"slots.{_key(slot_id)}."
        return {prefix + name: parameter for name, parameter in self.slot(slot_id).named_parameters()}

    @property
    def num_params(self) -> int:
        """Trainable parameters of the host and of every seed that lives now."""
        return self.host_params + self.added_params

    @property
    def added_params(self) -> int:
        """Trainable parameters of every seed that lives now."""
        return sum(slot.state.num_params for slot in self.each_slot())

    @property
    def added_flops(self) -> int:
        """Forward FLOPs per item of every seed that affects the output now."""
        return sum(s.state.flops_per_item for s in self.each_slot() if s.state.stage.affects_output)

    @property
    def forward_flops(self) -> int:
        """Forward FLOPs per item of the network as it is now."""
        return self.host_flops + self.added_flops

    def tail_flops(self, slot_id: str) -> int:
        """Forward FLOPs per item from a slot (its seed included) to the end, live seeds included."""
        index = self.slot_ids.index(slot_id)
        later = [self.slot(other) for other in self.slot_ids[index:]]
        seeds = sum(s.state.flops_per_item for s in later if s.state.stage.affects_output)
        return self._host_costs.tail_flops[slot_id] + seeds

    @property
    def host_params(self) -> int:
        """Trainable parameters of the host alone."""
        return self._host_costs.num_params

    @property
    def host_flops(self) -> int:
        """Forward FLOPs per item of the host alone."""
        return self._host_costs.flops_per_item

    # ------------------------------------------------------------------ forward

    def forward(self, *args: object, **kwargs: object) -> object:
        """Run the host with its seeds on the host's own arguments; returns what the host returns."""
        return self._forward_host[0](*args, **kwargs)

    def teach_in_loop(self, weight: Tensor | None) -> None:
        """Let incubating seeds learn in loops that others run; nothing is recorded there.

        Args:
            weight: 0-dim float32 factor on the residual lesson (`kasmina.isolation.ResidualLesson`), read in
                every backward pass: the objective's weight times the loss scale, over the micro-batches of
                one step. None = they learn by the shadow objective, in passes that the loop's side runs.
        """
        scale, size = self.incubation.residual_scale, self.incubation.residual_weight
        name = "shadow" if weight is None else "residual"
        self.incubation = Incubation(name, residual_scale=scale, residual_weight=size)
        for slot in self.each_slot():
            slot.teacher = None if weight is None else partial(teach_residual, weight=weight, scale=scale)
            slot.is_always_taught, slot.records_gradient = weight is not None, False

    def compile_host(self, mode: str) -> None:
        """Compile the host's forward, hooks included; tails and measurements stay eager."""
        self._forward_host = (CompiledHost(self.host, tuple(self.each_slot()), mode),)

    @contextmanager
    def planned(self, plan: ForwardPlan) -> Iterator[None]:
        """Run forward passes under a plan; every slot is back to normal afterwards."""
        slots = tuple(self.each_slot())
        for slot in slots:
            slot.plan = plan
        try:
            yield
        finally:
            for slot in slots:
                slot.plan = NORMAL_PLAN

    @property
    def has_segments(self) -> bool:
        """Whether the tail after a slot can be run by itself."""
        return bool(self._host_costs.tails)

    def run_tail(self, slot_id: str, features: Tensor, inputs: Tensor) -> Tensor:
        """Return the network's output when the feature after a slot is `features`.

        Args:
            slot_id: The slot; its own seed is not applied again.
            features: [B, ...] as after the slot.
            inputs: The batch that the features came from; used only where the host has no segments.
        """
        if not self.has_segments:
            with self.planned(ForwardPlan(substitutes={slot_id: features})):
                out: Tensor = self.host(inputs)
            return out
        hidden = features
        for segment in self._host_costs.tails[slot_id]:
            hidden = segment(hidden)
        return hidden

    def update_alphas(self, batch: int) -> None:
        """Put every ramp at the batch clock."""
        for slot in self.each_slot():
            slot.follow_ramp(batch)

    def forget_records(self) -> None:
        """Drop what slots recorded in the last pass."""
        for slot in self.each_slot():
            slot.forget_records()

    # ------------------------------------------------------------------ growth

    def apply_action(self, action: Action, clock: Clock, *, build_seed: int) -> list[Event]:
        """Carry out one legal action.

        Args:
            action: Checked against the observation before (`leyline.refuse_action`).
            clock: Where the host stands.
            build_seed: Random seed for the new module's weights (GERMINATE only).

        Raises:
            IllegalTransitionError: If the lifecycle refuses; nothing was changed.
            KeyError: If the slot does not exist.
        """
        if action.op is LifecycleOp.WAIT or action.slot is None:
            return []
        slot = self.slot(action.slot)
        if action.op is LifecycleOp.GERMINATE:
            return self.lifecycle.germinate(slot, action, self._build_birth(slot, action, build_seed), clock)
        if action.op is LifecycleOp.ADVANCE:
            return self.lifecycle.advance(slot, clock)
        if action.op is LifecycleOp.FOSSILIZE:
            return self.lifecycle.fossilize(slot, clock)
        if action.op is LifecycleOp.SET_ALPHA:
            return self.lifecycle.retarget(slot, action, clock)
        return self.lifecycle.cull(
            slot, clock, "policy", tempo_epochs=action.tempo_epochs, curve=action.curve
        )

    def begin_epoch(self, clock: Clock) -> list[Event]:
        """Make the automatic moves that stand before training."""
        return [event for slot in self.each_slot() for event in self.lifecycle.begin_epoch(slot, clock)]

    def tick(self, clock: Clock) -> list[Event]:
        """Advance every slot's clock by one interval and make the moves that time alone makes."""
        return [event for slot in self.each_slot() for event in self.lifecycle.tick(slot, clock)]

    def cull_live(self, clock: Clock, reason: str, slots: Sequence[str] | None = None) -> list[Event]:
        """Cull every live seed (or those of the named slots) at once."""
        events: list[Event] = []
        for slot in self.each_slot():
            if slot.state.stage.is_live and (slots is None or slot.slot_id in slots):
                events += self.lifecycle.cull(slot, clock, reason)
        return events

    def _build_birth(self, slot: SeedSlot, action: Action, build_seed: int) -> Birth:
        blueprint = self.registry.get(str(action.blueprint))
        seed = build_seeded(lambda: _build_module(blueprint.build, slot.spec, action), build_seed)
        seed = seed.to(slot.spec.device, slot.spec.dtype)
        seed.train(self.host.training)
        seed.is_recomputed = self.recompute.applies_to(seed, slot.spec.seed_shape)
        return Birth(
            seed=seed,
            build_seed=build_seed,
            num_params=count_trainable(seed),
            flops_per_item=price_module(seed, slot.spec.seed_shape, self.registry.prices),
        )

    # ------------------------------------------------------------------ reports and state

    def reports(self) -> tuple[SlotReport, ...]:
        """Return one report per slot, in forward order."""
        gates = self.lifecycle.gates
        return tuple(build_report(slot, gates, self._family_in(slot)) for slot in self.each_slot())

    def _family_in(self, slot: SeedSlot) -> str | None:
        blueprint = slot.state.blueprint
        return None if blueprint is None else self.registry.get(blueprint).family

    def topology_hash(self) -> str:
        """Return the SHA-256 of the topology (see `kasmina.topology`)."""
        return hash_topology([slot.state for slot in self.each_slot()], dict(self.named_parameters()))

    def state(self) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
        """Return tensors by name and the slots' records; together with the host's config they rebuild it."""
        records: dict[str, JsonValue] = {slot.slot_id: slot.state.to_dict() for slot in self.each_slot()}
        return {name: tensor.detach() for name, tensor in self.state_dict().items()}, records

    def restore(self, tensors: Mapping[str, Tensor], records: Mapping[str, JsonValue]) -> None:
        """Put a saved topology and its weights back: topology first, then tensors, strictly by name.

        Raises:
            ValueError: If the records name other slots, a record is malformed, a blueprint is not in the
                registry, or names or shapes of tensors differ; the first difference is named.
        """
        if set(records) != set(self.slot_ids):
            raise ValueError(f"saved slots {sorted(records)} differ from the host's {sorted(self.slot_ids)}")
        for slot in self.each_slot():
            record = records[slot.slot_id]
            if not isinstance(record, dict):
                raise ValueError(f"slot {slot.slot_id!r}: its record is not an object")
            state = SeedState.from_dict(record)
            seed = None
            if state.stage.has_seed:
                action = Action(
                    op=LifecycleOp.GERMINATE, slot=state.slot, blueprint=state.blueprint, blend=state.blend
                )
                try:
                    seed = self._build_birth(slot, action, state.build_seed).seed
                except UnknownNameError as error:
                    raise ValueError(f"slot {slot.slot_id!r}: {error}") from error
            self.lifecycle.restore(slot, state, seed)
        own = self.state_dict()
        for name in sorted(own.keys() | tensors.keys()):
            saved, built = (_describe_tensor(part.get(name)) for part in (tensors, own))
            if saved != built:
                raise ValueError(f"tensor {name!r}: saved {saved}, the rebuilt network has {built}")
        self.load_state_dict(dict(tensors), strict=True)


def _describe_tensor(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"one of shape {list(tensor.shape)}"


def _declared_points(host: nn.Module) -> Sequence[InjectionPoint]:
    if not isinstance(host, HostProtocol) or not host.injection_points():
        raise HostError(f"{type(host).__name__} declares no injection_points(): nothing can grow in it")
    return host.injection_points()


def _choose_points(points: Sequence[InjectionPoint], slots: Sequence[str]) -> tuple[InjectionPoint, ...]:
    known = [point.slot_id for point in points]
    for slot_id in slots:
        if slot_id not in known:
            raise UnknownNameError("slot", slot_id, known)
    return tuple(point for point in points if not slots or point.slot_id in slots)


def find_incubating(model: MorphogeneticModel) -> list[SeedSlot]:
    """Return the slots whose seeds incubate now, in forward order."""
    return [slot for slot in model.each_slot() if slot.state.stage is SeedStage.TRAINING]


def _build_module(build: Callable[[SlotSpec], nn.Module], spec: SlotSpec, action: Action) -> Seed:
    channel_dim = -1 if spec.layout is Layout.SEQUENCE else 1
    refusal = spec.refuse_blend(action.blend)
    if refusal is not None:
        raise ConfigError(refusal)
    return build_seed(build(spec), action.blend, spec.num_channels, channel_dim, len(spec.shape) - 1)


def _key(slot_id: str) -> str:
    return slot_id.replace(".", "/")
