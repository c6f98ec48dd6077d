"""Prints what a tunnel of each kind says of itself, then what is wrong with each bad call.

A line is a label, a tab, and a value or an error's type and text.
"""

import contextlib

import modal


def show(label, act):
    try:
        print(label, act(), sep="\t")
    except Exception as error:
        print(label, f"{type(error).__name__}: {error}", sep="\t")


def forward(*arguments, **options):
    with modal.forward(*arguments, **options) as tunnel:
        return tunnel.url


with modal.forward(8000) as tunnel:
    show("encrypted url", lambda: tunnel.url)
    show("encrypted tls_socket", lambda: tunnel.tls_socket)
    show("encrypted tcp_socket", lambda: tunnel.tcp_socket)
    show("again", lambda: forward(8000))
    # The refused call has not touched the tunnel that is there.
    show("still", lambda: tunnel.url)

with contextlib.ExitStack() as stack:
    raw = stack.enter_context(modal.forward(8000, unencrypted=True))
    other = stack.enter_context(modal.forward(8001, h2_enabled=True))
    show("unencrypted tls_socket", lambda: raw.tls_socket)
    show("unencrypted tcp_socket", lambda: raw.tcp_socket)
    show("h2 url", lambda: other.url)
    show("h2 tcp_socket", lambda: other.tcp_socket)

show("port 0", lambda: forward(0))
show("port 70000", lambda: forward(70000))
show("port x", lambda: forward("x"))
show("h2 and unencrypted", lambda: forward(8000, h2_enabled=True, unencrypted=True))
print("done")
