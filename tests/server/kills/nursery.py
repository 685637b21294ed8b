"""Starts servers by forking a process that has their imports behind it: a hundred starts cost seconds, not minutes.

Reads one JSON list of arguments a line; each becomes a process of its own that runs ``lieaudit-server`` with them.
"""

import json
import os
import signal
import sys

import lieaudit_server.server
from lieaudit_server.__main__ import main

assert lieaudit_server.server  # imported for what it imports
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the killed
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.close(0)
        os.open(os.devnull, os.O_RDONLY)
        os._exit(main(json.loads(line)))
    sys.stdout.write(f"pid {pid}\n")
    sys.stdout.flush()
