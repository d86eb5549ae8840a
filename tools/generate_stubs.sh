#!/usr/bin/env bash
# Writes python/llmcore/_core.pyi from the extension module that `import llmcore` finds (install first, editable or
# not). With --check, only compares, and fails if the committed file is out of date.
set -euo pipefail
committed=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/python/llmcore/_core.pyi
config=$(dirname "$committed")/../../pyproject.toml
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
pybind11-stubgen llmcore._core --exit-code --enum-class-locations DType:llmcore._core \
  --enum-class-locations Activation:llmcore._core -o "$fresh" 2>"$fresh/log" || {
  cat "$fresh/log"
  exit 1
}
stub=$fresh/llmcore/_core.pyi
ruff check --quiet --config "$config" --select I,UP,F401,RUF022 --fix "$stub"
ruff format --quiet --config "$config" "$stub"
if [[ ${1:-} == --check ]]; then
  diff -u "$committed" "$stub" || {
    echo "python/llmcore/_core.pyi is out of date: run tools/generate_stubs.sh"
    exit 1
  }
  echo "python/llmcore/_core.pyi is current"
else
  cp "$stub" "$committed"
fi
