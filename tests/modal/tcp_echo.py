"""A TCP echo server whose port is also public without TLS."""

import socket
import threading

import modal

app = modal.App()


def echo(connection):
    with connection:
        while data := connection.recv(1024):
            connection.sendall(data)


def run_echo_server(port):
    listener = socket.create_server(("0.0.0.0", port))
    while True:
        connection, address = listener.accept()
        print("Connection from:", address)
        threading.Thread(target=echo, args=(connection,)).start()


@app.function()
def tcp_tunnel():
    with modal.forward(8000, unencrypted=True) as tunnel:
        print("TCP tunnel listening at:", tunnel.tcp_socket)
        run_echo_server(8000)


tcp_tunnel.local()
