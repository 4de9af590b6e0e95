#!/usr/bin/env bash
# cuda_gpu_check.sh BUILD SOURCE: scripts/gpu-check.sh on an emulated GPU: what it runs there passes, what it writes is
# JSON that says so, and what it can't run it names.
set -u
build=$1 check=$2/scripts/gpu-check.sh
[ -e "$build/libmeshfold_cuda_emulated.so" ] || exit 77
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE
export OMP_NUM_THREADS=1

failures=0
complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}
# field FILE KEY...: a value out of a JSON file; nothing when it is not there.
field() {
    local file=$1 value
    shift
    printf 'file(READ "%s" text)\nstring(JSON value GET "${text}" %s)\nmessage("${value}")\n' "$file" "$*" \
        >"$folder/value.cmake"
    value=$(cmake -P "$folder/value.cmake" 2>&1) && echo "$value"
}

"$check" --emulated --build "$build" --out "$folder/out" --only ops,layouts,memory,train >"$folder/output" 2>&1 ||
    complain "it ends with $?: $(cat "$folder/output")"
for part in ops layouts memory; do
    [ "$(field "$folder/out/$part.json" status)" = passed ] || complain "$part: $(cat "$folder/out/$part.json")"
done
[ "$(field "$folder/out/train.json" status)" = 'not run' ] || complain "train: $(cat "$folder/out/train.json")"
[ "$(field "$folder/out/ops.json" figures 0 exit)" = 0 ] || complain 'ops.json has no test'
[ "$(field "$folder/out/memory.json" figures 0 peak_bytes)" = "$(field "$folder/out/memory.json" figures 0 dry_peak_bytes)" ] ||
    complain 'memory.json: a peak is not the planned one'
[ -n "$(field "$folder/out/memory.json" machine gpu)" ] || complain 'no GPU is named'
grep -q '^train  *not run .*no speed' "$folder/output" || complain "what was not run is not named: $(cat "$folder/output")"

# A part that fails is not the end of the others, and makes the whole fail.
code=0
MESHFOLD_EMULATED_BYTES=1000000 "$check" --emulated --build "$build" --out "$folder/out" --only layouts,memory \
    >"$folder/output" 2>&1 || code=$?
[ $code = 1 ] && [ "$(grep -c '^layouts  *FAILED\|^memory  *FAILED' "$folder/output")" = 4 ] ||
    complain "without memory it ends with $code: $(cat "$folder/output")"

for words in '--swift' '--only nothing' '--seconds none' "--from $folder/none" '--out'; do
    code=0
    # shellcheck disable=SC2086 # words on purpose
    "$check" --emulated --build "$build" $words >"$folder/output" 2>&1 || code=$?
    [ $code = 2 ] && grep -q '^gpu-check: ' "$folder/output" || complain "$words: exit $code, $(cat "$folder/output")"
done

[ "$failures" = 0 ] && echo 'gpu-check: all as it should be'
exit $((failures > 0))
