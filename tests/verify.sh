#!/usr/bin/env bash
# verify.sh BUILD SOURCE: `meshfold verify` as a user runs it: every layout agrees with one rank, what does not is said
# and ends with 1, under mpiexec too.
set -u
meshfold=$1/meshfold
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
source "$2/tests/support/mpi_environment.sh"
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE

failures=0
complain() {
    echo "FAILED: $*"
    sed 's/^/    /' output errors
    failures=$((failures + 1))
}

# run CODE RANKS WORD...: meshfold verify WORD... exits with CODE, under mpiexec where RANKS is not 0.
run() {
    local wanted=$1 ranks=$2 code=0
    local command=("$meshfold" verify)
    shift 2
    [ "$ranks" = 0 ] || command=(mpiexec -n "$ranks" "${command[@]}")
    timeout -k 5 120 "${command[@]}" "$@" >output 2>errors || code=$?
    [ $code = "$wanted" ] || complain "verify $*, $ranks processes: exit $code, expected $wanted"
}
has() { # PATTERN...: the output has lines like these
    local pattern
    for pattern in "$@"; do grep -qE -- "$pattern" output || complain "no line like $pattern"; done
}
has_not() { ! grep -qE -- "$1" output || complain "a line like $1"; }

# value KEY...: a value out of the JSON object in `output`; nothing when it is not there.
value() {
    echo "file(READ \"$PWD/output\" text)
string(JSON value GET \"\${text}\" $*)
message(\"\${value}\")" >value.cmake
    local out
    out=$(cmake -P value.cmake 2>&1) && echo "$out"
}

cat >config.json <<END_OF_CONFIG
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48, "num_hidden_layers": 2,
 "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 80, "vocab_size": 260}
END_OF_CONFIG
for i in $(seq 300); do echo "$i bottles of beer on the wall"; done >text
model=(--model config.json --seq 50 --threads 1)
# shellcheck disable=SC2054 # commas are part of a mesh
meshes=(single tsp=2 tsp=3 tp=2 tp=2,reduction=scatter sp=2 sp=2,exchange=ring sp=2,exchange=ulysses
    sp=2,stream=gather tp=2,sp=2 dp=2)

# --- every layout agrees ----------------------------------------------------------------------------------------------
for dtype in f32 bf16; do
    run 0 0 "${model[@]}" --dtype $dtype --mesh "${meshes[@]}"
    has '^model      config.json: [0-9]+ parameters, 2 layers, ' '^data       2 sequences of 50 tokens, .*random ids$' \
        "^numbers    $dtype, " '^reference  single$' '^ +tsp=2 +tsp=3 +tp=2$' '^loss +[0-9]' '^gradient norm +[0-9]' \
        '^self_attn.q_proj +[0-9.e-]+ \([01]\) +[0-9]' '^lm_head +[0-9]' \
        '^10 of 10 layouts agree with single within [0-9.e-]+; the largest relative error is [0-9.e-]+ \(.*=.*, .*\)$'
    has_not '[0-9)] \*( |$)'
    [ "$(awk '/^ +[a-z]+=/ { tables++; cells += NF } END { print (tables > 1), cells }' output)" = '1 10' ] ||
        complain "$dtype: not every mesh has one column"
    [ "$(awk '/^ / && length > 100' output)" = '' ] || complain "$dtype: tables wider than 100 columns"
    [ "$(grep -c '^running [0-9]* of 11: ' errors)" = 11 ] || complain "$dtype: not one line a mesh on stderr"
done
run 0 0 "${model[@]}" --mesh single --mesh tsp=2 --all --recompute block --no-borrow
has '^model.layers.0.mlp.up_proj ' '^model.layers.1.mlp.up_proj ' '^1 of 1 layout agrees with single '
run 0 0 "${model[@]}" --mesh single --mesh single
has '; no value differs$'

# --- text, and weights of a file --------------------------------------------------------------------------------------
"$meshfold" train --data text "${model[@]}" --steps 2 --out trained >output 2>errors || complain 'training fails'
run 0 0 --init trained/model --data text --seq 40 --batch 2 --mesh tsp=2 dp=3 sp=2 dp=2
has '^model      trained/model: ' '^data       12 sequences of 40 tokens, from the text of --data$' \
    '^reference  tsp=2$' '^3 of 3 layouts agree with tsp=2 '

# --- what does not agree ----------------------------------------------------------------------------------------------
run 1 0 "${model[@]}" --mesh single tsp=3 --tolerance 1e-12
has '^self_attn.q_proj .* \*$' '^0 of 1 layout agrees with single within 1e-12; '
! grep -q error errors || complain 'beyond tolerance: an error message'
cp -r trained broken
weights=broken/model/model.safetensors
printf '\x00\x00\xc0\x7f' | dd of=$weights bs=1 seek=$(($(stat -c %s $weights) - 4)) conv=notrunc status=none
run 1 0 --init broken/model --seq 40 --mesh tsp=2 single
grep -qE '^meshfold: error: rank 0: --mesh tsp=2: the (loss|gradient [a-z0-9._ ]*) is not finite$' errors ||
    complain 'a weight that is not a number: not said'

# --- the machine's version --------------------------------------------------------------------------------------------
run 0 0 "${model[@]}" --mesh single tsp=2 dp=2 --json
[ "$(wc -l <output) $(wc -c <errors)" = '1 0' ] || complain '--json prints other things than one line'
[ "$(value dtype) $(value sequences) $(value seq) $(value reference mesh) $(value agree)" = 'f32 2 50 single 2' ] ||
    complain '--json: other values'
[ "$(value layouts 0 mesh) $(value layouts 0 agrees) $(value layouts 1 ranks)" = 'tsp=2 ON 2' ] ||
    complain '--json: other layouts'
for key in model params data batch recompute seed tolerance 'reference loss' 'reference grad_norm' 'layouts 1 loss' \
    'layouts 1 grad_norm' 'layouts 1 loss_error' 'layouts 1 grad_norm_error' 'layouts 1 largest_error' \
    'layouts 1 largest_error_in' 'layouts 1 param_errors model.layers.1.mlp.down_proj.weight'; do
    # shellcheck disable=SC2086 # a key is some words
    [ -n "$(value $key)" ] || complain "--json has no $key"
done
run 1 0 "${model[@]}" --mesh single tsp=2 --json --tolerance 1e-12
[ "$(value agree) $(value layouts 0 agrees)" = '0 OFF' ] || complain '--json: says that all agree'

# --- ranks that are processes -----------------------------------------------------------------------------------------
if [ -x "$1/tests/mpi_parity_ranks" ]; then
    run 0 2 "${model[@]}" --mesh single tsp=2 sp=2,exchange=ulysses dp=2
    has '^3 of 3 layouts agree with single '
    run 0 4 "${model[@]}" --mesh single tp=2,sp=2,exchange=ring tsp=4 dp=2,tp=2
    has '^3 of 3 layouts agree with single '
    [ "$(grep -c 'layouts agree' output)" = 1 ] || complain 'more than one process prints'
    run 0 2 "${model[@]}" --mesh tsp=2 single --no-borrow --dtype bf16
    has '^1 of 1 layout agrees with tsp=2 '
    run 1 2 "${model[@]}" --mesh single tsp=2 --tolerance 1e-12
    for ranks in 2 4; do
        run 2 $ranks "${model[@]}" --mesh single tsp=3
        [ "$(grep '^meshfold: ' errors)" = "meshfold: error: --mesh tsp=3: is 3 ranks, but mpiexec started $ranks: give \
mpiexec -n 3 or a mesh of $ranks ranks" ] || complain "tsp=3 under mpiexec -n $ranks: not one line that says it"
        [ ! -s output ] || complain "tsp=3 under mpiexec -n $ranks: something is printed"
    done
fi

# --- help -------------------------------------------------------------------------------------------------------------
run 0 0 --help
has '^usage: meshfold verify --model' '^  --mesh MESH\.\.\. ' '^  --tolerance X ' '^Examples$' '^Exit status: 0 '

[ $failures = 0 ] && echo "verify: all as expected"
exit $((failures > 0))
