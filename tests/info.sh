#!/usr/bin/env bash
# info.sh: `meshfold info`, the list of commands, and how mistakes on the command line end.
set -euo pipefail
meshfold=$1/meshfold
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
    echo "info.sh: $*" >&2
    exit 1
}

# expect CODE PATTERN WORD...: runs meshfold WORD..., wants that exit code and a line of its output like PATTERN.
expect() {
    local code=0 wanted=$1 pattern=$2
    shift 2
    "$meshfold" "$@" >"$folder/output" 2>&1 || code=$?
    [ "$code" -eq "$wanted" ] || fail "meshfold $*: exit $code, expected $wanted: $(cat "$folder/output")"
    grep -qE -- "$pattern" "$folder/output" || fail "meshfold $*: no line like '$pattern' in: $(cat "$folder/output")"
}

# member KEY...: a value out of the JSON in $folder/json.
member() {
    echo "file(READ \"$folder/json\" text)
string(JSON value GET \"\${text}\" $*)
message(\"\${value}\")" >"$folder/member.cmake"
    cmake -P "$folder/member.cmake" 2>&1
}

expect 0 '^meshfold [0-9]+\.[0-9]+\.[0-9]+$' --version
expect 0 '^usage: meshfold COMMAND' --help
expect 0 '^  info ' help
expect 0 '^usage: meshfold info' help info
expect 0 '^  --json ' info --help
expect 2 '^usage: meshfold COMMAND'
expect 2 '^meshfold: error: unknown command inof: did you mean info\?' inof
expect 2 '^meshfold: error: unknown command frobnicate; see' frobnicate
expect 2 '^meshfold: error: unknown flag --jsno: did you mean --json\?' info --jsno
expect 2 '^meshfold: error: --threads 1e3: expected an integer from 1 to ' info --threads 1e3
expect 2 '^meshfold: error: --mesh tsp=0: ' info --mesh tsp=0
expect 2 '^meshfold: error: --mesh: "tsp"' info --mesh tsp
expect 2 '^meshfold: error: --mesh.* is given twice' info --mesh tsp=2,tsp=2

"$meshfold" info --threads 0 >/dev/null 2>"$folder/plain" || true
MESHFOLD_TRACE=1 "$meshfold" info --threads 0 >/dev/null 2>"$folder/traced" || true
[ "$(wc -l <"$folder/plain")" -eq 1 ] || fail "an error takes one line, not: $(cat "$folder/plain")"
grep -qE '^    at .*flag_value\.c:[0-9]+$' "$folder/traced" || fail "no trace in: $(cat "$folder/traced")"

expect 0 '^  cores +[0-9]+ in [0-9]+ package' info
expect 0 '^  memory +[0-9.]+ GiB, [0-9.]+ GiB available' info
expect 0 '^  libraries +.*oneDNN.*jansson [0-9.]+, hwloc [0-9.]+' info
expect 0 '^  ranks +6 with 1 thread each' info --mesh tsp=6 --threads 1
expect 0 '^warning: 1024 ranks x 4096 threads on [0-9]+ cores' info --mesh tsp=1024 --threads 4096
expect 0 '^  for GPUs +(no CUDA|CUDA [0-9.]+, .*cuBLASLt [0-9.]+)' info
expect 0 '^  (GPUs +none: .|cuda:0 +.* multiprocessors, [0-9.]+ GiB)' info
MESHFOLD_CUDA_MODULE=$folder/none.so expect 0 '^  GPUs +none: no CUDA: .*/none.so: cannot open' info

"$meshfold" info --json --mesh tsp=1024 --threads 4096 >"$folder/json"
[ "meshfold $(member version)" = "$("$meshfold" --version)" ] || fail "version in --json: $(member version)"
[ "$(member ranks)" = 1024 ] || fail "ranks in --json: $(member ranks)"
[ "$(member machine usable_cores)" -ge 1 ] || fail "usable_cores: $(member machine usable_cores)"
[ "$(member machine memory_bytes)" -gt 0 ] || fail "memory_bytes: $(member machine memory_bytes)"
member warnings 0 | grep -q '1024 ranks x 4096 threads' || fail "no warning in --json"

echo '{"mesh": "tsp=3", "threads": 2}' >"$folder/run.json"
expect 0 '^  ranks +3 with 5 threads each' info --config "$folder/run.json" --threads 5
echo '{"mesh": 3}' >"$folder/run.json"
expect 2 'run.json: "mesh" must be a string, not an integer' info --config "$folder/run.json"

if [ -w /dev/full ]; then
    code=0
    "$meshfold" info >/dev/full 2>"$folder/output" || code=$?
    [ "$code" -eq 1 ] || fail "a full output: exit $code, expected 1"
    grep -q 'standard output' "$folder/output" || fail "a full output is not named: $(cat "$folder/output")"
fi
echo "info: all as expected"
