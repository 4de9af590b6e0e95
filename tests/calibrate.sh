#!/usr/bin/env bash
# calibrate.sh BUILD SOURCE: this machine measured, and what plan, train and bench then say of it.
set -euo pipefail
meshfold=$1/meshfold
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK
export MESHFOLD_MACHINE=$work/folder/machine.json
failures=0
complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}
# refused PATTERN WORD...: exit 2 and one line like it.
refused() {
    local pattern=$1 code=0
    shift
    "$meshfold" "$@" >out 2>err || code=$?
    [ "$code" = 2 ] && [ ! -s out ] && grep -Eq "$pattern" err || complain "$*: exit $code, $(cat out err)"
}

refused 'needs --cluster, or meshfold calibrate' plan --model tiny --mesh single
refused 'needs --cluster, or meshfold calibrate' plan --model tiny --validate
printf 'x%.0s' {1..4000} >text
"$meshfold" train --model tiny --data text --seq 64 --steps 2 >train || complain 'train fails'
grep -q 'memory and bytes equal' train && grep -q 'predicted .* unknown$' train ||
    complain "train before calibration: $(cat train)"
# The first step finds no workspace that one before it left.
"$meshfold" train --model tiny --data text --seq 64 --dtype bf16 --steps 1 >train || complain 'one step fails'
grep -q 'memory and bytes equal' train || complain "one step: $(cat train)"
refused 'none/file: cannot be created' calibrate --out none/file

"$meshfold" calibrate --quick --passes 1 >out || complain 'calibrate fails'
[ "$(cat out)" = "wrote $MESHFOLD_MACHINE" ] || complain "calibrate says $(cat out)"
cores=$(grep -c '"ranks": [1-9]' "$MESHFOLD_MACHINE" || true)
"$meshfold" calibrate --quick --passes 1 --out other.json >out || complain 'calibrate --out fails'
[ -s other.json ] || complain 'calibrate --out writes nothing'
refused 'unknown flag' calibrate --swift
refused 'passes' calibrate --passes 0

# Without --cluster the machine at hand is meant.
"$meshfold" plan --model tiny --mesh single --seq 256 >here || complain 'plan of the machine at hand fails'
grep -q '^cluster  the machine at hand' here && grep -q '^single .* fits ' here || complain "plan: $(cat here)"

# Real and dry, side by side: memory and bytes of every rank must be equal, whatever the times.
meshes=(single)
[ "$cores" -gt 1 ] && meshes+=(tsp=2 tp=2,reduction=scatter sp=2,stream=gather)
"$meshfold" plan --validate --model tiny --seq 1024 --rounds 1 --dtype bf16 --mesh "${meshes[@]}" >valid ||
    complain '--validate fails'
[ "$(grep -c ' as predicted$' valid)" = $((2 * ${#meshes[@]})) ] || complain "--validate: $(cat valid)"
grep -q 'Error: mean ' valid || complain "--validate sums nothing up: $(cat valid)"
"$meshfold" plan --validate --model tiny --seq 512 --rounds 1 --mesh single --json >valid.json ||
    complain '--validate --json fails'
grep -q '"exact": true' valid.json && grep -q '"mean_paced_error": ' valid.json || complain "$(cat valid.json)"
refused 'begins at 512' plan --validate --model tiny --seq 100
refused 'table of its own' plan --validate --model tiny --explain
refused 'machine at hand' plan --validate --model tiny --cluster other.json
refused 'says nothing of 3 ranks' plan --validate --model tiny --seq 512 --mesh tsp=3

# train and bench end with the prediction; JSON has it too.
"$meshfold" train --model tiny --data text --seq 64 --steps 2 --accumulate 2 --mesh single --out run >train ||
    complain 'train fails'
grep -q 'memory and bytes equal' train && grep -q 'predicted step: ' train || complain "train: $(cat train)"
grep -q '"predicted"' run/summary.json || complain 'summary.json has no prediction'
"$meshfold" bench --model tiny --seq 64 --rounds 1 --steps 1 --mesh single tsp=2 >bench || complain 'bench fails'
[ "$(grep -c ' equal ' bench)" = 2 ] || complain "bench: $(cat bench)"

# The predicted step as a trace.
"$meshfold" plan --model tiny --mesh tsp=2 --seq 64 --cluster "$2/clusters/h100.json" --trace trace.json >out ||
    complain '--trace fails'
for pattern in '"traceEvents"' '"name": *"compute"' '"name": *"tsp"' '"name": *"gemm"' '"ph": *"X"'; do
    grep -q "$pattern" trace.json || complain "the trace has no $pattern"
done

# A damaged description is refused wherever it is looked for.
sed 's/"pace_tflops"/"pace"/' "$MESHFOLD_MACHINE" >broken.json
MESHFOLD_MACHINE=$work/broken.json refused 'pace_tflops must be a list' plan --model tiny --mesh single
sed '0,/"m": \[/s//"m": [9999,/' "$MESHFOLD_MACHINE" >broken.json
MESHFOLD_MACHINE=$work/broken.json refused 'must ascend' plan --model tiny --mesh single

[ "$failures" = 0 ] && echo 'calibrate: all as it should be'
exit $((failures > 0))
