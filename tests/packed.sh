#!/usr/bin/env bash
# packed.sh BUILD SOURCE: `--packed` as a user runs it: documents out of a file of ids, apart on every layout, in training,
# resumed training, evaluation and verify; what is refused.
set -euo pipefail
meshfold=$1/meshfold
golden=$2/tests/golden/tokenizer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export MESHFOLD_MACHINE=$work/none.json OMP_NUM_THREADS=1
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK
failures=0
complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}
refused() { # PATTERN COMMAND WORD...
    local pattern=$1 code=0
    shift
    "$meshfold" "$@" >out 2>err || code=$?
    [ "$code" = 2 ] && [ "$(wc -l <err)" = 1 ] && grep -q -- "$pattern" err || complain "$*: exit $code: $(cat err)"
}
near() { awk -v a="$1" -v b="$2" 'BEGIN { d = (a - b) / a; exit !(a > 0 && d < 1e-6 && d > -1e-6) }'; }

for i in {1..300}; do echo "line $i says $((i * 7919 % 1000))"; done >text
tokenize=("$meshfold" tokenize --tokenizer "$golden/llama3.json" --data text --document-per-line)
"${tokenize[@]}" --out ids.bin >said
"${tokenize[@]}" --out run-on.bin --separator none >said
vocab=$(awk -F'[:, ]+' '/"vocab_size"/ { print $3 }' ids.json)
cat >config.json <<END
{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
 "vocab_size": $vocab}
END

# --- training ---------------------------------------------------------------------------------------------------------
train=("$meshfold" train --model config.json --data ids.bin --seq 70 --batch 2 --steps 6 --threads 1)
"${train[@]}" --accumulate 2 --out whole >whole.said
for mesh in single tsp=2 sp=2,exchange=ulysses dp=2; do
    accumulate=2
    [ $mesh = dp=2 ] && accumulate=1 # the same sequences, two at once instead of one after the other
    "${train[@]}" --packed --accumulate $accumulate --mesh "$mesh" --out "$mesh" >"$mesh.said" ||
        complain "training on $mesh fails"
    grep -q 'of 70 tokens, documents apart; text of' "$mesh.said" || complain "$mesh: documents are not mentioned"
    grep -q 'memory and bytes equal' "$mesh.said" || complain "$mesh: the dry run differs"
done
losses() { sed -n 's/.*"\(eval_\)\?loss":\([0-9.]*\).*/\2/p' "$1/metrics.jsonl"; }
for mesh in tsp=2 sp=2,exchange=ulysses dp=2; do
    paste <(losses single) <(losses "$mesh") | awk '{ d = ($1 - $2) / $1; if (d > 1e-5 || d < -1e-5) bad = 1 }
        END { exit bad || NR != 7 }' || complain "$mesh: $(losses "$mesh" | xargs), single: $(losses single | xargs)"
done
cmp -s <(losses single) <(losses whole) && complain 'documents make no difference'

# --- going on ---------------------------------------------------------------------------------------------------------
"${train[@]}" --packed --accumulate 2 --save-every 3 --out run >said
rm -r run/checkpoints/step-000006
"$meshfold" train --resume run >said || complain 'it does not go on'
cmp -s <(losses single) <(losses run) || complain "went on with $(losses run | xargs), not $(losses single | xargs)"
refused '--packed false: a run that is resumed keeps' train --resume run --packed=false

# --- evaluation and verify --------------------------------------------------------------------------------------------
eval=("$meshfold" eval --init single/model --data ids.bin --seq 50 --batch 3 --threads 1 --json)
loss() { awk '/"loss"/ { gsub(/[",:]/, ""); print $2 }' "./$1"; }
"${eval[@]}" >whole.json
for mesh in single tp=2 sp=3,exchange=ring dp=2,tsp=2; do
    "${eval[@]}" --packed --mesh "$mesh" >"$mesh.json" || complain "eval on $mesh fails"
    near "$(loss single.json)" "$(loss "$mesh.json")" || complain "$mesh: $(loss "$mesh.json"), not $(loss single.json)"
done
near "$(loss single.json)" "$(loss whole.json)" && complain 'eval: documents make no difference'
"$meshfold" verify --model config.json --data ids.bin --packed --seq 60 --mesh single tsp=3 dp=2,tp=2 >said ||
    complain "verify: $(cat said)"
grep -q 'from the text of --data, documents apart' said || complain "verify says $(cat said)"

# --- what is refused --------------------------------------------------------------------------------------------------
refused '--packed: text read as bytes does not say where documents end' \
    train --model tiny --data text --seq 32 --steps 1 --packed
refused '--packed: the description of the ids names no separator' eval --init single/model --data run-on.bin --packed
refused '--packed: needs --data' verify --model config.json --packed --mesh single tsp=2

[ "$failures" = 0 ] && echo 'packed: all as it should be'
exit $((failures > 0))
