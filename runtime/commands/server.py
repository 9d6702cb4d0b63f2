"""Start, stop or show the background Prefect server that Grape owns for this user."""

from __future__ import annotations

import argparse
import sys

EXAMPLE = """examples:
  grape server status
  grape server stop"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("start", "stop", "status"))


def run(args: argparse.Namespace) -> int:
    from grape.runtime import server

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    if args.action == "start":
        print(server.ensure_server(say))
    elif args.action == "stop":
        print("stopped" if server.stop() else "there was no server running")
    else:
        print(server.status())
    return 0
