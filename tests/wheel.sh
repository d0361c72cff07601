#!/usr/bin/env sh
# Install the built wheel in a fresh environment outside the tree and run it there; then install
# the protocol and the audit without torch, by the two lines that README gives.
set -eu
repo=$(cd "$(dirname "$0")/.." && pwd)
wheel=$(ls -t "$repo"/dist/*.whl | head -n 1)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

python3 -m venv "$place/full"
"$place/full/bin/python" -m pip install -q -c "$repo/constraints.txt" torch
"$place/full/bin/python" -m pip install -q -c "$repo/constraints.txt" "$wheel"
cd "$place"
"$place/full/bin/python" -m pilot_secure.simulate --secure-agg --config general-vqa \
    --rounds 2 --samples-per-client 16 --test-samples 16 --out "$place/run"
test -s "$place/run/summary.json"
"$place/full/bin/python" -m pilot_secure.evaluate "$place/run" > "$place/scores"
test -s "$place/scores"

python3 -m venv "$place/light"
"$place/light/bin/python" -m pip install -q --no-deps "$wheel"
"$place/light/bin/python" -m pip install -q -r "$repo/requirements-protocols.txt" \
    -c "$repo/constraints.txt"
"$place/light/bin/python" -c 'import protocols, sys; assert "torch" not in sys.modules'
echo "wheel: runs outside the tree; protocols import without torch"
