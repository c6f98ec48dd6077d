"""Counts what comes from edge's service address: before it asks anything itself, and after.

Usage: sniff.py FILE, whose appearance makes it ask
"""

import pathlib
import socket
import sys

SERVICE = socket.inet_aton("169.254.20.10")
EVERYTHING = 3

sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(EVERYTHING))
sniffer.settimeout(0.02)


def comes():
    try:
        packet = sniffer.recv(65536)
    except TimeoutError:
        return False
    return packet[12:16] == SERVICE


ask = pathlib.Path(sys.argv[1])
print("sniffing")
unasked = 0
while not ask.exists():
    unasked += comes()
print("unasked", unasked)
socket.getaddrinfo("i6pn.modal.local", None, socket.AF_INET6)
while not comes():
    pass
print("asked")
