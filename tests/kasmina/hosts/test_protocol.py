from __future__ import annotations

from torch import nn

from esper.kasmina import HostProtocol, InjectionPoint, SegmentedHost
from kasmina.growing import make_cnn, make_mlp, make_transformer


class _PointsOnly(nn.Module):
    def injection_points(self) -> tuple[InjectionPoint, ...]:
        return ()


def test_builtin_hosts_are_segmented_hosts() -> None:
    for host in (make_cnn(), make_mlp(), make_transformer()):
        assert isinstance(host, HostProtocol)
        assert isinstance(host, SegmentedHost)


def test_a_host_needs_no_segments_and_no_base_class() -> None:
    assert isinstance(_PointsOnly(), HostProtocol)
    assert not isinstance(_PointsOnly(), SegmentedHost)
    assert not isinstance(nn.Linear(2, 2), HostProtocol)


def test_every_point_names_a_segment() -> None:
    for host in (make_cnn(), make_mlp(), make_transformer()):
        names = [name for name, _ in host.segments()]
        assert all(point.path in names for point in host.injection_points())
