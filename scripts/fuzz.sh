#!/usr/bin/env bash
# fuzz.sh [SECONDS] [TARGET...]: builds the fuzz targets of tests/fuzz for libFuzzer, with the address and undefined
# behaviour sanitizers, and runs each for SECONDS (60), one after another. Inputs that are new go to
# build-fuzz/corpus/TARGET, those that break something to build-fuzz/found. Exit 1 when there is one, 77 when clang has
# no libFuzzer.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}
shift || true

if ! echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
    clang -x c -fsanitize=fuzzer -o /dev/null - 2>/dev/null; then
    echo "fuzz: clang and its libFuzzer are not installed; nothing was run"
    exit 77
fi
if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
cmake --preset fuzz
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for source in tests/fuzz/*.c; do targets+=("$(basename "$source" .c)"); done
fi
cmake --build --preset fuzz --parallel "$(nproc)" --target "${targets[@]/#/fuzz_}"

TMPDIR=$(mktemp -d -p /dev/shm) # where the targets put their files
export TMPDIR OMP_NUM_THREADS=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
trap 'rm -rf "$TMPDIR"' EXIT

broken=0
for target in "${targets[@]}"; do
    own=build-fuzz/corpus/$target
    mkdir -p "$own" build-fuzz/found
    "build-fuzz/tests/fuzz/fuzz_$target" "$own" "tests/fuzz/corpus/$target" -dict=tests/fuzz/words.dict \
        -max_total_time="$seconds" -timeout=60 -malloc_limit_mb=1024 -rss_limit_mb=3072 -print_final_stats=1 \
        -artifact_prefix="build-fuzz/found/$target-" >"build-fuzz/$target.log" 2>&1 || broken=$((broken + 1))
    echo "fuzz: $target: $(grep -oE 'stat::number_of_executed_units: [0-9]+' "build-fuzz/$target.log" | grep -oE '[0-9]+') runs," \
        "$(grep -oE 'cov: [0-9]+' "build-fuzz/$target.log" | tail -1), $(find build-fuzz/found -name "$target-*" | wc -l) found"
done
[ $broken -eq 0 ] || echo "fuzz: see build-fuzz/found and build-fuzz/*.log"
[ $broken -eq 0 ]
