"""What the modal package says when the data path refuses; run by the test beside it."""

import modal
from modal.exception import RemoteError

try:
    with modal.forward(8000):
        raise SystemExit("a tunnel that could not be opened was started")
except RemoteError as error:
    assert str(error) == "Relay server is unavailable", error
print("done")
