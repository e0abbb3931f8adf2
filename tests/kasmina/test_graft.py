"""A stranger's grown model leaves without anything of ours, equal to itself, keys and hooks in their places.

Shows `kasmina.surgery` and `kasmina.attachments` at work as well.
"""

from __future__ import annotations

import copy
import pickle  # noqa: TID251 - users pickle modules, and an export must bear it
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx, nn

from esper.kasmina import (
    MAX_DIFFERENCE,
    BlueprintSpec,
    InjectionPoint,
    PointWishes,
    SlotSpec,
    builtin_registry,
    count_trainable,
    export_grafted,
)
from esper.leyline import BlendForm, ExportError, Layout, SeedStage, UnknownNameError
from kasmina.grafting import (
    IMAGES,
    TOKENS,
    count_params,
    furthest,
    grown,
    grown_encoder,
    grown_resnet,
    slotted,
    without_grafts,
)
from kasmina.growing import draw, grow, make_clock, make_model, stir
from kasmina.strangers import Encoder, Pair, Patches, SmallResNet, Wave, build


@pytest.mark.parametrize("blend", list(BlendForm))
@pytest.mark.parametrize(
    "blueprint", ["attention", "depthwise", "conv_light", "conv_heavy", "bottleneck", "norm", "noop"]
)
def test_a_host_with_control_flow_leaves_equal(blueprint: str, blend: BlendForm) -> None:
    model = grown(build(SmallResNet), IMAGES, PointWishes(at=("stages.*",)), (blueprint,), blend=blend)
    exported = export_grafted(model, IMAGES)
    assert exported.largest_difference <= MAX_DIFFERENCE
    for size in (1, 5):  # the host goes another way with one item
        assert furthest(exported.module, model.eval(), draw(size, 3, 16, 16, seed=9)) <= MAX_DIFFERENCE
    if blueprint != "noop":
        assert furthest(exported.module, build(SmallResNet).eval(), IMAGES) > 1e-3


@pytest.mark.parametrize("blueprint", ["mlp", "mlp_small", "low_rank", "norm", "noop"])
@pytest.mark.parametrize("blend", list(BlendForm))
def test_flat_features_leave_equal(blueprint: str, blend: BlendForm) -> None:
    host = nn.Sequential(OrderedDict(body=nn.Linear(6, 8), act=nn.ReLU(), head=nn.Linear(8, 3)))
    model = grown(host, draw(4, 6), PointWishes(at=("body",)), (blueprint,), blend=blend)
    exported = export_grafted(model, draw(4, 6))
    assert furthest(exported.module, model.eval(), draw(7, 6, seed=3)) <= MAX_DIFFERENCE


@pytest.mark.parametrize("blend", list(BlendForm))
def test_an_encoder_layer_keeps_its_mask_and_its_tuple(blend: BlendForm) -> None:
    wishes = PointWishes(at=("layers.*",), layout="nld", select=0)
    model = grown(build(Encoder), TOKENS, wishes, ("norm",), blend=blend)
    exported = export_grafted(model, TOKENS)
    graft = exported.module.get_submodule("layers.0")
    assert isinstance(graft, fx.GraphModule)
    assert "def forward(self, hidden, mask = None)" in graft.code
    assert exported.grafts[0].arguments == ("hidden", "mask")
    assert furthest(exported.module, model.eval(), TOKENS) <= MAX_DIFFERENCE
    unmasked = {"input_ids": TOKENS["input_ids"][:2]}
    assert furthest(exported.module, model.eval(), unmasked) <= MAX_DIFFERENCE
    assert furthest(exported.module, exported.module, TOKENS) == 0.0
    masked, plain = (exported.module(**inputs)["logits"][:2] for inputs in (TOKENS, unmasked))
    assert not torch.allclose(masked, plain)  # so that the mask did pass


