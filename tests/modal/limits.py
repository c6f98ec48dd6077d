"""Asks for one more raw TCP port than the region has, then for what needs none.

Usage: limits.py, in a region with one raw TCP port
"""

import modal

with modal.forward(8000, unencrypted=True):
    try:
        with modal.forward(8001, unencrypted=True):
            print("given")
    except Exception as error:
        print("refused", type(error).__name__, error)
    with modal.forward(8001) as tunnel:
        print("url", tunnel.url)
