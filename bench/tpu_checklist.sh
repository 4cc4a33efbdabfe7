#!/usr/bin/env bash
# Everything that needs a TPU, in one command: bench/tpu_checklist.sh
#
# The devices, the tests of what XLA computes, a picture by the bundled model, and the bench beside torch on the
# processor: no step ends the others. Writes what it measured into a file beside this one's results. Needs torch, the
# extra `xla` with libtpu (pip install 'jax[tpu]'), spandrel and pytest in the Python that runs it (PYTHON=...).
#
# bench/tpu_checklist.sh --rehearse runs the same steps on JAX's CPU backend, and keeps nothing.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CUDASPEED_CACHE_DIR="$folder/compiled"

device=tpu models="compact esrgan-short swinir" kept=bench/results/tpu-$(date +%F).json
if [ "${1-}" = --rehearse ]; then
  device=xla:cpu models=compact kept=$folder/rehearsed.json
elif ! "$PYTHON" -c 'import jax; jax.local_devices(backend="tpu")' 2>/dev/null; then
  echo "no TPU, or no JAX that finds one: nothing measured"
  exit 1
fi

failed=0
step() {  # name, command
  local name=$1 began=$SECONDS code
  shift
  echo "== $name: $*"
  "$@"
  code=$?
  [ $code -eq 0 ] || failed=1
  echo "$name: exit code $code, $((SECONDS - began)) s"
}

step devices "$PYTHON" -m cudaspeed devices
step tests "$PYTHON" -m pytest -q tests/backends/test_xla.py
step picture "$PYTHON" -m cudaspeed upscale examples/chelsea.png -o "$folder/out.png" --device $device --json
# shellcheck disable=SC2086  # several words
step bench "$PYTHON" -m bench.xla --device $device --models $models --json "$kept"
exit $failed
