"""Asks for a part of Modal that is not networking."""

import modal

try:
    modal.Queue.from_name("any").hydrate()
except Exception as error:
    print("refused", type(error).__name__, error)
# The refusal of one call harms no other.
with modal.forward(8000) as tunnel:
    print("url", tunnel.url)
