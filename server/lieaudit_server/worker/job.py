"""One job: its description from standard input, its messages on standard output, and the end."""

from __future__ import annotations

import json
import sys
import traceback

from lieaudit.errors import LieauditError
from lieaudit_server.errors import NO_ROOM
from lieaudit_server.worker.channel import Channel
from lieaudit_server.worker.sandbox import enter


def run(parent: int) -> int:
    """Run the job in this process; give its exit status.

    Failures with a reason for the client are messages; anything else is a trace and exit status 1.
    """
    job = json.loads(sys.stdin.buffer.read())
    missing = enter(parent, job)
    channel = Channel()
    if missing and job["require_sandbox"] and job["task"] != "providers":  # that one is to say what is missing
        sys.stderr.write(f"no sandbox: {'; '.join(missing)}\n")
        return 1
    job["missing"] = missing
    try:
        from lieaudit_server.worker.tasks import TASKS

        channel.send("result", value=TASKS[job["task"]](job, channel))
    except LieauditError as problem:
        traceback.print_exc()
        channel.error(problem)
    except MemoryError:
        channel.send("memory")
    except OSError as problem:
        traceback.print_exc()
        if problem.errno not in NO_ROOM:
            return 1
        channel.send("disk")
    except Exception:  # noqa: BLE001 - the trace is for the log; the status says that there is no result
        traceback.print_exc()
        return 1
    return 0
