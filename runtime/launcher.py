"""`python -m grape.runtime.launcher JOB.json`: the processes that make one stage together.

torch's own launcher starts as many workers as the job says, watches them, and ends the others when
one fails. How each of them ended is told to the run, which says what it means.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from grape.runtime.worker import LAUNCHER, Events


def main(argv: list[str]) -> int:
    job = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    events = Events(job["events"])
    os.environ[LAUNCHER] = str(os.getpid())
    options = ["--standalone", f"--nproc_per_node={job['processes']}", "--max_restarts=0"]
    options += [f"--log_dir={Path(job['events']).parent}", "--module"]
    launch: Any = torchrun
    try:
        launch.run(launch.parse_args([*options, "grape.runtime.worker", argv[1]]))
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        events.emit({"event": "ended", "codes": sorted(codes.items())})
        return 1
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
