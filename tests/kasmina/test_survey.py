from __future__ import annotations

import pytest
import torch
from torch import nn

from esper.kasmina import Arrangement
from esper.kasmina.survey import find_arrangements, refuse_wrapped, survey_host
from esper.leyline import HostError
from kasmina.growing import draw, make_mlp
from kasmina.strangers import Encoder, Patches, Shared, SmallResNet, Wave, build


def _arrangements(host: nn.Module, inputs: object, path: str) -> tuple[Arrangement, ...]:
    survey = survey_host(host, inputs)  # type: ignore[arg-type]
    call = survey.calls[path]
    feature = next(f for f in call.features if f.is_floating)
    return find_arrangements(call, feature, survey.num_items)


def test_calls_are_counted_and_what_is_never_called_is_named() -> None:
    survey = survey_host(build(Shared), draw(3, 4))
    assert survey.calls["again"].num_calls == 3
    assert survey.calls["once"].num_calls == 1
    assert survey.uncalled == ("never",)
    assert survey.num_items == 3


def test_modules_come_in_the_order_in_which_they_return() -> None:
    survey = survey_host(build(SmallResNet), draw(2, 3, 8, 8))
    order = [
        path for path in survey.calls if path in ("stem", "stages.0", "stages", "neck", "fc", "stages.1.0")
    ]
    assert order == ["stem", "stages.0", "stages.1.0", "stages", "neck", "fc"]


def test_the_same_tensor_has_one_identity_wherever_it_comes_out() -> None:
    survey = survey_host(build(SmallResNet), draw(2, 3, 8, 8))
    identity = {
        path: survey.calls[path].features[0].identity for path in ("stages", "stages.1", "stages.1.1")
    }
    assert len(set(identity.values())) == 1
    assert survey.calls["fc"].features[0].identity in survey.final_tensors
    assert survey.calls["neck"].features[0].identity not in survey.final_tensors


def test_a_survey_leaves_modes_statistics_and_hooks_as_they_were() -> None:
    host = build(SmallResNet)
    host.get_submodule("stem").eval()
    before = {name: value.clone() for name, value in host.state_dict().items()}
    modes = [module.training for module in host.modules()]
    survey_host(host, draw(2, 3, 8, 8))
    assert [module.training for module in host.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in host.state_dict().items())
    assert not any(module._forward_hooks for module in host.modules())


@pytest.mark.parametrize(
    ("host", "inputs", "path", "expected"),
    [
        (SmallResNet, draw(2, 3, 8, 8), "stages.0", Arrangement.NCHW),
        (SmallResNet, draw(2, 3, 8, 8), "neck", Arrangement.NCHW),
        (Patches, draw(2, 3, 8, 8), "embed", Arrangement.NCHW),
        (Patches, draw(2, 3, 8, 8), "mix", Arrangement.NHWC),
        (Wave, draw(2, 1, 9), "conv2", Arrangement.NCL),
        (Encoder, {"input_ids": torch.zeros(2, 5, dtype=torch.int64)}, "layers.0", Arrangement.NLD),
        (Shared, draw(3, 4), "once", Arrangement.FLAT),
    ],
)
def test_axes_follow_from_what_the_layers_say(
    host: type[nn.Module], inputs: object, path: str, expected: Arrangement
) -> None:
    assert _arrangements(build(host), inputs, path) == (expected,)


def test_time_first_is_told_by_the_place_of_the_items() -> None:
    assert _arrangements(_TimeFirst(), draw(2, 7, 3), "mix") == (Arrangement.LND,)
    assert _arrangements(_TimeFirst(), draw(2, 2, 3), "mix") == (Arrangement.NLD, Arrangement.LND)


def test_where_nothing_decides_every_possibility_is_returned() -> None:
    host = nn.Sequential(_Cube(), nn.Flatten(), nn.Linear(16, 2))
    assert _arrangements(host, draw(2, 16), "0") == (Arrangement.NCL, Arrangement.NLD)


def test_other_ranks_and_features_without_items_have_no_arrangement() -> None:
    host = nn.Sequential(nn.Unflatten(1, (2, 2, 2, 2)), nn.Flatten(), nn.Linear(16, 2))
    assert _arrangements(host, draw(2, 16), "0") == ()
    assert _arrangements(nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (4, 8))), draw(2, 16), "1") == ()


@pytest.mark.parametrize("name", ["DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"])
def test_a_wrapped_host_is_refused_with_the_order_that_works(name: str) -> None:
    wrapped = type(name, (nn.Module,), {})()
    with pytest.raises(HostError, match=f"wrapped in {name}.*grow host.module"):
        refuse_wrapped(wrapped)


def test_a_host_compiled_in_place_is_refused() -> None:
    host = make_mlp()
    host._compiled_call_impl = host._call_impl  # what Module.compile() leaves, without compiling
    with pytest.raises(HostError, match=r"already compiled.*attach the slots to the plain module first"):
        refuse_wrapped(host)


def test_a_scripted_host_is_refused() -> None:
    with pytest.warns(DeprecationWarning, match="jit"):
        scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(HostError, match="keeps no hooks"):
        refuse_wrapped(scripted)


def test_a_host_that_does_not_take_the_sample_says_why() -> None:
    with pytest.raises(
        HostError, match=r"Encoder does not take inputs of shape wrong \[2, 5\].*unexpected keyword"
    ):
        survey_host(build(Encoder), {"wrong": torch.zeros(2, 5, dtype=torch.int64)})


class _TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.mix(x.transpose(0, 1)).mean(0))
        return out


class _Cube(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, 4, 4)


def test_a_host_that_asserts_something_about_its_inputs_is_quoted() -> None:
    class Blocks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._assert(x.shape[-1] % 8 == 0, "width must be a multiple of 8")  # type: ignore[no-untyped-call]
            return x

    with pytest.raises(
        HostError, match=r"Blocks does not take inputs of shape \(3, 4\): width must be a multi"
    ):
        survey_host(Blocks(), torch.zeros(2, 3, 4))
