"""Names that the page answers to, over HTTP and WebSocket: DNS rebinding gets nothing."""

from __future__ import annotations

import json

import pytest

from tests.engine.serve.browser import serving

FOREIGN = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.7.7", "[2001:db8::1]", ""]
LOCAL = ["localhost", "localhost:8000", "LOCALHOST", "127.0.0.1:8000", "[::1]:8000", "[::1]"]


@pytest.fixture
def make_client(runner, clip_folder, tmp_path):
    def make(**options):
        from fastapi.testclient import TestClient

        from engine.serve.app import create_app
        from engine.serve.clips import ClipStore

        return TestClient(create_app(runner, ClipStore(clip_folder, tmp_path, 1000), **options))

    return make


def answers(client, host: str, origin: str | None = None) -> tuple[bool, bool]:
    """Whether it answers over HTTP, and over a WebSocket opened by a page of `origin` (of the same host, if it is not given)."""
    from starlette.testclient import WebSocketDenialResponse
    from starlette.websockets import WebSocketDisconnect

    status = client.get("/api/info", headers={"host": host}).status_code
    try:
        with client.websocket_connect("/api/track", headers={"host": host, "origin": origin or f"http://{host}"}) as socket:
            socket.send_text("{}")
            opened = json.loads(socket.receive_text())["type"] == "error"
    except (WebSocketDisconnect, WebSocketDenialResponse):
        opened = False
    assert status in (200, 400)
    return status == 200, opened


@pytest.mark.parametrize("host", FOREIGN)
def test_foreign_names_are_refused_although_page_and_host_agree(make_client, host):
    assert answers(make_client(), host) == (False, False)


@pytest.mark.parametrize("host", LOCAL)
def test_this_machine_is_answered(make_client, host):
    assert answers(make_client(), host) == (True, True)


def test_the_bound_address_is_answered(make_client):
    assert answers(make_client(bound="192.168.7.7"), "192.168.7.7:8000") == (True, True)
    assert answers(make_client(bound="2001:db8::1"), "[2001:db8::1]:8000") == (True, True)
    assert answers(make_client(bound="Camera-Host"), "camera-host:8000") == (True, True)
    assert answers(make_client(bound="192.168.7.7"), "192.168.7.8:8000") == (False, False)


@pytest.mark.parametrize("bound", ["0.0.0.0", "::"])
def test_listening_on_all_addresses_answers_addresses_and_no_names(make_client, bound):
    client = make_client(bound=bound)
    assert answers(client, "192.168.7.7:8000") == (True, True)
    assert answers(client, "[2001:db8::1]:8000") == (True, True)
    assert answers(client, "evil.example:8000") == (False, False)
    assert answers(client, "192.168.7.7:8000", origin="http://10.0.0.1") == (True, False)


def test_allowed_names_are_answered(make_client):
    from engine.serve.hosts import check_names

    client = make_client(allowed=check_names(["Tracker.example.org", "*.lab.example", "2001:db8::5"]))
    for host in ("tracker.example.org", "tracker.example.org:8443", "a.lab.example", "[2001:db8::5]:80"):
        assert answers(client, host) == (True, True)
    for host in ("example.org", "lab.example.evil", "xtracker.example.org"):
        assert answers(client, host) == (False, False)


def test_a_proxy_that_renames_the_host_passes_allowed_origins_only(make_client):
    client = make_client(allowed=("tracker.example.org",))
    assert answers(client, "127.0.0.1:8000", origin="https://tracker.example.org") == (True, True)
    assert answers(client, "127.0.0.1:8000", origin="https://evil.example") == (True, False)
    assert answers(client, "127.0.0.1:8000", origin="null") == (True, False)


@pytest.mark.parametrize("name", ["http://a.example", "a.example:80", "*", "a.*.example", "", "a example"])
def test_names_that_cannot_be(name):
    from engine.errors import ConfigError
    from engine.serve.hosts import check_names

    with pytest.raises(ConfigError, match="--allow-host must be"):
        check_names([name])


def test_a_real_server_refuses_a_foreign_name(runner, clip_folder, tmp_path):
    import http.client
    from urllib.parse import urlsplit

    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    from engine.serve.clips import ClipStore

    with serving(runner, ClipStore(clip_folder, tmp_path, 1000)) as address:
        port = urlsplit(address).port
        for host, status in (("localhost", 200), ("evil.example", 400)):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/api/info", headers={"Host": f"{host}:{port}"})
            assert connection.getresponse().status == status
            connection.close()
        with (
            pytest.raises(InvalidStatus),
            connect(
                f"ws://127.0.0.1:{port}/api/track",
                additional_headers={"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
            ),
        ):
            pass
        with connect(f"ws://127.0.0.1:{port}/api/track", origin=f"http://127.0.0.1:{port}") as socket:
            socket.send("{}")
            assert json.loads(socket.recv(timeout=10))["type"] == "error"
