"""Who may ask: foreign names, sites, methods, bodies and tokens are refused before anything is looked up."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from battery_rows import BatteryRecord
from esper.cli.dashboard.guard import MAX_TARGET_CHARS, Access, Guard, is_own_host, token_of

ADDRESS = "http://localhost:8521"


class Counted:
    """An application behind the guard that counts what reaches it."""

    def __init__(self) -> None:
        self.num_reached = 0
        self.access = Access()
        self.app = Guard(
            Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST"])]), self.access
        )

    def answer(self, request: object) -> PlainTextResponse:
        self.num_reached += 1
        return PlainTextResponse("reached")

    def client(self, **headers: str) -> TestClient:
        return TestClient(self.app, base_url=ADDRESS, headers=headers, follow_redirects=False)

    def cookie(self) -> dict[str, str]:
        return {"cookie": f"{self.access.cookie_name}={self.access.cookie}"}


@pytest.fixture
def counted() -> Counted:
    return Counted()


@pytest.mark.battery("T49")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:8521"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "127.0.0.2"}, 403),
        ({"host": "localhost:x"}, 403),
        ({"host": "localhost:8521@evil.example"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://localhost:8521"}, 403),
        ({"origin": "http://localhost:9999"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "anything"}, 403),
        ({"content-length": "10000000"}, 413),
        ({"transfer-encoding": "chunked"}, 413),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/stream", "/static/main.js"])
def test_a_foreign_request_is_refused_even_with_the_cookie(
    headers: dict[str, str], status: int, path: str, counted: Counted, battery: BatteryRecord
) -> None:
    answer = counted.client(**counted.cookie()).get(path, headers=headers)
    battery.record(failures=int(answer.status_code != status or counted.num_reached > 0))
    assert answer.status_code == status
    assert counted.num_reached == 0


@pytest.mark.battery("T49")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_but_reading_is_answered(method: str, counted: Counted, battery: BatteryRecord) -> None:
    answer = counted.client(**counted.cookie(), origin=ADDRESS).request(method, "/api/runs")
    battery.record(failures=int(answer.status_code != 405))
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert counted.num_reached == 0


@pytest.mark.battery("T49")
@pytest.mark.parametrize("given_token", ["", "wrong", "\u00e9", "a" * 5_000])
def test_no_token_or_a_wrong_one_is_refused(
    given_token: str, counted: Counted, battery: BatteryRecord
) -> None:
    answers = [
        counted.client().get("/"),
        counted.client().get("/", params={"token": given_token}),
        counted.client(authorization=f"Bearer {given_token[:40].encode('ascii', 'ignore').decode()}").get(
            "/"
        ),
        counted.client(cookie=f"{counted.access.cookie_name}=wrong").get("/"),
        counted.client(cookie=f"esper_0000={counted.access.cookie}").get("/"),
        counted.client(**counted.cookie()).get("/api/runs", params={"token": counted.access.token}),
    ]
    codes = [answer.status_code for answer in answers]
    battery.record(n=len(codes), failures=sum(code not in (401, 414) for code in codes))
    assert all(code in (401, 414) for code in codes)
    assert counted.num_reached == 0
    assert all(counted.access.token not in answer.text for answer in answers)


def test_the_printed_address_becomes_a_cookie_and_an_address_without_the_token(counted: Counted) -> None:
    answer = counted.client(**{"sec-fetch-site": "none"}).get("/", params={"token": counted.access.token})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"esper_{counted.access.server_id}=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert counted.access.token not in cookie
    assert counted.num_reached == 0


@pytest.mark.parametrize("site", ["same-origin", "none", None])
def test_the_page_itself_and_a_person_get_through(site: str | None, counted: Counted) -> None:
    headers = counted.cookie() | ({} if site is None else {"sec-fetch-site": site})
    assert counted.client(**headers).get("/api/runs").status_code == 200
    assert counted.client(**headers, origin=ADDRESS).get("/api/runs").status_code == 200
    assert counted.client(authorization=f"Bearer {counted.access.token}").get("/api/runs").status_code == 200


def test_every_answer_carries_the_headers_of_a_closed_page(counted: Counted) -> None:
    for answer in (counted.client().get("/"), counted.client(**counted.cookie()).get("/")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.battery("T49")
def test_an_address_that_is_too_long_is_refused(counted: Counted, battery: BatteryRecord) -> None:
    answer = counted.client(**counted.cookie()).get("/" + "a" * MAX_TARGET_CHARS)
    battery.record(failures=int(answer.status_code != 414))
    assert answer.status_code == 414


@pytest.mark.battery("T49")
@pytest.mark.parametrize("origin", ["http://evil.example", "null", ADDRESS])
def test_a_web_socket_is_never_opened(origin: str, counted: Counted, battery: BatteryRecord) -> None:
    client = counted.client(**counted.cookie(), origin=origin)
    battery.record()
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/stream"):
        pass


def test_secrets_are_long_new_every_time_and_not_shown() -> None:
    first, second = Access(), Access()
    assert len({first.token, second.token, first.cookie, second.cookie}) == 4
    assert len(first.token) * 6 >= 128
    assert first.cookie_name != second.cookie_name
    assert first.token not in repr(first)
    assert first.cookie not in repr(first)


@pytest.mark.battery("T49")
@given(st.text(alphabet=string.ascii_lowercase + string.digits + ".:[]@-/\\%", max_size=30))
def test_only_loopback_names_are_own(host: str) -> None:
    if is_own_host(host, Access()):
        assert host.startswith(("localhost", "127.0.0.1", "[::1]"))
        assert host.rpartition(":")[2].isdigit() or host in (
            "localhost",
            "127.0.0.1",
            "[::1]",
            "localhost:",
            "127.0.0.1:",
            "[::1]:",
        )


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8521", "[::1]", "[::1]:99"])
def test_a_tunnel_may_end_at_any_port(host: str) -> None:
    assert is_own_host(host, Access())


def test_a_server_for_other_machines_takes_addresses_but_no_foreign_name() -> None:
    access = Access(accepts_addresses=True)
    assert is_own_host("192.0.2.7:8521", access)
    assert is_own_host("[2001:db8::1]:8521", access)
    assert not is_own_host("evil.example", access)


@pytest.mark.parametrize(
    ("query", "token"),
    [
        (b"", None),
        (b"token=a", "a"),
        (b"x=1&token=b", "b"),
        (b"token", None),
        (b"atoken=1", None),
        (b"\xff&token=c", "c"),
    ],
)
def test_the_token_is_found_in_a_query(query: bytes, token: str | None) -> None:
    assert token_of(query) == token
