#!/usr/bin/env bash
# sdist -> wheel -> an empty environment: what a user installs, linting the shipped library.
set -euo pipefail
python=${1:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build
"$work/build/bin/python" -m build --outdir "$work/dist" "$root" >/dev/null
"$python" -m venv "$work/user"
"$work/user/bin/pip" install --quiet --no-deps "$work"/dist/*.whl
"$work/user/bin/pip" install --quiet -c "$root/constraints.txt" lark pydantic
cd "$work"
"$work/user/bin/grape" new project --tiny
"$work/user/bin/grape" lint project
