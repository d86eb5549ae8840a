#!/usr/bin/env bash
# llmcore on an NVIDIA GPU, all that belongs to it, without a network and within nine minutes: builds it for the GPU that is
# here, runs the GPU's tests, the sanitizers on some of them, and the benchmarks beside torch.
#
#   benchmarks/gpu.sh [OUT_DIR]        # by default build/gpu
#
# Leaves gpu.json (everything), gpu.md (a table) and the logs in OUT_DIR. Every part has a limit; what did not run or did not
# finish is named so. Exit status 1 unless all parts are done. Environment:
#   PYTHON                 the interpreter that has torch, numpy, pytest, pybind11, scikit-build-core (python3); no other
#                          package is needed, and tests that want one are counted as skipped
#   LLMCORE_GPU_SECONDS    for everything (520)
#   LLMCORE_GPU_SITE       a folder that holds a built llmcore: nothing is built
#   LLMCORE_GPU_TINY       1: the benchmarks compare small shapes and time nothing
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
out=${1:-build/gpu}
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 1
rm -f "$out"/{gpu,rows}.json "$out"/gpu.md "$out"/parts.tsv "$out"/*.log "$out"/*.jsonl
# Programs of the CUDA toolkit, compute-sanitizer among them, need not be on the path.
if nvcc=$(command -v nvcc); then PATH=$PATH:$(dirname "$(readlink -f "$nvcc")"); fi
export PATH=$PATH:/usr/local/cuda/bin
python=${PYTHON:-python3}
total=${LLMCORE_GPU_SECONDS:-520}
failed=0
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$PWD/build/gpu-inductor}

# note NAME STATUS SECONDS WHY: a line for the report.
note() {
  printf '%s\t%s\t%s\t%s\n' "$@" >>"$out/parts.tsv"
  printf '== %-12s %-15s %4ss  %s\n' "$@"
  [[ $2 == done || $2 == given ]] || failed=1
}

# left RESERVE: seconds for a part when so many must remain.
left() { echo $((total - SECONDS - 6 - $1)); }

# part NAME LIMIT RESERVE COMMAND...: at most LIMIT seconds, and RESERVE must remain; its output is NAME.log.
part() {
  local name=$1 limit=$2 most began=$SECONDS status
  most=$(left "$3")
  shift 3
  ((most < limit)) && limit=$most
  if ((limit < 10)); then
    note "$name" "not run" 0 "no time was left"
    return 1
  fi
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
  status=$?
  case $status in
    0) note "$name" "done" $((SECONDS - began)) "" ;;
    124 | 137) note "$name" "did not finish" $((SECONDS - began)) "stopped after ${limit} s" ;;
    *) note "$name" "failed" $((SECONDS - began)) "exit status $status; $(tail -n 1 "$out/$name.log" | tr '\t\r' '  ' | cut -c -160)" ;;
  esac
  return $status
}

finish() {
  local name
  for name in "$@"; do note "$name" "not run" 0 "$why"; done
  "$python" -m benchmarks.gpu.report "$out" >/dev/null || failed=1
  printf '\n'
  cat "$out/gpu.md"
  exit $failed
}

"$python" -m benchmarks.gpu.report needs
later=(tests benchmarks memcheck racecheck tests-slow)
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)
if [[ -z $capability ]]; then
  why="nvidia-smi finds no GPU"
  finish build "${later[@]}"
fi

# ---- build; meanwhile torch compiles its models, which the benchmarks then find in its cache ----
target=${capability/./}
[[ $target == 90 ]] && target=90a
began=$SECONDS
timeout -k 5 150 "$python" -m benchmarks.gpu.torch_models >"$out/torch-compile.log" 2>&1 &
compiling=$!
if [[ -n ${LLMCORE_GPU_SITE:-} ]]; then
  site=$(cd "$LLMCORE_GPU_SITE" && pwd) || exit 1
  note build given 0 "LLMCORE_GPU_SITE"
else
  site=$PWD/build/gpu-site
  rm -rf "$site"
  SKBUILD_BUILD_DIR=$PWD/build/gpu-wheel part build 240 0 "$python" -m pip install --no-build-isolation --no-deps --no-index \
    --target "$site" -Ccmake.define.LLMCORE_CUDA=ON -Ccmake.define.LLMCORE_CUDA_TARGETS="$target-real" .
  if [[ $? != 0 || ! -f $site/llmcore/libllmcore_cuda.so ]]; then
    kill "$compiling" 2>/dev/null
    why="there is no build"
    finish "${later[@]}"
  fi
fi
export PYTHONPATH=$site:$PWD
wait "$compiling"
status=$?
((status)) && note torch-compile "did not finish" $((SECONDS - began)) "torch compiles in the benchmarks instead" ||
  note torch-compile "done" $((SECONDS - began)) ""

# ---- tests ----
has() { "$python" -c "import $1" 2>/dev/null; }
if ! has ml_dtypes; then # of which tests need numpy's bfloat16 alone
  mkdir -p "$out/stand-in"
  # shellcheck disable=SC2046
  part ml_dtypes-stand-in 60 0 "${CXX:-c++}" -std=c++17 -O1 -shared -fPIC \
    $("$python" -c 'import numpy, sysconfig; print("-I" + sysconfig.get_path("include"), "-I" + numpy.get_include())') \
    benchmarks/gpu/bfloat16.cpp -o "$out/stand-in/ml_dtypes.so" && PYTHONPATH=$PYTHONPATH:$out/stand-in
fi
folders=(tests/{ops,core,losses,models,generate,train}) # the most telling first
workers=$(nproc)
((workers > 6)) && workers=6
pytest=(-v -ra -p no:cacheprovider --continue-on-collection-errors)
has pytest_timeout || pytest+=(-o "addopts=--import-mode=importlib --strict-markers" -W ignore::pytest.PytestConfigWarning)
gpu_tests() { # NAME LIMIT RESERVE MARKS
  OMP_NUM_THREADS=4 part "$1" "$2" "$3" "$python" -m benchmarks.gpu.pytest_workers "$workers" "$out/$1.jsonl" "${pytest[@]}" -m "$4" \
    "${folders[@]}"
}
gpu_tests tests 130 200 "gpu and not slow and not peers"

# ---- benchmarks ----
limit=$(left 85)
((limit > 230)) && limit=230
tiny=()
[[ ${LLMCORE_GPU_TINY:-} == 1 ]] && tiny=(--tiny)
part benchmarks "$limit" 0 "$python" -m benchmarks.gpu.run "${tiny[@]}" --budget $((limit - 25)) --json "$out/rows.json"

# ---- sanitizers: as many tests of ops, from everywhere, as there is time for ----
# Each tensor has memory of its own there, so that memcheck knows where it ends.
for tool in memcheck racecheck; do
  if ! command -v compute-sanitizer >/dev/null; then
    note $tool "not run" 0 "compute-sanitizer is not installed"
    continue
  fi
  cache=1
  [[ $tool == memcheck ]] && cache=0
  LLMCORE_CUDA_CACHE=$cache LLMCORE_TESTS_SECONDS=28 LLMCORE_TESTS_RESULTS=$out/$tool.jsonl part $tool 45 0 compute-sanitizer \
    --tool $tool --target-processes all --error-exitcode 9 "$python" -m pytest -p benchmarks.gpu.pytest_workers "${pytest[@]}" \
    -m "gpu and not slow and not peers" tests/ops
done

gpu_tests tests-slow 300 0 "gpu and (slow or peers)"
finish
