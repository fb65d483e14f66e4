"""Addresses that are taken before a server begins."""

import socket

import pytest
from console import refusal

pytest.importorskip("uvicorn")
from llada.config import ConfigError
from llada.listening import listen


@pytest.mark.parametrize("command", ["serve", pytest.param("ui", marks=pytest.mark.slow)])
def test_port_in_use_is_refused_before_anything_is_loaded(monkeypatch, capsys, command):
    """The exit code is that of what is refused, and the model is not even looked for."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        told = refusal(monkeypatch, capsys, command, "nowhere", "--port", port)
    assert told == (
        f"llada: 127.0.0.1 port {port}: Address already in use; give another --port, or --port 0 for a free one\n"
    )


def test_port_is_taken_before_anything_answers_there():
    """Sockets that are bound and do not listen yet may share a port."""
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port}: Address already in use; give another --port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
def test_what_is_no_name_of_a_host_is_refused(host):
    with pytest.raises(ConfigError, match=f"host '{host}': no host can have this name; give the name or an address"):
        listen(host, 0)


def test_what_is_no_address_of_this_machine_is_refused(monkeypatch):
    def unknown(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 port 0: Cannot assign requested address"):
        listen("192.0.2.1", 0)
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    with pytest.raises(ConfigError, match="host 'nowhere': Name or service not known; give the name or an address"):
        listen("nowhere", 0)


def test_of_several_addresses_of_a_host_that_of_ipv4_is_taken():
    with listen("localhost", 0) as taken:
        assert taken.getsockname()[0] == "127.0.0.1"
