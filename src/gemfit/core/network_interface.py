"""The network interface that holds an address, the address that routes to a host, and name resolution."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

SIOCGIFCONF = 0x8912
ENTRY = struct.calcsize("16s24s")
"""Bytes of a ``struct ifreq``: name, then an address from byte 20 on."""
MAX_ENTRIES = 1024
OUTSIDE = "192.0.2.1"
"""Documentation address (RFC 5737): nothing is sent to it, it only selects the default route."""


def local_address(host: str = OUTSIDE) -> str | None:
    """The address from which packets to ``host`` would be sent; ``None`` without a route. Sends nothing."""
    with suppress(OSError):
        (family, kind, _, _, target), *_ = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            address: str = probe.getsockname()[0]
            return address
    return None


def resolves(host: str) -> bool:
    """Whether a host name resolves on this machine."""
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def interface_of(address: str, addresses: Mapping[str, str]) -> str | None:
    """The name of the interface that holds ``address``, of interface names by address."""
    plain = ipaddress.ip_address(address.partition("%")[0])
    mapped = plain.ipv4_mapped if isinstance(plain, ipaddress.IPv6Address) else None
    return addresses.get(str(mapped or plain))


def interface_addresses() -> dict[str, str]:
    """Interface names by IPv4 and IPv6 address."""
    return _ipv4_addresses() | _ipv6_addresses(Path("/proc/net/if_inet6"))


def _ipv4_addresses() -> dict[str, str]:
    buffer = array.array("B", bytes(ENTRY * MAX_ENTRIES))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("iL", len(buffer), buffer.buffer_info()[0])
        filled = struct.unpack("iL", fcntl.ioctl(probe, SIOCGIFCONF, request))[0]
    found = {}
    for start in range(0, filled, ENTRY):
        entry = buffer[start : start + ENTRY].tobytes()
        label = entry[:16].partition(b"\0")[0].decode()
        found[socket.inet_ntoa(entry[20:24])] = label.partition(":")[0]  # `eth0:1` is another address of eth0
    return found


def _ipv6_addresses(table: Path) -> dict[str, str]:
    found = {}
    with suppress(FileNotFoundError):  # a kernel without IPv6
        for line in table.read_text().splitlines():
            digits, *_, name = line.split()
            found[str(ipaddress.IPv6Address(int(digits, 16)))] = name
    return found
