"""An HTTP server: / is a short page, /count counts until a file appears.

Usage: counting.py PORT FILE
"""

import http.server
import pathlib
import sys
import time

end = pathlib.Path(sys.argv[2])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path != "/count":
            self.wfile.write(b"hello\n")
            return
        number = 0
        while not end.exists():
            self.wfile.write(b"%d\n" % number)
            number += 1
            time.sleep(0.01)
        self.wfile.write(b"done\n")

    def log_message(self, *words):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024


Server(("", int(sys.argv[1])), Handler).serve_forever()
