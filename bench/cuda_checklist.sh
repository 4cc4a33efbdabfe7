#!/usr/bin/env bash
# Everything that needs a CUDA device, in one command and less than eight minutes: bench/cuda_checklist.sh
#
# Tests, memory estimate, peers, overhead, streams, an out-of-memory drill, scaling, health, compiling, kernels: no step
# ends the others. Writes bench/results/<gpu>-<date>.json and the table in docs/performance.md. Needs torch with CUDA,
# spandrel and pytest in the Python that runs it (PYTHON=...), COMFYUI_DIR (a checkout of ComfyUI) for core's row, and
# nothing from the network. TensorRT and TensorRT for RTX have a row each beside compiled ones; where one is installed
# (`cudaspeed backends` says how) it is built for, and torch's max-autotune measured beside it: some minutes more.
#
# bench/cuda_checklist.sh --rehearse runs the same steps on the CPU, tiny, and keeps nothing.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export CUDASPEED_CACHE_DIR="$folder/compiled"
# for the benchmarks only: where ComfyUI can be imported, the tests would take themselves to be in it
bench_path=${PYTHONPATH-}
[ -z "${COMFYUI_DIR-}" ] || bench_path=$COMFYUI_DIR${bench_path:+:$bench_path}

slack=1 device=cuda models="compact esrgan" size=1280x720 side=1024 tile=512 compile_side=256 rounds=3
megapixels=64 frames=256 scope=--short keep="--docs docs/performance.md --results bench/results"
if [ "${1-}" = --rehearse ]; then
  slack=6 device=cpu models=compact-x2 size=48x32 side=48 tile=32 compile_side=32 rounds=1
  megapixels=1 frames=4 scope= keep=
elif ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "no CUDA device: nothing measured"
  exit 1
fi

failed=0
step() {  # name, most seconds, command
  local name=$1 limit=$2 began=$SECONDS code
  shift 2
  echo "== $name: $*"
  timeout --kill-after=5 $((limit * slack)) "$@"
  code=$?
  [ $code -eq 0 ] || failed=1
  echo "$name $code $((SECONDS - began))" >>"$folder/steps.txt"
}
bench() {  # name, most seconds, module, arguments
  local name=$1 limit=$2 module=$3
  shift 3
  PYTHONPATH=$bench_path step "$name" "$limit" "$PYTHON" -m "bench.$module" --device $device --json "$folder/$name.json" "$@"
}

# TensorRT's engines take minutes to build; the row of one that is not installed says how to install it, in no time
count='import importlib.util as find; print(sum(bool(find.find_spec(name)) for name in ("tensorrt", "tensorrt_rtx")))'
engines=$("$PYTHON" -c "$count")
against="compile-default ours-balanced-auto-eager"
[ "$engines" -eq 0 ] || against="$against compile-max-autotune"

# shellcheck disable=SC2086  # the lists are several words, or none
{
  step tests 75 "$PYTHON" -m pytest -q $(grep -rl --include='test_*.py' 'reason="no CUDA device"' tests)
  bench memory 90 memory --models compact esrgan-short --sides $side --precision auto
  bench peers 90 peers $scope --models $models --sizes $size --rounds $rounds
  bench overhead 35 overhead --models $models --sizes $size --rounds $rounds
  bench streams 30 streams --models $models --size $size
  bench drill 25 drill --size $size
  bench scaling 40 scaling --most-megapixels $megapixels --most-frames $frames
  bench health 20 health --size $size --tile $tile
  bench compile 60 compile --models ${models%% *} --side $compile_side --precision auto --tuning 15
  bench peers-compiled $((60 + 180 * engines)) peers --models ${models%% *} --sizes $size --rounds $rounds \
    --rows plain-half-last $against "tensorrt*" "ours-balanced-*-compiled"
  bench kernels 25 kernels
  "$PYTHON" -m bench.summary "$folder" $keep || failed=1
}
exit $failed
