"""CPU time of the commands that read a file, by the number of its stages.

Run as `python tests/bench/scale_lint.py [RUNS] [STAGES …]`; without stages: 20, 200 and 2,000. It
prints the least of RUNS runs (3 when not given), each in a fresh process, and how lint grows.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from cold_lint import cpu_seconds

SIZES = (20, 200, 2_000)
COMMANDS = (("lint",), ("fmt", "--check"), ("graph",), ("plan",))
HEAD = """grape 1

use sft, grpo from "std/algorithms"

reward quality(brevity: float = 0.2) = exact(extract = "number") + brevity * within(16)

pipeline big() {
  data sums = jsonl("sums.jsonl") { prompt = "{a} +", completion = "{sum}", answer = "{sum}", split = 50% }
  model base = fresh("llama", sums)
"""  # noqa: E501


def stages(count: int) -> str:
    """A file of `count` stages: four branches that train, sample, score, keep and train again."""
    lines, last = [], ["base"] * 4
    for number in range(count):
        branch, turn = number % 4, number // 4 % 5
        name = f"s{number}"
        line = {
            0: f"train({last[branch]}, sums.train) {{ algorithm = sft(), lr = 1e-4 }}",
            1: f"sample({last[branch]}, sums.train) {{ prompts = 8, max_tokens = 16 }}",
            2: f"score(s{number - 4}, quality(brevity = 0.{branch + 1}))",
            3: f"keep(s{number - 4}) {{ where = std(reward per group) > 0 }}",
            4: f"train({last[branch]}, s{number - 4}) {{ algorithm = grpo(beta = 0.0{branch}) }}",
        }[turn]
        lines.append(f"  stage {name} = {line}\n")
        if turn in (0, 4):
            last[branch] = name
    outputs = [f'  output {name} as "models/{name}"\n' for name in dict.fromkeys(last)]
    return HEAD + "".join([*lines, *outputs]) + "}\n"


def write(folder: Path, count: int) -> Path:
    """The file of `count` stages with its data, below `folder`."""
    rows = "".join(f'{{"a": {row}, "sum": {row + 1}}}\n' for row in range(40))
    (folder / "sums.jsonl").write_text(rows, encoding="utf-8")
    file = folder / f"stages_{count}.grape"
    file.write_text(stages(count), encoding="utf-8")
    return file


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    sizes = [int(word) for word in sys.argv[2:]] or SIZES
    with tempfile.TemporaryDirectory() as folder:
        for words in COMMANDS:
            for count in sizes:
                command = (*words, str(write(Path(folder), count)))
                cpu_seconds(command)
                least = min(cpu_seconds(command) for _ in range(runs))
                print(f"{least:7.3f} s  grape {' '.join(words)}, {count} stages", flush=True)


if __name__ == "__main__":
    main()
