"""The demo's web server: says who it sees at the other end."""

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Page(BaseHTTPRequestHandler):
    """One page, whatever is asked for."""

    def do_GET(self):
        client = self.client_address[0].removeprefix("::ffff:")
        text = f"hello from the container; your connection comes from {client}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


class Server(ThreadingHTTPServer):
    """On both families."""

    address_family = socket.AF_INET6


server = Server(("::", 8000), Page)
print("listening", flush=True)
server.serve_forever()
