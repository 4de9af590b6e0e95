#!/usr/bin/env bash
# eval.sh BUILD SOURCE: `meshfold eval`: the same loss on every layout, and in windows of any length.
set -euo pipefail
meshfold=$1/meshfold
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
for i in {1..400}; do echo "line $i of a text that has $((i * 7919 % 1000)) in it"; done >text
"$meshfold" train --model tiny --data text --seq 64 --steps 20 --threads 1 --out run >train
held=$(awk '/held-out loss/ { print $NF }' train)

loss() { awk '/"loss"/ { gsub(/[",:]/, ""); print $2 }' "./$1"; }
for mesh in single tsp=2 tp=3 sp=2,stream=gather dp=2,tsp=2; do
    "$meshfold" eval --init run/model --data text --seq 77 --batch 3 --mesh "$mesh" --threads 1 --json >"$mesh.json" ||
        complain "$mesh fails"
    awk -v a="$(loss single.json)" -v b="$(loss "$mesh.json")" \
        'BEGIN { d = (a - b) / a; exit !(a > 0 && d < 1e-6 && d > -1e-6) }' || complain "$mesh: $(loss "$mesh.json")"
done
# Every byte but the first is predicted once.
grep -q "\"tokens\": $(($(wc -c <text) - 1))," single.json || complain "tokens: $(grep tokens single.json)"

# The held-out tenth as a text of its own, in the windows that train uses: train's own figure.
bytes=$(wc -c <text)
tail -c $((bytes / 10)) text >tail
windows=$(((bytes / 10 - 1) / 64))
"$meshfold" eval --init run/model --data tail --seq 64 --windows "$windows" --threads 1 >out || complain 'the tail fails'
awk -v a="$held" '/^loss/ { d = $2 - a; exit !(d < 6e-5 && d > -6e-5) }' out || complain "$(cat out), but train says $held"

# A file of ids instead of text: trained on and evaluated, the same on two layouts.
"$meshfold" tokenize --tokenizer "$2/tests/golden/tokenizer/llama3.json" --data text --out ids.bin >out || complain tokenize
vocab=$(awk -F'[:, ]+' '/"vocab_size"/ { print $3 }' ids.json)
cat >config.json <<END
{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
 "vocab_size": $vocab}
END
"$meshfold" train --model config.json --data ids.bin --seq 32 --steps 5 --threads 1 --mesh tsp=2 --out ids >train ||
    complain 'training on ids fails'
grep -q 'text of [0-9]* tokens' train || complain "train on ids: $(cat train)"
for mesh in single tp=2; do
    "$meshfold" eval --init ids/model --data ids.bin --seq 50 --mesh "$mesh" --threads 1 --json >"ids-$mesh.json" ||
        complain "eval of ids on $mesh fails"
done
awk -v a="$(loss ids-single.json)" -v b="$(loss ids-tp=2.json)" \
    'BEGIN { d = (a - b) / a; exit !(a > 0 && d < 1e-6 && d > -1e-6) }' || complain 'ids: losses differ'

refused() {
    local pattern=$1 code=0
    shift
    "$meshfold" eval "$@" >out 2>err || code=$?
    [ "$code" = 2 ] && [ "$(wc -l <err)" = 1 ] && grep -q -- "$pattern" err || complain "$*: exit $code: $(cat err)"
}
printf x >one
refused "vocab_size is 256, but the text's ids are of a vocabulary of $vocab" --init run/model --data ids.bin
refused 'needs --init' --data text
refused 'has nothing to predict' --init run/model --data one
refused '--data' --init run/model --data nothing
refused '--mesh tsp' --init run/model --data text --mesh tsp=0
refused 'config.json' --init nothing --data text

[ "$failures" = 0 ] && echo 'eval: all as it should be'
exit $((failures > 0))
