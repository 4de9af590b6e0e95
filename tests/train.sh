#!/usr/bin/env bash
# train.sh BUILD SOURCE: `meshfold train` as a user runs it: what a run's folder holds, that runs repeat and go on, that
# the mesh changes nothing but rounding.
set -u
meshfold=$1/meshfold
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
export OMP_NUM_THREADS=1
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE

failures=0
complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# train NAME WORD...: a run into the folder NAME; its output is NAME.out.
train() {
    local name=$1
    shift
    timeout -k 5 120 "$meshfold" train --data text --threads 1 --out "$name" "$@" >"$name.out" 2>"$name.err" ||
        complain "$name: exit $?: $(cat "$name.err")"
    [ ! -s "$name.err" ] || complain "$name: writes to stderr: $(cat "$name.err")"
}

# value FILE KEY...: a value out of a JSON file; nothing when it is not there.
value() {
    local file=$1 out
    shift
    echo "file(READ \"$PWD/$file\" text)
string(JSON value GET \"\${text}\" $*)
message(\"\${value}\")" >value.cmake
    out=$(cmake -P value.cmake 2>&1) && echo "$out"
}

# losses NAME: step and loss or held-out loss, a line each.
losses() { sed -En 's/^\{"step":([0-9]+),"(loss|eval_loss)":([^,}]+).*/\1 \2 \3/p' "$1/metrics.jsonl"; }

same_losses() { # A B
    cmp -s <(losses "$1") <(losses "$2") ||
        complain "$1 and $2 differ: $(diff <(losses "$1") <(losses "$2") | head -4)"
}

# near_losses A B LIMIT: every loss of A is B's within LIMIT.
near_losses() {
    paste -d ' ' <(losses "$1") <(losses "$2") |
        awk -v limit="$3" '{ d = $3 - $6; if ($1 != $4 || $2 != $5 || d * d > limit * limit) bad = bad "\n" $0 }
            END { if (NR < 2 || bad) { print "off by more than " limit ":" bad; exit 1 } }' ||
        complain "losses of $1 and $2 differ"
}

# tensors FILE: the values, in decimal, of a safetensors file's F32 tensors. In slices, all of them are as many.
tensors() {
    local header
    header=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    tail -c +$((9 + header)) "$1" | od -An -v -tf4 -w4
}

near_models() { # A B LIMIT
    cmp -s <(head -c 200 "$1/model/model.safetensors") <(head -c 200 "$2/model/model.safetensors") ||
        complain "models of $1 and $2 have different headers"
    paste <(tensors "$1/model/model.safetensors") <(tensors "$2/model/model.safetensors") |
        awk -v limit="$3" '{ d = $1 - $2; if (d < 0) d = -d; if (d > worst) worst = d; most += $1 * $1 }
            END { if (!(NR > 1000 && most > 0 && worst <= limit)) { print NR " weights, off by " worst; exit 1 } }' ||
        complain "models of $1 and $2 differ"
}

# Words in an order that has something to learn.
awk 'BEGIN { s = 1; n = split("the a one of and ship sea storm sailor sang sank sailed home again", w, " ")
    for (i = 0; i < 4000; i++) {
        s = (s * 1103 + 12345) % 65536
        printf "%s%s", w[s % n + 1], i % 9 == 8 ? ".\n" : " "
    } }' >text
settings=(--model tiny --seq 48 --batch 2 --steps 12 --lr 3e-3)

# --- what a run leaves ------------------------------------------------------------------------------------------------
train single "${settings[@]}" --eval-every 5
for mesh in 2 3; do train "tsp$mesh" "${settings[@]}" --eval-every 5 --mesh tsp=$mesh; done
step_line='^\{"step":[0-9]+,"loss":[0-9.]+,"grad_norm":[0-9.]+,"lr":[0-9.e-]+,"tokens":[0-9]+,"step_s":[0-9.e-]+,'
step_line+='"tokens_per_s":[0-9.e+]+,"peak_bytes":[0-9]+,"skipped":0\}$'
for run in single tsp2 tsp3; do
    files=$(find "$run" -type f | sort | tr '\n' ' ')
    [ "$files" = "$run/metrics.jsonl $run/model/config.json $run/model/model.safetensors $run/resolved.json \
$run/summary.json " ] || complain "$run holds $files"
    [ "$(grep -cE "$step_line" "$run/metrics.jsonl")" = 12 ] || complain "$run: not 12 lines of steps in metrics.jsonl"
    [ "$(grep -oE '^\{"step":[0-9]+,"eval_loss":[0-9.]+\}$' "$run/metrics.jsonl" | cut -d, -f1 | tr '\n' ' ')" = \
        '{"step":5 {"step":10 {"step":12 ' ] || complain "$run: not held-out losses after steps 5, 10 and 12"
    [ "$(wc -l <"$run/metrics.jsonl")" = 15 ] || complain "$run: metrics.jsonl has other lines"
    ranks=${run#tsp}
    [ "$ranks" != single ] || ranks=1
    for key in mesh engine device dtype recompute seq batch steps params 'loss first' 'loss last' 'loss eval' \
        'step_s median' 'step_s min' tokens_per_s flops_per_step flops_share_of_peak; do
        # shellcheck disable=SC2086 # a key is some words
        [ -n "$(value $run/summary.json $key)" ] || complain "$run: summary.json has no $key"
    done
    for rank in $(seq 0 $((ranks - 1))); do
        for key in rank coords tokens rss_peak_bytes comm 'peak_bytes total' 'peak_bytes weights' 'peak_bytes grads' \
            'peak_bytes optimizer' 'peak_bytes activations' 'peak_bytes stream' 'peak_bytes exchange' \
            'peak_bytes workspace'; do
            # shellcheck disable=SC2086
            [ -n "$(value $run/summary.json ranks $rank $key)" ] || complain "$run: rank $rank has no $key"
        done
        for key in axis op calls bytes borrowed_bytes exposed_s total_s; do
            [ -n "$(value $run/summary.json ranks "$rank" comm 0 $key)" ] ||
                complain "$run: rank $rank: comm has no $key"
        done
    done
    [ "$(value $run/summary.json ranks $((ranks - 1)) rank)" = $((ranks - 1)) ] ||
        complain "$run: ranks are not in order"
    awk -v a="$(value $run/summary.json loss eval)" -v b="$(losses $run | tail -n 1 | cut -d ' ' -f 3)" \
        'BEGIN { exit !(a > 0 && a - b < 1e-7 && b - a < 1e-7) }' ||
        complain "$run: the summary's held-out loss is not the last line's"
    [ "$(value $run/resolved.json steps) $(value $run/resolved.json warmup)" = '12 0' ] ||
        complain "$run: resolved.json has other settings"
    [ "$(value $run/model/config.json hidden_size) $(value $run/model/config.json architectures 0)" = \
        '64 LlamaForCausalLM' ] || complain "$run: config.json is another model's"
done
[ "$(value tsp3/summary.json mesh tsp) $(value tsp3/summary.json ranks 1 coords tsp)" = '3 1' ] ||
    complain 'tsp3: mesh and coords'
[ "$(value tsp3/summary.json engine) $(value tsp3/summary.json dtype)" = 'local f32' ] || complain 'tsp3: engine, dtype'

# --- learning, and the same on every mesh -----------------------------------------------------------------------------
awk -v first="$(value single/summary.json loss first)" -v last="$(value single/summary.json loss eval)" \
    'BEGIN { exit !(first > 5 && first < 6 && last < first - 1) }' || complain 'nothing is learnt'
near_losses single tsp2 1e-3
near_losses single tsp3 1e-3
near_models single tsp2 1e-4
near_models single tsp3 1e-4

# --- what a person sees -----------------------------------------------------------------------------------------------
for pattern in '^model +131.4k parameters: 2 layers' '^mesh +tsp=2, 1 thread a rank, f32' \
    '^step +2 sequences of 48 tokens' \
    '^step  1/12  loss 5\.' '^step 12/12  loss .*  grad .*  lr .* tokens/s  .*% of peak  .* left$' \
    '^eval after step 5: held-out loss ' '^wrote tsp2 \(model in tsp2/model\)$'; do
    grep -qE "$pattern" tsp2.out || complain "no line like $pattern"
done
timeout 60 "$meshfold" train --data text "${settings[@]}" --json --mesh tsp=2 >json || complain '--json fails'
[ "$(wc -l <json) $(grep -c '^{.*}$' json)" = '14 14' ] || complain '--json prints other things than JSON lines'
tail -n 1 json >json-summary
[ "$(value json-summary steps)" = 12 ] || complain 'the last line of --json is not the summary'

# --- again, and on ----------------------------------------------------------------------------------------------------
train again "${settings[@]}" --eval-every 5 --mesh tsp=3
same_losses again tsp3
timeout 60 "$meshfold" train --config tsp3/resolved.json --out resolved >resolved.out ||
    complain '--config resolved.json fails'
same_losses resolved tsp3
cmp -s resolved/model/model.safetensors tsp3/model/model.safetensors || complain 'the same run gives another model'
train more --init tsp3/model --seq 48 --steps 3 --lr 1e-4 --eval-every 1
awk -v before="$(value tsp3/summary.json loss eval)" -v after="$(value more/summary.json loss eval)" \
    'BEGIN { exit !(after < before + 0.05 && after > before - 0.5) }' ||
    complain '--init does not go on where the model was'
train kept --init tsp3/model --seq 48 --batch 2 --steps 1 --lr 0 --mesh tsp=2
awk -v before="$(value tsp3/summary.json loss eval)" -v after="$(value kept/summary.json loss eval)" \
    'BEGIN { d = before - after; exit !(d * d < 1e-12) }' || complain 'a saved model has another loss'
cmp -s kept/model/model.safetensors tsp3/model/model.safetensors || complain 'a model changes without learning'
train more --init more/model --seq 48 --steps 2 --force
[ "$(value more/summary.json steps) $(wc -l <more/metrics.jsonl)" = '2 3' ] || complain '--force keeps what was there'
[ "$(find more -type f | wc -l)" = 5 ] || complain '--force leaves other files'

# --- micro-batches, types, recomputation ------------------------------------------------------------------------------
train accumulated --model tiny --seq 48 --batch 1 --accumulate 2 --steps 12 --lr 3e-3 --eval-every 5
near_losses accumulated single 1e-4
train sent "${settings[@]}" --eval-every 5 --mesh tsp=3 --no-borrow --recompute block
near_losses sent single 1e-3
for mesh in single tsp=2 tsp=3; do train "bf16-$mesh" "${settings[@]}" --eval-every 5 --dtype bf16 --mesh $mesh; done
near_losses bf16-single single 0.05
near_losses bf16-tsp=2 bf16-single 0.02
near_losses bf16-tsp=3 bf16-single 0.02
[ "$(value bf16-tsp=2/summary.json dtype)" = bf16 ] || complain 'bf16-tsp=2: dtype'
[ "$(stat -c %s bf16-tsp=2/model/model.safetensors)" -lt "$(($(stat -c %s tsp2/model/model.safetensors) * 3 / 5))" ] ||
    complain 'bf16-tsp=2: the model is not half the size'

# --- help -------------------------------------------------------------------------------------------------------------
"$meshfold" train --help >help || complain 'train --help fails'
for pattern in '^usage: meshfold train --model' '^  --mesh AXIS=N,' '^  --out DIR ' '^Examples$' '^  tiny '; do
    grep -qE -- "$pattern" help || complain "train --help has no line like $pattern"
done
[ "$(awk '{ if (length > w) w = length } END { print w }' help)" -le 120 ] || complain 'train --help has too long lines'

[ $failures = 0 ] && echo "train: all as expected"
exit $((failures > 0))
