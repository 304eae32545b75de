"""A network with nothing behind it: whatever is sent anywhere but to this namespace itself ends in the trap.

The default route leads into a TUN device whose other end is read here; the packets of the loopback device are
read too, so that a test can also say which of the names and ports of this namespace were connected to.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
ETH_P_ALL = 0x0003
TCP, UDP, ICMPV6 = 6, 17, 58
PROTOCOLS = {TCP: "tcp", UDP: "udp", 1: "icmp", ICMPV6: "icmpv6"}
# What the kernel itself says on an IPv6 link: looking for routers and neighbours, joining groups.
KERNELS_OWN = frozenset({130, 131, 132, 133, 134, 135, 136, 143})
MARK = ("192.0.2.1", 9)  # a packet that the test sends itself, to know that all before it have been read
DNS = 53


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet: `tcp 203.0.113.9:443`, and of a question to DNS the name that was asked for."""

    protocol: str
    address: str
    port: int
    asked: str = ""
    opens: bool = False  # the first packet of a TCP connection

    def __str__(self) -> str:
        return f"{self.protocol} {self.address}:{self.port}" + (f" {self.asked}" if self.asked else "")


@dataclass(slots=True)
class Trap:
    """What was sent out, and which addresses of this namespace were connected to."""

    caught: list[Packet] = field(default_factory=list)
    opened: list[Packet] = field(default_factory=list)
    _marked: threading.Event = field(default_factory=threading.Event)

    def seen(self) -> list[str]:
        """Everything that has left by now, in order, each destination once."""
        self._marked.clear()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", MARK)
        assert self._marked.wait(10), "the trap does not see the test's own packet"
        return list(dict.fromkeys(str(packet) for packet in self.caught))

    def connected(self) -> set[tuple[str, int]]:
        """Address and port of each TCP connection that was opened within the namespace."""
        return {(packet.address, packet.port) for packet in self.opened}

    def read_outside(self, device: int) -> None:
        while True:
            packet = parsed(os.read(device, 65536))
            if packet is None:
                continue
            if (packet.address, packet.port) == MARK:
                self._marked.set()
            else:
                self.caught.append(packet)

    def read_inside(self, loopback: socket.socket) -> None:
        while True:
            packet = parsed(loopback.recv(65536))
            if packet is not None and packet.opens:
                self.opened.append(packet)


def set_trap(*addresses: str) -> Trap:
    """Brings up the loopback device with `addresses` on it, and the trap behind the default route.

    For a new network namespace, with its root's rights.
    """
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"trap", IFF_TUN | IFF_NO_PI))
    for words in (
        "link set lo up",
        *(f"addr add {address}/32 dev lo" for address in addresses),
        "addr add 198.18.0.1/30 dev trap",
        "-6 addr add 2001:db8:18::1/64 dev trap nodad",
        "link set trap up",
        "route add default dev trap",
        "-6 route add default dev trap",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    loopback = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    loopback.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    loopback.bind(("lo", ETH_P_ALL))
    trap = Trap()
    threading.Thread(target=trap.read_outside, args=(device,), daemon=True).start()
    threading.Thread(target=trap.read_inside, args=(loopback,), daemon=True).start()
    return trap


def parsed(data: bytes) -> Packet | None:
    """The packet, None for one that the kernel sends of itself."""
    if data[0] >> 4 == 4:
        head, protocol = (data[0] & 15) * 4, data[9]
        address = str(IPv4Address(data[16:20]))
    else:
        head, protocol = 40, data[6]
        address = str(IPv6Address(data[24:40]))
        if protocol == 0:  # hop-by-hop options, before a report of multicast groups
            protocol, head = data[40], 40 + (data[41] + 1) * 8
    if protocol == ICMPV6 and data[head] in KERNELS_OWN:
        return None
    name = PROTOCOLS.get(protocol, str(protocol))
    if protocol not in (TCP, UDP):
        return Packet(name, address, 0)
    port = int.from_bytes(data[head + 2 : head + 4], "big")
    if protocol == TCP:
        return Packet(name, address, port, opens=data[head + 13] & 0x12 == 0x02)
    return Packet(name, address, port, question(data[head + 8 :]) if port == DNS else "")


def question(message: bytes) -> str:
    """The name that a DNS message asks for."""
    labels, at = [], 12
    while at < len(message) and message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("ascii", "replace"))
        at += 1 + message[at]
    return ".".join(labels)
