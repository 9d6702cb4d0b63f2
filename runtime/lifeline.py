"""Runs a command and kills its whole process group when the one who started it is gone.

`python lifeline.py FD COMMAND …`: FD is the read end of a pipe whose write end only the starter
holds, so that end of file means that the starter ended, even by SIGKILL. Imports nothing of Grape.
"""

import os
import select
import signal
import subprocess
import sys


def main() -> int:
    life = int(sys.argv[1])
    child = subprocess.Popen(sys.argv[2:], close_fds=False)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    ended = os.pidfd_open(child.pid) if hasattr(os, "pidfd_open") else None
    while child.poll() is None:
        watched = [life] if ended is None else [life, ended]
        ready, _, _ = select.select(watched, [], [], 1.0)
        if life in ready:
            os.killpg(os.getpgid(0), signal.SIGKILL)
    code = child.returncode
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (9, 19) else None
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
