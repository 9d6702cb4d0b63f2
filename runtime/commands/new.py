"""Write a small pipeline and its data to start from."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import grape
from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape new my-project --tiny                (SFT, then GRPO, on a model made from scratch)
  grape new my-project --template preference"""

TEMPLATES = ("quickstart", "preference", "rejection")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="where to write; made when it is missing")
    parser.add_argument("--template", choices=TEMPLATES, default=TEMPLATES[0])
    parser.add_argument(
        "--tiny", action="store_true", help="a fresh tiny model: seconds instead of minutes"
    )


def run(args: argparse.Namespace) -> int:
    source = Path(grape.__file__).parent / "pipelines"
    if args.tiny:
        source /= "tiny"
    files = {
        args.folder / f"{args.template}.grape": source / f"{args.template}.grape",
        args.folder / "data" / "sums.jsonl": source / "data" / "sums.jsonl",
    }
    for target in files:
        if target.exists():
            raise UsageError(f"`{target}` is there already, and was left as it is")
    for target, origin in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, target)
    first = next(iter(files))
    print(f"wrote {first}\nnext: grape plan {first}, then grape run {first}")
    return 0
