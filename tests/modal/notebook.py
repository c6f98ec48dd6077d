"""A notebook-like server in a subprocess, with a token in its URL: a page and a web socket.

As the Jupyter example starts it; `notebook_server.py` stands in for `jupyter lab`.
"""

import os
import pathlib
import secrets
import subprocess
import sys

import modal

app = modal.App()


@app.function()
def run_notebook():
    token = secrets.token_urlsafe(13)
    with modal.forward(8888) as tunnel:
        url = tunnel.url + "/?token=" + token
        print(f"Starting the notebook at {url}")
        server = pathlib.Path(__file__).with_name("notebook_server.py")
        subprocess.run(
            [sys.executable, str(server), "--ip=0.0.0.0", "--port=8888"],
            env={**os.environ, "JUPYTER_TOKEN": token, "SHELL": "/bin/bash"},
            stderr=subprocess.DEVNULL,
        )


run_notebook.local()
