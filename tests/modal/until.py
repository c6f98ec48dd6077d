"""Holds a tunnel until a file appears, then lives on without it.

Usage: until.py FILE
"""

import pathlib
import sys
import time

import modal

stop = pathlib.Path(sys.argv[1])
with modal.forward(8000, unencrypted=True) as tunnel:
    print("open", *tunnel.tls_socket, *tunnel.tcp_socket)
    while not stop.exists():
        time.sleep(0.02)
print("closed")
time.sleep(3600)
