"""One server and one tunnel for each container, made when the container starts."""

import functools
import http.server
import threading
import time

import modal

app = modal.App()


@app.cls()
class Server:
    @modal.enter()
    def start(self):
        page = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/etc/ssl")
        server = http.server.ThreadingHTTPServer(("0.0.0.0", 8000), page)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.forwarding = modal.forward(8000)
        self.tunnel = self.forwarding.__enter__()

    @modal.exit()
    def stop(self):
        self.forwarding.__exit__(None, None, None)

    @modal.method()
    def url(self):
        return self.tunnel.url


server = Server()
print("first", server.url.local())
print("second", server.url.local())
time.sleep(3600)
