"""HTTP/2 through a tunnel, to a server that speaks it without TLS.

Usage: http2.py SERVER...
"""

import subprocess
import sys

import modal

app = modal.App()


@app.function()
def serve_h2(server):
    with modal.forward(8000, h2_enabled=True) as tunnel:
        print(f"tunnel.url = {tunnel.url}")
        subprocess.run([*server, "8000"])


serve_h2.local(sys.argv[1:])
