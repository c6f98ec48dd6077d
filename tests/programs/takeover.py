"""A tunnel whose owner is killed and that another program then takes over, with an echo server
behind it all the time.

Usage: takeover.py EDGE
"""

import socket
import subprocess
import sys
import threading
import time


def echo(connection):
    while data := connection.recv(1024):
        connection.sendall(data)


def serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=echo, args=(connection,), daemon=True).start()


def forward():
    hold = "echo $EDGE_URL $EDGE_TCP; exec sleep 3600"
    return subprocess.Popen(
        [sys.argv[1], "forward", "8000", "--unencrypted", "--", "sh", "-c", hold],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


listener = socket.create_server(("0.0.0.0", 8000))
threading.Thread(target=serve, args=(listener,), daemon=True).start()

first = forward()
print("first", first.stdout.readline())
rival = forward()
print("rival", rival.wait(), rival.stderr.read())

first.kill()
first.wait()
# The daemon learns of the death by the connection's end, which takes it a moment.
while not (line := (second := forward()).stdout.readline()):
    time.sleep(0.02)
print("second", line)
time.sleep(3600)
