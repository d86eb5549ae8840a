# What .ci/run and .ci/full share: the stages, each a function, and what runs them, as many at a time as there are processors.
# To be sourced. A stage runs on one processor, which the library then sees alone, so that neighbours do not disturb each other. It
# prints its output when it has ended, and is a line of the table at the end, with its seconds by the clock and by the processor.
set -euo pipefail
set -m # a stage is a process group, which ends as one
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONPATH LLMCORE_CPU_ISA LLMCORE_DEVICE
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

work=$(mktemp -d "${TMPDIR:-/tmp}/llmcore-ci.XXXXXX")
export SKBUILD_BUILD_DIR=$work/build # outside the tree, and kept: what one stage has compiled the next one does not
python=${PYTHON:-python3}
read -ra cpus < <("$python" -c 'import os; print(*sorted(os.sched_getaffinity(0)))')
names=() summary=() failed=0
declare -A needs command state=([-]=ok) running cpu_of began

finish() {
  for pid in "${!running[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
  printf '\n== summary: %ss by the clock, on %s processors\n' "$SECONDS" "${#cpus[@]}"
  printf '%s\n' "${summary[@]}"
  awk '{clock += $1; processor += $2} END {printf "%-40s %5ds %5ds\n", "sum", clock, processor}' "$work/seconds"
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM
touch "$work/seconds"

# ---- stages and their order ----------------------------------------------------------------------------------------------

# stage NAME NEEDS COMMAND...: to be run by run_stages, after the stage that it needs (or -).
stage() {
  names+=("$1")
  needs[$1]=$2
  command[$1]=$(printf '%q ' "${@:3}")
  state[$1]=waiting
}

# Runs what was announced, in that order where needs and free processors allow.
run_stages() {
  local free=("${cpus[@]}") name pid status
  while :; do
    for name in "${names[@]}"; do
      [[ ${state[$name]} == waiting ]] || continue
      case ${state[${needs[$name]}]} in
        failed) ended "$name" 0 0 "not run: it needs ${needs[$name]}" failed ;;
        ok)
          ((${#free[@]})) || continue
          begin "$name" "${free[0]}"
          free=("${free[@]:1}")
          ;;
      esac
    done
    ((${#running[@]})) || return 0
    status=0
    wait -n -p pid "${!running[@]}" || status=$?
    free+=("${cpu_of[$pid]}")
    report "${running[$pid]}" "$status"
    unset "running[$pid]"
  done
}

begin() { # NAME CPU, or "all"
  (
    [[ $2 == all ]] || ! command -v taskset >/dev/null || taskset -cp "$2" "$BASHPID" >/dev/null
    set +e
    (
      set -e
      eval "${command[$1]}"
    )
    status=$?
    times >"$work/$1.times" # of this shell, and of all that it has waited for
    exit $status
  ) </dev/null >"$work/$1.log" 2>&1 &
  running[$!]=$1
  cpu_of[$!]=$2
  began[$1]=$EPOCHREALTIME
  state[$1]=runs
}

report() { # NAME STATUS
  local clock processor=0 verdict=ok now=ok
  clock=$(awk "BEGIN {print ${EPOCHREALTIME/,/.} - ${began[$1]/,/.}}")
  if [[ -s $work/$1.times ]]; then
    processor=$(tr 'ms' '  ' <"$work/$1.times" | awk '{sum += 60 * ($1 + $3) + $2 + $4} END {print sum}')
  fi
  if (($2)); then verdict="FAILED ($2)" now=failed; fi
  printf '\n== %s: %s\n' "$1" "$verdict"
  cat "$work/$1.log"
  ended "$1" "$clock" "$processor" "$verdict" $now
}

ended() { # NAME CLOCK CPU VERDICT STATE
  state[$1]=$5
  [[ $5 == ok ]] || failed=1
  summary+=("$(printf '%-40s %5.0fs %5.0fs  %s' "$1" "$2" "$3" "$4")")
  echo "$2 $3" >>"$work/seconds"
}

# One stage now, on all processors, without which nothing else makes sense.
first() {
  stage "$1" - "${@:2}"
  begin "$1" all
  local status=0
  wait $! || status=$?
  running=()
  report "$1" "$status"
  ((status == 0)) || exit 1
}

# ---- what the stages do --------------------------------------------------------------------------------------------------
# Two environments: `venv` as the README makes it, `peers` with what the tests compare with and the tools. Stages run in the second
# one unless they say otherwise.
activate() { PATH=$work/$1/bin:$PATH; }
wheel() { echo "$work"/dist/llmcore-*.whl; }

# The README's first command, but for the demo. The wheel is made of the same objects.
install() {
  "$python" --version
  c++ --version | head -n 1
  git log -1 --format='commit %h %s' 2>/dev/null || true
  "$python" -m venv "$work/venv"
  activate venv
  local began=$SECONDS
  pip install -v . >"$work/build.log" 2>&1 || {
    tail -n 50 "$work/build.log"
    return 1
  }
  grep -o 'CUDA kernels: .*' "$work/build.log" || true
  echo "pip install .: $((SECONDS - began))s"
  pip wheel -q --no-deps -w "$work/dist" .
  pip list 2>/dev/null | tail -n +3 | tr -s ' \n' ' ,'
  echo
  touch "$work/installed"
}

# The README's second command, on all processors as it will be; it must not compile again what the first one has.
readme_tests() {
  activate venv
  ! command -v taskset >/dev/null || taskset -cp "$(IFS=,; echo "${cpus[*]}")" "$BASHPID" >/dev/null
  local line compiled
  line=$(grep -E '^[^#`]*python -m pytest' README.md)
  [[ $(wc -l <<<"$line") == 1 ]] || {
    echo "expected one line with 'python -m pytest' in README.md, got:" "$line"
    return 1
  }
  echo "README: $line"
  (
    export PIP_QUIET=2
    eval "$line"
  )
  compiled=$(find "$SKBUILD_BUILD_DIR" -name '*.o' -newer "$work/installed")
  [[ -z $compiled ]] || {
    echo "expected nothing to be compiled again, got:" "$compiled"
    return 1
  }
}

# The best instruction set of this machine, then the others.
instruction_sets() {
  "$work/venv/bin/python" -c 'import llmcore as l; i = l.build_info(); print(i["isa"], *sorted({*i["isas_supported"]} - {i["isa"]}))'
}

# Times are told, not judged: the machine is busy with another stage.
limits() {
  activate venv
  local bytes limit=5000000
  if unzip -l "$(wheel)" | grep libllmcore_cuda.so; then limit=10000000; fi
  bytes=$(stat -c %s "$(wheel)")
  echo "wheel: $bytes bytes (limit $limit)"
  python .ci/import_time.py
  ((bytes < limit))
}

peers_environment() {
  "$python" -m venv "$work/peers"
  echo 'torch==2.13.0+cpu' >"$work/constraints.txt" # never the CUDA build, which brings gigabytes
  "$work/peers/bin/pip" install -qq -c "$work/constraints.txt" "$(wheel)[test,peers,dev]"
  "$work/peers/bin/python" -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
}

# tests ISA PYTEST-ARGUMENTS...: with the kernels of one instruction set; "best" is what the machine has.
tests() {
  activate peers
  [[ $1 == best ]] || export LLMCORE_CPU_ISA=$1
  python -m pytest -q "${@:2}" || {
    local status=$?
    ((status == 5)) && [[ " ${*:2} " == *" slow"* ]] # 5: there are none
  }
}

lint() {
  activate peers
  local status=0
  ruff check . || status=1
  ruff format --check . || status=1
  git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format --dry-run -Werror || status=1
  mypy || status=1
  tools/generate_stubs.sh --check || status=1
  return $status
}

# Every workload of the benchmarks, without timing it.
benchmarks() {
  activate peers
  python -m pytest -q benchmarks/ops --benchmark-disable
}

symbols() {
  activate peers
  LLMCORE_BUILD_DIR=$SKBUILD_BUILD_DIR python -m pytest -q tests/test_symbols.py
}

# built FOLDER SOURCE OPTIONS... -- TARGETS...: configured and compiled; the output only where it fails.
built() {
  local folder=$work/$1 source=$2
  shift 2
  local -a options=()
  while (($#)) && [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  [[ $source != . ]] || options+=(-Dpybind11_DIR="$(python -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$(command -v python)")
  {
    cmake -S "$source" -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=Release "${options[@]}" &&
      ninja -C "$folder" "${@:2}"
  } >"$folder.build.log" 2>&1 || {
    tail -n 50 "$folder.build.log"
    return 1
  }
}

# The extension module with AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the package.
build_sanitized() { # ISA...
  activate peers
  built sanitized . -DLLMCORE_SANITIZE=ON -DLLMCORE_CUDA=OFF -DLLMCORE_ISAS="$(printf '%s\n' "$@" | sort -u | paste -sd';')"
  mkdir "$work/sanitized-tree"
  cp -r "$(python -c 'import llmcore, os; print(os.path.dirname(llmcore.__file__))')" "$work/sanitized-tree/"
  cp "$work"/sanitized/_core*.so "$work/sanitized-tree/llmcore/"
}

# Python itself is not instrumented: the runtime is loaded first, and what the interpreter never frees is no leak of ours.
sanitized_tests() { # ISA PYTEST-ARGUMENTS...
  activate peers
  export PYTHONPATH=$work/sanitized-tree ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc
  export LLMCORE_CPU_ISA=$1 LD_PRELOAD
  LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so)"
  python -c "import llmcore._core as c; print(c.__file__, c.current_isa())"
  python -m pytest -q -p no:cacheprovider "${@:2}"
}

# The pool and the allocator alone, in a program of their own: seconds instead of an instrumented extension module.
thread_sanitizer() {
  activate peers
  built threads . -DLLMCORE_SANITIZE=thread -DLLMCORE_ISAS=baseline -DLLMCORE_CUDA=OFF -- stress_threads
  timeout 120 "$work/threads/stress_threads"
}

# What nvcc says of the CUDA kernels, for the given architectures: they compile without a warning, and none spills registers.
cuda_kernels() { # ARCHITECTURES; without any: what is in the wheel
  activate peers
  if (($# == 0)); then
    unzip -l "$(wheel)" | grep libllmcore_cuda.so
    python tools/ptxas_report.py "$work/build.log"
  elif command -v nvcc; then
    built cuda . -DLLMCORE_CUDA=ON -DLLMCORE_CUDA_TARGETS="$1" -DLLMCORE_ISAS=baseline -DLLMCORE_WERROR=ON -- llmcore_cuda
    python tools/ptxas_report.py "$work/cuda.build.log"
  else
    echo "left out: there is no nvcc"
  fi
}

# The same kernels on the CPU, by the emulator, in place of a GPU.
build_emulator() { # FOLDER OPTIONS...
  activate peers
  built "$1" tests/cuda -DLLMCORE_WERROR=ON "${@:2}"
  ctest --test-dir "$work/$1" --output-on-failure | tail -n 12
}
emulated_tests() { # FOLDER PYTEST-ARGUMENTS...
  activate peers
  export LLMCORE_CUDA_LIBRARY=$work/$1/libllmcore_cuda.so LLMCORE_CUBLASLT=$work/$1/libcublasLt.so.13
  python -c 'import llmcore; print(llmcore.build_info()["cuda"]["name"])'
  python -m pytest -q -m "gpu and not peers and not slow" "${@:2}"
}
