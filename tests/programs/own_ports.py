"""Takes the ports on which edge serves containers, then uses edge's services all the same.

Usage: own_ports.py EDGE
"""

import socket
import subprocess
import sys
import threading

web = socket.create_server(("0.0.0.0", 80))
names = socket.create_server(("0.0.0.0", 53))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("0.0.0.0", 53))


def serve():
    while True:
        connection, _ = web.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nthe program's own page\n")


threading.Thread(target=serve, daemon=True).start()
print("address", socket.getaddrinfo("i6pn.modal.local", None, socket.AF_INET6)[0][4][0])
hold = ["sh", "-c", "echo url $EDGE_URL; exec sleep 3600"]
subprocess.run([sys.argv[1], "forward", "80", "--", *hold])
