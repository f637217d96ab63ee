"""A free port in place of 0, and an error that names port, flag and variable."""

import socket

import pytest

from llmstack.server.error import ServerStartError
from llmstack.server.ports import FREE_PORTS, Ports

HOST = "127.0.0.1"


def test_each_zero_becomes_a_free_port():
    ports = FREE_PORTS.choose(HOST)
    assert len(set(ports)) == len(ports)
    assert all(port > 0 for port in ports)


def test_a_chosen_port_is_free_again():
    ports = FREE_PORTS.choose(HOST)
    assert ports.choose(HOST) == ports


def test_a_port_in_use_is_named_with_its_flag_and_variable():
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ServerStartError, match=f"--grpc-port {port} can't be opened on {HOST}") as raised:
            Ports(grpc=port).choose(HOST)
    assert "LLMSTACK_GRPC_PORT" in raised.value.next_step


def test_one_port_for_two_protocols_is_an_error():
    port = FREE_PORTS.choose(HOST).http
    with pytest.raises(ServerStartError, match=f"--metrics-port {port}"):
        Ports(http=port, metrics=port).choose(HOST)


def test_a_host_of_another_machine_is_an_error():
    with pytest.raises(ServerStartError, match=r"on 203\.0\.113\.1"):
        FREE_PORTS.choose("203.0.113.1")
