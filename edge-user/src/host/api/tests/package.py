"""What a user of the modal package does inside a container; run by the test beside it."""

import warnings

import modal
from modal.exception import InvalidError

warnings.simplefilter("ignore")  # `.url` of an unencrypted tunnel


def refused(words, *args, **kwargs):
    try:
        with modal.forward(*args, **kwargs):
            raise SystemExit(f"{args} {kwargs} was not refused")
    except InvalidError as error:
        assert str(error) == words, error


with modal.forward(8000, unencrypted=True) as tunnel:
    assert tunnel.url == f"https://{tunnel.host}:8443", tunnel
    assert tunnel.host.endswith(".edge.localhost"), tunnel
    host, port = tunnel.tcp_socket
    assert host == "localhost" and 20000 <= port <= 20031, tunnel
    assert tunnel.tls_socket == (tunnel.host, 8443), tunnel
    refused("Port 8000 is already forwarded", 8000)
    with modal.forward(8001, h2_enabled=True) as second:
        assert second.host != tunnel.host
        try:
            second.tcp_socket
        except InvalidError:
            pass
        else:
            raise SystemExit("an encrypted tunnel has a TCP socket")
    first = tunnel.host

with modal.forward(8000) as tunnel:
    assert tunnel.host != first, "a name came twice"

refused("Invalid port number 0", 0)
refused("Invalid port number 65536", 65536)
refused("H2 can only be used with encrypted ports", 8000, unencrypted=True, h2_enabled=True)


app = modal.App("edge")


@app.function()
def in_place():
    with modal.forward(9000) as tunnel:
        return tunnel.url


assert in_place.local().endswith(".edge.localhost:8443")
print("done")
