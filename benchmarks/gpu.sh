#!/bin/sh
# Checks and measures specinn on the GPU of this machine: sh benchmarks/gpu.sh [--out FOLDER]
# Needs a Python with torch for CUDA and what specinn needs; PYTHON names it. Nothing is installed.
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH="$here:$here/plugins:$here/instruments${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
exec "${PYTHON:-python3}" "$here/benchmarks/gpu.py" "$@"
