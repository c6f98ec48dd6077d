"""Prints what each name resolves to in each family.

Usage: resolve.py NAME...
"""

import socket
import sys

for name in sys.argv[1:]:
    for label, family in (("A", socket.AF_INET), ("AAAA", socket.AF_INET6)):
        try:
            found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
            answer = " ".join(sorted(entry[4][0] for entry in found))
        except socket.gaierror as error:
            answer = error.errno == socket.EAI_AGAIN and "again" or "nothing"
        print(name, label, answer)
print("done")