@pytest.mark.parametrize(
    ("host", "sample", "wishes", "blueprint"),
    [
        (Wave, draw(3, 1, 12), PointWishes(at=("conv1",), layout="ncl"), "norm"),
        (Patches, draw(3, 3, 8, 8), PointWishes(at=("mix",), layout="nhwc"), "conv_light"),
        (Patches, draw(3, 3, 8, 8), PointWishes(at=("embed",)), "bottleneck"),
    ],
)
def test_axes_of_every_order_leave_equal(
    host: type[nn.Module], sample: Tensor, wishes: PointWishes, blueprint: str
) -> None:
    model = grown(build(host), sample, wishes, (blueprint,))
    assert furthest(export_grafted(model, sample).module, model.eval(), 2 * sample) <= MAX_DIFFERENCE


class _Returning(nn.Module):
    """Returns its feature in whatever it is given to wrap it in."""

    def __init__(self, wrap: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.body, self.wrap = nn.Linear(6, 8), wrap

    def forward(self, x: Tensor) -> object:
        return self.wrap(self.body(x))


class _Unwrapping(nn.Module):
    """Uses what `_Returning` returns, and returns its kind beside the logits."""

    def __init__(self, wrap: Callable[[Tensor], object], select: int | str) -> None:
        super().__init__()
        self.inner, self.head, self.select = _Returning(wrap), nn.Linear(8, 3), select
        self.kinds: list[type] = []

    def forward(self, x: Tensor) -> tuple[Tensor, object]:
        out = self.inner(x)
        self.kinds.append(type(out))
        return self.head(torch.relu(out[self.select])), out  # type: ignore[index]


class _Named(OrderedDict[str, Tensor]):
    """A mapping whose attributes are its items."""

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]


@pytest.mark.parametrize(
    ("wrap", "select"),
    [
        (lambda h: (h, h + 1), 0),
        (lambda h: (h + 1, h), 1),
        (lambda h: (h + 1, h, h + 2), 1),
        (lambda h: (h + 1, h), -1),
        (lambda h: [h, h + 1], 0),
        (lambda h: Pair(h, 3), 0),
        (lambda h: {"hidden": h, "other": h + 1}, "hidden"),
        (lambda h: OrderedDict(other=h + 1, hidden=h), "hidden"),
        (lambda h: _Named(other=h + 1, hidden=h), "hidden"),
    ],
)
def test_outputs_of_every_kind_stay_what_they_are(
    wrap: Callable[[Tensor], object], select: int | str
) -> None:
    point = InjectionPoint(slot_id="s", path="inner", layout=Layout.FLAT, num_channels=8, select=select)
    model = make_model(_Unwrapping(wrap, select), sample=draw(2, 6), points=(point,))
    grow(model, "s", SeedStage.FOSSILIZED, blueprint="mlp")
    exported = export_grafted(model, draw(2, 6))
    host, left = model.host, exported.module
    assert isinstance(host, _Unwrapping)
    assert isinstance(left, _Unwrapping)
    assert furthest(left, model.eval(), draw(5, 6, seed=2)) <= MAX_DIFFERENCE
    assert left.kinds[-1] is host.kinds[-1]


def test_nested_and_doubled_slots_leave_in_the_order_of_the_hooks() -> None:
    model = grown_resnet("conv_light", "norm", "bottleneck", at=("stages.0.1", "stages.0", "stages.1"))
    exported = export_grafted(model, IMAGES)
    assert furthest(exported.module, model.eval(), IMAGES + 1) <= MAX_DIFFERENCE
    points = tuple(
        InjectionPoint(slot_id=name, path="inner", layout=Layout.FLAT, num_channels=8, select=place)
        for place, name in enumerate(("first", "second"))
    )
    model = make_model(_Unwrapping(lambda h: (h, h + 1), 1), sample=draw(2, 6), points=points)
    for name in ("first", "second"):
        grow(model, name, SeedStage.FOSSILIZED, blueprint="mlp")
    exported = export_grafted(model, draw(2, 6))
    assert furthest(exported.module, model.eval(), draw(3, 6)) <= MAX_DIFFERENCE
    assert {name.split(".")[1] for name in exported.tensors("host+extra") if name.startswith("grafts.")} == {
        "first",
        "second",
    }


