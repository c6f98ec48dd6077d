"""A web server on port 8000 behind `modal.forward`, in the same process."""

import http.server

import modal

app = modal.App()


class Page(http.server.BaseHTTPRequestHandler):
    """Answers with the path and with every header that came along."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        lines = [f"served {self.path}"]
        lines += [f"header {name.lower()}: {value}" for name, value in self.headers.items()]
        body = ("\n".join(lines) + "\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@app.function()
def start_app():
    with modal.forward(8000) as tunnel:
        print(f"tunnel.url        = {tunnel.url}")
        print(f"tunnel.tls_socket = {tunnel.tls_socket}")
        http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Page).serve_forever()


start_app.local()
