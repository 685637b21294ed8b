"""``python -m lieaudit_server.worker``: one job from standard input, its messages on standard output."""

from __future__ import annotations

import json
import os
import sys
import traceback


def main() -> int:
    """Run the job. Failures with a reason for the client are messages; anything else is a trace and exit status 1."""
    job = json.loads(sys.stdin.buffer.read())
    from lieaudit_server.worker.sandbox import enter

    enter(job["parent"], job["memory_mib"], job["cpus"])
    from lieaudit.errors import LieauditError
    from lieaudit_server.worker.channel import Channel

    channel = Channel()
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
        if problem.errno not in {28, 122}:  # ENOSPC, EDQUOT
            return 1
        channel.send("disk")
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # teardown of native libraries has nothing left to do, and a crash in it would hide the result
