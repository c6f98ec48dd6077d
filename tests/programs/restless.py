"""Makes ports public and stops at once, over and over, several at a time.

Usage: restless.py TIMES
"""

import sys
import threading

import modal


def loop(port):
    for _ in range(int(sys.argv[1])):
        try:
            with modal.forward(port, unencrypted=port % 2 == 0):
                pass
        except modal.exception.Error as error:
            refused.append(str(error))
    print("looped", port, flush=True)


refused = []
threads = [threading.Thread(target=loop, args=(9000 + number,)) for number in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("refused", len(refused), refused[:1], flush=True)
