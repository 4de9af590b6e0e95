#!/usr/bin/env bash
# check-cuda.sh: compiles every .cu file below src/ to an object, without linking or running it. Exit 77 when there
# are such files but no nvcc.
set -euo pipefail
cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}"

mapfile -t files < <(find src -name '*.cu' | sort)
if [ "${#files[@]}" -eq 0 ]; then
    echo "CUDA: no .cu files in src, so nothing to compile"
    exit 0
fi
if ! command -v nvcc >/dev/null; then
    echo "CUDA: ${#files[@]} .cu files, but nvcc is not installed; nothing was compiled"
    exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for file in "${files[@]}"; do
    nvcc -std=c++17 --Werror all-warnings -Iinclude -Isrc -c "$file" -o "$folder/object.o"
    echo "CUDA: $file compiles"
done
