"""Interface names and local addresses, on this machine and from made-up tables."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from gemfit.core import network_interface
from gemfit.core.network_interface import interface_addresses, interface_of, local_address

TABLE = {
    "127.0.0.1": "lo",
    "10.1.0.5": "ib0",
    "192.168.0.5": "eth0",
    "fe80::1": "eth0",
    "172.17.0.1": "docker0",
}


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.1.0.5", "ib0"),
        ("192.168.0.5", "eth0"),
        ("::ffff:10.1.0.5", "ib0"),
        ("fe80::1%eth0", "eth0"),
        ("FE80:0::1", "eth0"),
        ("127.0.0.1", "lo"),
        ("10.1.0.6", None),
    ],
)
def test_the_interface_is_the_one_that_holds_the_address(address: str, name: str | None) -> None:
    assert interface_of(address, TABLE) == name


def test_this_machine_has_a_loopback_interface() -> None:
    assert interface_addresses()["127.0.0.1"] == "lo"
    assert local_address("127.0.0.1") == "127.0.0.1"
    assert set(interface_addresses().values()) <= {name for _, name in socket.if_nameindex()}


def test_a_host_without_a_route_or_name_has_no_local_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_address("no-such-host.invalid") is None

    def unreachable(self: socket.socket, target: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", unreachable)
    assert local_address() is None


def test_ipv6_addresses_are_read_from_the_kernel_table(tmp_path: Path) -> None:
    table = tmp_path / "if_inet6"
    table.write_text("fe80000000000000000000000000000a 02 40 20 80     eth0\n")
    assert network_interface._ipv6_addresses(table) == {"fe80::a": "eth0"}
    assert network_interface._ipv6_addresses(tmp_path / "absent") == {}
