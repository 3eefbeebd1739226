"""How signals change what the server does with new requests."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock, call

import pytest
import uvicorn
from internvl_server.api.admission import AdmissionGate, GateState
from internvl_server.engine.health import health_of
from internvl_server.pipeline import Budgets
from internvl_server.serve import run
from internvl_server.serve.draining import DrainingServer
from internvl_server.serve.room import AwaitedHeads
from internvl_server.settings import ServerSettings, Settings
from internvl_server.settings.limits import LimitSettings
from uvicorn.server import ServerState


async def app(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


@pytest.fixture
def server() -> DrainingServer:
    services: Any = SimpleNamespace(
        gate=AdmissionGate(Budgets(LimitSettings(), num_slots=1)),
        engine=SimpleNamespace(health=lambda: health_of("running")),
        media=SimpleNamespace(release=lambda unused_s: None),
        keys=None,
        settings=Settings(server=ServerSettings(pre_drain_s=60)),
    )
    config = uvicorn.Config(cast(Any, app))
    config.load()
    return DrainingServer(config, services)


def test_no_child_process_gets_the_port() -> None:
    with run._bind(uvicorn.Config(cast(Any, app), port=0)) as listener:
        assert not listener.get_inheritable()


async def test_sigterm_serves_requests_until_the_drain(server: DrainingServer) -> None:
    server.handle_exit(signal.SIGTERM, None)
    assert server._services.gate.state is GateState.UNREADY
    assert not await server.on_tick(1)
    server._close_at -= 60
    assert await server.on_tick(2)


async def test_sigint_does_not_wait(server: DrainingServer) -> None:
    server.handle_exit(signal.SIGINT, None)
    assert await server.on_tick(1)


async def test_an_engine_that_was_never_ready_needs_no_wait(
    server: DrainingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server._services.engine, "health", lambda: health_of("loading"))
    server.handle_exit(signal.SIGTERM, None)
    assert await server.on_tick(1)


async def test_a_signal_that_comes_twice_at_once_is_one(
    server: DrainingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor may signal the group of the process too."""
    monkeypatch.setattr("internvl_server.serve.draining._SAME_SIGNAL_S", 600)
    server.handle_exit(signal.SIGTERM, None)
    server.handle_exit(signal.SIGTERM, None)
    assert not await server.on_tick(1)


async def test_a_later_signal_ends_the_wait_and_what_runs(
    server: DrainingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers: list[Any] = []
    monkeypatch.setattr(signal, "setitimer", lambda *timer: timers.append(timer))
    monkeypatch.setattr("internvl_server.serve.draining._SAME_SIGNAL_S", -1)
    server.handle_exit(signal.SIGTERM, None)
    server.handle_exit(signal.SIGTERM, None)
    assert await server.on_tick(1)
    assert timers == [(signal.ITIMER_REAL, 4.5)]


@pytest.mark.parametrize(
    ("addresses", "dropped"),
    [
        (["192.0.2.1", "192.0.2.2", "192.0.2.2", "192.0.2.3"], 1),
        (["192.0.2.1", "192.0.2.2", "::ffff:192.0.2.2"], 1),
        (["2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:1:ffff::2"], 1),
        ([None, "192.0.2.1", None], 0),
    ],
)
def test_an_unfinished_head_makes_room(
    addresses: list[str | None], dropped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("internvl_server.serve.room._GRACE_S", 600.0)
    heads = AwaitedHeads(fair_share=2)
    newcomer = client_at("198.51.100.1")
    assert not heads.drop_one(newcomer)
    connections = [client_at(address) for address in addresses]
    for connection in connections:
        heads.add(connection)
    assert not heads.drop_one(newcomer)  # what they sent may not have been read yet
    monkeypatch.setattr("internvl_server.serve.room._GRACE_S", 0.0)
    assert heads.drop_one(newcomer)
    assert_dropped(connections, dropped)
    for connection in connections:
        heads.discard(connection)
    assert not heads.drop_one(newcomer)


def test_one_host_that_connects_again_and_again_makes_room_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("internvl_server.serve.room._GRACE_S", 600.0)
    heads = AwaitedHeads(fair_share=2)
    connections = [client_at("192.0.2.1") for _ in range(3)]
    for connection in connections:
        heads.add(connection)
    assert not heads.drop_one(client_at("192.0.2.1"))
    assert heads.drop_one(client_at("192.0.2.2"))
    assert_dropped(connections, 0)
    assert not heads.drop_one(client_at("192.0.2.2"))


def test_a_late_head_makes_room_beside_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = AwaitedHeads(fair_share=9)
    times = iter([10.0, 15.0, 15.0, 15.1, 15.1, 15.1, 15.1])
    monkeypatch.setattr("internvl_server.serve.room.time.monotonic", lambda: next(times))
    connections = [client_at(address) for address in ("192.0.2.2", "192.0.2.1", "192.0.2.1")]
    for connection in connections:
        heads.add(connection)
    assert heads.drop_one(client_at("192.0.2.1"))
    assert_dropped(connections, 0)
    assert not heads.drop_one(client_at("192.0.2.1"))


async def test_a_refused_client_is_read_on() -> None:
    """One that goes on sending its body would otherwise never come to read the answer."""

    async def forever(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    config = uvicorn.Config(cast(Any, forever), ws="none", log_config=None)
    transport = Mock(is_closing=lambda: False)
    state = ServerState()
    connection = run.connections_of(Settings())(config, state, {})
    connection.connection_made(transport)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.data_received(head + b"186a0\r\n" + b" " * 100_000)
    assert transport.method_calls[-1] == call.pause_reading()
    connection.data_received(b"no end of a chunk")
    assert b" 400 " in transport.write.call_args[0][0]
    assert transport.resume_reading.called
    connection.connection_lost(None)
    for task in tuple(state.tasks):
        task.cancel()


def client_at(address: str | None) -> Mock:
    return Mock(client=address and (address, 1))


def assert_dropped(connections: list[Mock], index: int) -> None:
    called = [connection.turn_away.called for connection in connections]
    assert called == [number == index for number in range(len(connections))]
