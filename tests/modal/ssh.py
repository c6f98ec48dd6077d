"""Debian's sshd on port 22, reached through a raw TCP tunnel.

Usage: ssh.py CONFIG, with the host key and authorized keys that an image would hold.
"""

import subprocess
import sys
import time

import modal

app = modal.App()


@app.function(timeout=3600)
def some_function(config):
    subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config])
    with modal.forward(port=22, unencrypted=True) as tunnel:
        hostname, port = tunnel.tcp_socket
        print(f"ssh into container using: ssh -p {port} root@{hostname}")
        time.sleep(3600)


some_function.local(sys.argv[1])