class _Aliased(nn.Module):
    """The same layer under two names, called by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.alias = nn.ModuleList([self.body])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.alias[0](x)))
        return out


def test_a_module_under_two_paths_is_replaced_under_both() -> None:
    model = grown(build(_Aliased), draw(2, 6), PointWishes(at=("body",)), ("mlp",))
    exported = export_grafted(model, draw(2, 6))
    assert exported.module.get_submodule("body") is exported.module.get_submodule("alias.0")
    assert exported.grafts[0].paths == ("body", "alias.0")
    build(_Aliased).load_state_dict(without_grafts(dict(exported.tensors("host+extra"))), strict=True)


def test_only_the_users_classes_and_torchs_leave() -> None:
    exported = export_grafted(grown_resnet("attention", "norm"), IMAGES)
    for part in exported.module.modules():
        assert not type(part).__module__.startswith("esper")
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            assert not hooks
    assert not any(part.training for part in exported.module.modules())
    assert all(parameter.grad is None for parameter in exported.module.parameters())


def test_frozen_parameters_stay_frozen_and_all_parameters_are_there() -> None:
    model = grown_resnet()
    for parameter in model.host.get_submodule("stem").parameters():
        parameter.requires_grad_(False)
    exported = export_grafted(model, IMAGES)
    assert count_params(exported.module) == count_params(model)
    assert count_trainable(exported.module) == count_trainable(model)


def test_the_host_class_loads_its_old_keys_and_seeds_lie_beside() -> None:
    exported = export_grafted(grown_resnet("conv_light", at=("stages.0", "stages.0.1", "neck")), IMAGES)
    tensors = dict(exported.tensors("host+extra"))
    build(SmallResNet).load_state_dict(without_grafts(tensors), strict=True)
    assert len(tensors) == len(exported.tensors())
    assert "grafts.neck.branch.0.weight" in tensors
    with pytest.raises(UnknownNameError, match="host\\+extra"):
        exported.tensors("host")


def test_the_model_is_left_as_it_is_and_shares_nothing() -> None:
    model = grown_resnet()
    model.train()
    loss = model(IMAGES).sum()  # type: ignore[attr-defined]
    loss.backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exported = export_grafted(model, IMAGES)
    stir(exported.module)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is not None for parameter in model.host.parameters())


def test_a_recorded_pass_does_not_keep_a_model_from_leaving() -> None:
    model = grown_resnet(at=("stages.0",))
    model.slot("stages.0").captured = 2 * draw(2, 3).requires_grad_()
    assert export_grafted(model, IMAGES).largest_difference <= MAX_DIFFERENCE


# ---------------------------------------------------------------------- what is not finished


@pytest.mark.parametrize(
    "stage", [SeedStage.GERMINATED, SeedStage.TRAINING, SeedStage.BLENDING, SeedStage.PROBATIONARY]
)
def test_a_live_seed_is_refused_by_name_or_left_out(stage: SeedStage) -> None:
    model = slotted(build(SmallResNet), IMAGES, PointWishes(at=("stages.*",)))
    grow(model, "stages.0", SeedStage.FOSSILIZED)
    grow(model, "stages.1", stage)
    with pytest.raises(ExportError, match=rf"stages\.1 \({stage.value}\).*allow_unfinished=True"):
        export_grafted(model, IMAGES)
    exported = export_grafted(model, IMAGES, allow_unfinished=True)
    assert [graft.slot for graft in exported.grafts] == ["stages.0"]
    only = slotted(build(SmallResNet), IMAGES, PointWishes(at=("stages.*",)))
    grow(only, "stages.0", SeedStage.FOSSILIZED)
    assert furthest(exported.module, only.eval(), IMAGES) <= MAX_DIFFERENCE
    assert model.slot("stages.1").state.stage is stage


def test_dormant_and_cooling_slots_leave_no_trace() -> None:
    model = slotted(build(SmallResNet), IMAGES, PointWishes(at=("stages.*",)))
    grow(model, "stages.1", SeedStage.TRAINING)
    model.cull_live(make_clock(2), "test")
    exported = export_grafted(model, IMAGES)
    assert exported.grafts == ()
    assert repr(exported.module) == repr(build(SmallResNet))
    assert exported.largest_difference == 0.0


# ---------------------------------------------------------------------- the user's own hooks


def test_the_users_hooks_stay_and_see_what_they_saw() -> None:
    host = build(SmallResNet)
    seen: list[str] = []
    block = host.get_submodule("stages.0")
    block.register_forward_hook(lambda module, args, out: out + 1.0)
    model = slotted(host, IMAGES, PointWishes(at=("stages.0",)))
    block.register_forward_hook(lambda module, args, out: 2.0 * out)
    block.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(type(module).__name__), with_kwargs=True
    )
    grow(model, "stages.0", SeedStage.FOSSILIZED)
    exported = export_grafted(model, IMAGES)
    assert furthest(exported.module, model.eval(), IMAGES + 1) <= MAX_DIFFERENCE
    assert len(seen) >= 3
    assert len(block._forward_hooks) == 4  # the model's own, ours included, are where they were


def test_a_hook_that_changes_arguments_is_handed_what_the_host_gave() -> None:
    host = build(Encoder)
    layer = host.get_submodule("layers.1")

    def without_mask(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]]:
        return args, {}

    layer.register_forward_pre_hook(without_mask, with_kwargs=True)
    wishes = PointWishes(at=("layers.1",), layout="nld", select=0)
    model = grown(host, TOKENS, wishes, ("norm",))
    exported = export_grafted(model, TOKENS)
    assert exported.grafts[0].arguments == ("hidden", "mask")
    assert furthest(exported.module, model.eval(), TOKENS) <= MAX_DIFFERENCE


# ---------------------------------------------------------------------- copies


def _by_pickle(module: nn.Module) -> nn.Module:
    again = pickle.loads(pickle.dumps(module))  # noqa: S301 - what was pickled a moment ago
    assert isinstance(again, nn.Module)
    return again


@pytest.mark.parametrize("duplicate", [copy.deepcopy, _by_pickle])
def test_copies_of_an_export_are_equal(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    for model, inputs in ((grown_resnet("norm", "attention"), IMAGES), (grown_encoder(), TOKENS)):
        exported = export_grafted(model, inputs).module
        assert furthest(duplicate(exported), exported, inputs) == 0.0


class _Peeking(nn.Module):
    """Reads a word off its layer, as decoders do that mix kinds of attention, or a whole layer inside it."""

    def __init__(self, *, looks_inside: bool = False) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Linear(8, 3)
        self.body.kind = "wide"  # type: ignore[assignment]
        self.looks_inside = looks_inside

    def forward(self, x: Tensor) -> Tensor:
        assert self.body.kind == "wide"
        hidden = self.body(x)
        if self.looks_inside:
            hidden = hidden + self.body[0].bias
        out: Tensor = self.head(hidden)
        return out


def test_a_word_on_a_layer_can_be_read_off_its_graft_and_off_a_copy_of_it() -> None:
    model = grown(build(_Peeking), draw(2, 6), PointWishes(at=("body",)), ("mlp",))
    exported = export_grafted(model, draw(2, 6)).module
    assert furthest(copy.deepcopy(exported), model.eval(), draw(2, 6)) <= MAX_DIFFERENCE


def test_a_host_that_looks_into_its_target_is_refused_with_a_way_out() -> None:
    host = _Peeking(looks_inside=True)
    model = grown(host, draw(2, 6), PointWishes(at=("body",)), ("mlp",))
    with pytest.raises(ExportError, match=r"does not run.*\(body\).*inside that module"):
        export_grafted(model, draw(2, 6))


# ---------------------------------------------------------------------- what cannot leave


class _Counting(nn.Module):
    """Returns something else in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.calls = nn.Linear(6, 8), nn.Linear(8, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.head(self.body(x)) + self.calls
        return out


def test_an_export_that_differs_is_refused() -> None:
    model = grown(_Counting(), draw(2, 6), PointWishes(at=("body",)), ("mlp",))
    with pytest.raises(ExportError, match=r"differs by 1\.00e\+00.*grown modules as body"):
        export_grafted(model, draw(2, 6))


class _Hiding(nn.Module):
    """Calls its layer by a reference that no module knows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.hidden = [self.body]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.hidden[0](x))
        return out


def test_a_target_that_is_called_past_its_paths_is_found() -> None:
    model = grown(_Hiding(), draw(2, 6), PointWishes(at=("body",)), ("mlp",))
    with pytest.raises(ExportError, match="differs by"):
        export_grafted(model, draw(2, 6))


def test_a_host_that_cannot_be_copied_is_refused() -> None:
    model = grown(_Counting(), draw(2, 6), PointWishes(at=("body",)), ("mlp",))
    model.host.cache = draw(2).requires_grad_() * 2  # type: ignore[assignment]
    with pytest.raises(ExportError, match=r"_Counting cannot be copied.*drop what it holds"):
        export_grafted(model, draw(2, 6))


@dataclass
class _Record:
    logits: Tensor


class _Recording(_Counting):
    def forward(self, x: Tensor) -> _Record:  # type: ignore[override]
        return _Record(self.head(self.body(x)))


class _Silent(_Counting):
    def forward(self, x: Tensor) -> float:  # type: ignore[override]
        return float(self.head(self.body(x)).sum())


def test_dataclasses_are_compared_and_outputs_without_a_tensor_refused() -> None:
    model = grown(_Recording(), draw(2, 6), PointWishes(at=("body",)), ("mlp",))
    exported = export_grafted(model, draw(2, 6))
    assert exported.largest_difference <= MAX_DIFFERENCE
    with pytest.raises(ExportError, match="returns float, in which no tensor is found"):
        export_grafted(grown(_Silent(), draw(2, 6), PointWishes(at=("body",)), ("mlp",)), draw(2, 6))


# ---------------------------------------------------------------------- blueprints of users


class _Deciding(nn.Module):
    """A branch that looks at values, which no tracer follows."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.up = nn.Linear(num_channels, num_channels)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.up(h) if h.is_meta or float(h.sum()) > 0 else -self.up(h)
        return out


class _Plain(nn.Module):
    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.up = nn.Linear(num_channels, num_channels)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.up(h))
        return out


