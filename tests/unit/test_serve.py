"""How signals change what the server does with new requests."""

import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn
from internvl_server.api.admission import AdmissionGate, GateState
from internvl_server.serve.run import DrainingServer
from internvl_server.settings import ServerSettings, Settings


@pytest.fixture
def gate() -> AdmissionGate:
    return AdmissionGate(1)


@pytest.fixture
def server(gate: AdmissionGate) -> DrainingServer:
    services: Any = SimpleNamespace(
        gate=gate, keys=None, settings=Settings(server=ServerSettings(pre_drain_s=60))
    )
    return DrainingServer(uvicorn.Config(cast(Any, None)), services)


def test_sigterm_serves_requests_until_the_drain(
    server: DrainingServer, gate: AdmissionGate
) -> None:
    server.handle_exit(signal.SIGTERM, None)
    assert gate.state is GateState.UNREADY
    assert not server.should_exit


def test_sigint_ends_the_wait_before_the_drain(server: DrainingServer, gate: AdmissionGate) -> None:
    server.handle_exit(signal.SIGTERM, None)
    server.handle_exit(signal.SIGINT, None)
    assert gate.state is GateState.DRAINING
    assert server.should_exit


def test_a_signal_during_the_drain_admits_no_request_again(
    server: DrainingServer, gate: AdmissionGate
) -> None:
    server.handle_exit(signal.SIGINT, None)
    server.handle_exit(signal.SIGTERM, None)
    assert gate.state is GateState.DRAINING
