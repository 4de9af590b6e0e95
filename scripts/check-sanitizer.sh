#!/usr/bin/env bash
# check-sanitizer.sh PRESET: configures, builds and runs the tests of a sanitizer's preset (asan or tsan) in its own
# build folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
preset=${1:?usage: check-sanitizer.sh asan or tsan}

if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
cmake --preset "$preset"
cmake --build --preset "$preset" --parallel "$(nproc)"

# gcc 12's thread sanitizer does not start where the kernel spreads addresses over more than 28 bits.
fixed_addresses=()
if [ "$preset" = tsan ] && [ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 0)" -gt 28 ] &&
    setarch "$(uname -m)" -R true 2>/dev/null; then
    fixed_addresses=(setarch "$(uname -m)" -R)
fi
"${fixed_addresses[@]}" ctest --preset "$preset" --parallel "$(nproc)"