@pytest.mark.parametrize(("kind", "stays"), [(_Deciding, True), (_Plain, False)])
def test_a_users_branch_is_traced_or_stays_the_users_module(kind: type[nn.Module], stays: bool) -> None:
    registry = builtin_registry().extended()

    def make_branch(spec: SlotSpec) -> nn.Module:
        return kind(spec.num_channels)

    registry.add(
        BlueprintSpec(
            id="mine",
            family="mine",
            layouts=frozenset({Layout.FLAT}),
            build=make_branch,
            count_params=lambda spec: spec.num_channels * (spec.num_channels + 1),
        )
    )
    host = nn.Sequential(OrderedDict(body=nn.Linear(6, 8), act=nn.ReLU(), head=nn.Linear(8, 3)))
    model = grown(host, draw(4, 6), PointWishes(at=("body",)), ("mine",), registry=registry)
    exported = export_grafted(model, draw(4, 6))
    for seed in range(4):
        assert furthest(exported.module, model.eval(), draw(3, 6, seed=seed)) <= MAX_DIFFERENCE
    assert any(type(part) is kind for part in exported.module.modules()) is stays


# ---------------------------------------------------------------------- hosts of ours


def test_a_host_of_this_package_is_traced_as_a_whole() -> None:
    model = make_model()
    grow(model, "block2", SeedStage.FOSSILIZED)
    exported = export_grafted(model, draw(4, 3, 8, 8), merge=True)
    assert isinstance(exported.module, fx.GraphModule)
    assert [kept.slot for kept in exported.kept] == ["block2"]
    tensors = dict(exported.tensors("host+extra"))
    copy.deepcopy(model.host).load_state_dict(without_grafts(tensors), strict=False)
    assert set(without_grafts(tensors)) <= set(model.host.state_dict())
    assert "grafts.block2.branch.0.weight" in tensors
    with pytest.raises(ExportError, match="traced as a whole"):
        export_grafted(model, {"inputs": draw(4, 3, 8, 8)})
