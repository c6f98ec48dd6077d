"""A page and an echoing web socket for whoever knows the token; short frames only."""

import argparse
import base64
import hashlib
import http.server
import os
import urllib.parse

# Of RFC 6455: what a server mixes into the client's key.
MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE = 8


class Notebook(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        if query.get("token") != [os.environ["JUPYTER_TOKEN"]]:
            self.send_error(403)
        elif self.headers.get("Upgrade", "").lower() == "websocket":
            self.web_socket()
        else:
            body = b"a notebook\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def web_socket(self):
        key = self.headers["Sec-WebSocket-Key"] + MAGIC
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        self.close_connection = True
        while head := self.rfile.read(2):
            length = head[1] & 0x7F
            mask = self.rfile.read(4)
            masked = self.rfile.read(length)
            payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(masked))
            self.wfile.write(bytes([head[0], length]) + payload)
            if head[0] & 0x0F == CLOSE:
                return


parser = argparse.ArgumentParser()
parser.add_argument("--ip")
parser.add_argument("--port", type=int)
options = parser.parse_args()
http.server.ThreadingHTTPServer((options.ip, options.port), Notebook).serve_forever()
