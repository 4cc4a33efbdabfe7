#!/usr/bin/env bash
# Everything that needs a CUDA device, in one command: tests, memory estimate against the real peak, speed against the
# plain model, compiling. Needs torch with CUDA, spandrel and pytest in the Python that runs it (PYTHON=...), and no network.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

"$PYTHON" - <<'P' || exit 1
import sys, torch
if not torch.cuda.is_available():
    sys.exit("no CUDA device: nothing measured")
print(torch.cuda.get_device_name(), "torch", torch.__version__, "CUDA", torch.version.cuda)
P
failed=0
echo "== tests on CUDA"
"$PYTHON" -m pytest -q tests/test_cuda.py tests/test_engine.py tests/test_faults.py tests/test_compiling.py || failed=1
echo "== memory: estimate and real peak"
"$PYTHON" bench/memory.py --device cuda --side 1024 || failed=1
echo "== speed: bundled model"
for size in 640x480 1280x720 1920x1080; do
  "$PYTHON" bench/speed.py --device cuda --size "$size" --runs 10 || failed=1
done
echo "== looking after the output"
"$PYTHON" bench/health.py --device cuda --size 1920x1080 || failed=1
"$PYTHON" bench/health.py --device cuda --size 1920x1080 --tile 512 || failed=1
echo "== compiling: cold, warm, steady, eager"
"$PYTHON" bench/compile.py --device cuda --side 512 --precision auto --models compact esrgan span swinir || failed=1
"$PYTHON" bench/compile.py --device cuda --methods || failed=1
exit $failed
