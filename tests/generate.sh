#!/usr/bin/env bash
# generate.sh BUILD SOURCE: `meshfold generate`: the same tokens on every layout, whatever the prompt's length, the
# portions it is read in, and who else goes on beside it; whole characters; wrong input.
set -euo pipefail
meshfold=$1/meshfold
source=$2
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
"$meshfold" train --model tiny --data text --seq 64 --steps 300 --lr 0.005 --threads 1 --out run >train

generate() { "$meshfold" generate --model run/model --threads 1 --json "$@"; }
tokens() { awk '/"tokens": \[/, /\]/' "$1"; }
meshes='single tp=2 tsp=2 tsp=3 tsp=4 sp=2'

# Prompts of 1, 2, 3 (D - 1 of tsp=4) and 10,000 bytes, alone and together.
while cat text; do :; done 2>/dev/null | head -c 10000 >long || true
head -c 1 text >one
head -c 2 text >two
head -c 3 text >three
for mesh in $meshes; do
    generate --mesh "$mesh" --prompt-file one two three long --max-new 24 >"all-$mesh.json" 2>err ||
        complain "$mesh: $(cat err)"
    [ "$(tokens "all-$mesh.json")" = "$(tokens all-single.json)" ] || complain "$mesh: other tokens than single"
done
[ "$(grep -c '"finish": "length"' all-single.json)" = 4 ] || complain 'four answers'
[ "$(tokens all-single.json | grep -c '^ *[0-9]')" = 96 ] || complain 'ninety-six tokens'
for prompt in one two three long; do generate --prompt-file "$prompt" --max-new 24 >"$prompt.json"; done
for prompt in one two three long; do tokens "$prompt.json"; done >alone
[ "$(cat alone)" = "$(tokens all-single.json)" ] || complain 'alone other tokens than together'

# Other portions, streams, exchanges, what is sent instead of read in place, replicas.
while read -r flags; do
    # shellcheck disable=SC2086
    generate $flags --prompt-file one two three long --max-new 24 >other.json 2>err || complain "$flags: $(cat err)"
    [ "$(tokens other.json)" = "$(tokens all-single.json)" ] || complain "$flags: other tokens"
done <<'END'
--mesh single --prefill-chunk 333
--mesh tsp=3 --prefill-chunk 97 --stream ring --exchange ring --no-borrow
--mesh tsp=2 --prefill-chunk 4096 --no-borrow
--mesh sp=2 --exchange ulysses --prefill-chunk 777
--mesh tp=2,sp=2 --reduction scatter --prefill-chunk 501
--mesh dp=2,tsp=2
--mesh dp=3
--mesh dp=6
END

# The first tokens are what `eval`'s model says: a prompt that the training text has goes on as the text does.
generate --prompt 'line 7 of a te' --max-new 8 >known.json
grep -q '"text": "xt that "' known.json || complain "known text: $(grep '"text"' known.json)"

# Chance depends on the seed, not on the layout; few tokens to choose from are few.
generate --prompt 'line ' --temperature 1.5 --seed 3 --max-new 40 >a.json
generate --prompt 'line ' --temperature 1.5 --seed 3 --max-new 40 --mesh tsp=2 >b.json
generate --prompt 'line ' --temperature 1.5 --seed 4 --max-new 40 >c.json
[ "$(tokens a.json)" = "$(tokens b.json)" ] || complain 'drawn tokens differ between layouts'
[ "$(tokens a.json)" != "$(tokens c.json)" ] || complain 'the seed changes nothing'
generate --prompt 'line ' --max-new 40 >greedy.json
for few in '--top-k 1' '--top-p 0.000001'; do
    # shellcheck disable=SC2086
    generate --prompt 'line ' --temperature 1.5 $few --max-new 40 >few.json
    [ "$(tokens few.json)" = "$(tokens greedy.json)" ] || complain "$few is not the best token"
done

# Text: the same as --json's, on stdout alone, whole characters, several answers one behind the other.
"$meshfold" generate --model run/model --prompt 'line 7 of a te' --max-new 8 >out 2>err || complain "$(cat err)"
[ "$(cat out)" = 'xt that ' ] || complain "stdout: $(cat out)"
grep -q '^decode   8 tokens in ' err || complain "figures: $(cat err)"
grep -q '^prefill  13 tokens in ' err || complain "figures: $(cat err)"
"$meshfold" generate --model run/model --prompt 'line 7 of a te' 'line 9 of' --max-new 3 >out 2>err
[ "$(cat out)" = $'--- 1\nxt \n--- 2\n a ' ] || complain "two answers: $(cat out)"
printf 'line 7 of a te' | "$meshfold" generate --model run/model --prompt-file - --max-new 8 >out 2>err || complain "$(cat err)"
[ "$(cat out)" = 'xt that ' ] || complain "from stdin: $(cat out)"
"$meshfold" generate --model run/model --prompt $'\xff\xfe\x00 \xe2\x82' --temperature 3 --max-new 300 >out 2>err ||
    complain "invalid UTF-8: $(cat err)"
iconv -f UTF-8 -t UTF-8 out >/dev/null || complain 'the answer is not UTF-8'
"$meshfold" generate --model run/model --prompt a --max-new 0 >out 2>err || complain "no new tokens: $(cat err)"
[ "$(cat out)" = '' ] || complain "no new tokens: $(cat out)"
generate --prompt a --max-new 0 >nothing.json
grep -q '"finish": "length"' nothing.json || complain "no new tokens: $(cat nothing.json)"
code=0
"$meshfold" generate --model run/model --prompt a --max-new 4 >/dev/full 2>err || code=$?
[ "$code" = 1 ] && [ "$(wc -l <err)" = 1 ] && grep -q 'standard output: No space' err || complain "a full disk: $(cat err)"

# A tokenizer's model; a text ends at its end, unless it is to go on.
vocab=$("$meshfold" tokenize --tokenizer "$source/tests/golden/tokenizer/llama3.json" --data text --out ids.bin >out &&
    awk -F'[:, ]+' '/"vocab_size"/ { print $3 }' ids.json)
cat >config.json <<END
{"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
 "vocab_size": $vocab}
END
"$meshfold" train --model config.json --data ids.bin --seq 32 --steps 30 --lr 0.01 --threads 1 --out ids >train
refused() {
    local pattern=$1 code=0
    shift
    "$meshfold" generate "$@" >out 2>err || code=$?
    [ "$code" = 2 ] && [ "$(wc -l <err)" = 1 ] && grep -q -- "$pattern" err || complain "$*: exit $code: $(cat err)"
}
refused "tokenizer.json: is not there, and a vocabulary of $vocab" --model ids/model --prompt a
cp "$source/tests/golden/tokenizer/llama3.json" ids/model/tokenizer.json
for mesh in single tsp=2; do
    "$meshfold" generate --model ids/model --prompt 'line 1 of' --max-new 12 --mesh "$mesh" --threads 1 --json \
        >"ids-$mesh.json" 2>err || complain "$mesh of ids: $(cat err)"
done
[ "$(tokens ids-tsp=2.json)" = "$(tokens ids-single.json)" ] || complain 'ids: layouts differ'
fifth=$(tokens ids-single.json | grep '^ *[0-9]' | sed -n 5p | tr -dc 0-9)
first=$(tokens ids-single.json | grep '^ *[0-9]' | tr -dc '0-9\n' | grep -n "^$fifth\$" | head -1 | cut -d: -f1)
echo "{\"eos_token_id\": [999999, $fifth]}" >ids/model/generation_config.json
"$meshfold" generate --model ids/model --prompt 'line 1 of' --max-new 12 --threads 1 --json >stopped.json
grep -q '"finish": "stop"' stopped.json || complain "stop: $(cat stopped.json)"
[ "$(tokens stopped.json | grep -c '^ *[0-9]')" = $((first - 1)) ] || complain "stopped late: $(tokens stopped.json)"
"$meshfold" generate --model ids/model --prompt 'line 1 of' --max-new 12 --threads 1 --json --ignore-eos >on.json
[ "$(tokens on.json)" = "$(tokens ids-single.json)" ] || complain '--ignore-eos stops'

refused "needs --prompt" --model run/model
refused "prompt" --model run/model --prompt ''
: >empty
refused "empty: the prompt" --model run/model --prompt-file one empty
refused "none: .*No such file" --model run/model --prompt-file none
refused "stream=gather" --model run/model --prompt a --mesh sp=2 --stream gather
mkdir bare
cp run/model/config.json bare
refused "bare/model.safetensors" --model bare --prompt a
refused "nowhere" --model nowhere --prompt a
refused "top-p" --model run/model --prompt a --top-p 0
refused "temperature" --model run/model --prompt a --temperature -1
# More room than any machine has, which the address sanitizer is not to take for an error.
code=0
ASAN_OPTIONS=${ASAN_OPTIONS:-}:allocator_may_return_null=1 \
    "$meshfold" generate --model run/model --prompt a --max-new 1000000000 >out 2>err || code=$?
[ "$code" = 1 ] && grep -q 'cached keys' err || complain "too long: exit $code: $(cat err)"
# Interrupted answers are all shown, and end with their figures.
"$meshfold" generate --model run/model --prompt a b --max-new 100000 >out 2>err &
for _ in {1..600}; do [ -s out ] || sleep 0.1; done
kill -INT $!
wait $! || complain "interrupted: exit $?"
grep -q '^decode' err || complain "interrupted: $(cat err)"
grep -q '^--- 2' out || complain 'the second of two interrupted answers is not there'
# Long before these prompts are read, once the signal is caught.
for mesh in single dp=2; do
    "$meshfold" generate --model run/model --threads 1 --json --prompt-file long{,,,,,,,,} --prefill-chunk 1 \
        --mesh "$mesh" >reading.json 2>err &
    # The shell's own child, before it becomes the program, catches the signal too.
    for _ in {1..600}; do
        [ "$(cat "/proc/$!/comm")" = meshfold ] &&
            (($(awk '/^SigCgt/ { print "0x" $2 }' "/proc/$!/status") & 2)) && break
        sleep 0.1
    done
    kill -INT $!
    wait $! || complain "interrupted while it reads: exit $?: $(cat err)"
    [ "$(grep -c '"finish": "interrupted"' reading.json)" = 9 ] || complain "interrupted while it reads: $(cat reading.json)"
    ! grep -A1 '"prefill"' reading.json | grep -q '"tokens": 89991,' || complain 'all was read'
done
"$meshfold" generate --help >help
grep -q -- '--prefill-chunk' help || complain help

if [ -x "$1/tests/mpi_parity_ranks" ]; then
    # shellcheck source=support/mpi_environment.sh
    source "$source/tests/support/mpi_environment.sh"
    mpiexec -n 2 "$meshfold" generate --model run/model --mesh tsp=2 --threads 1 --json \
        --prompt-file one two three long --max-new 24 >mpi.json 2>err || complain "mpi: $(cat err)"
    [ "$(tokens mpi.json)" = "$(tokens all-single.json)" ] || complain 'mpi: other tokens'
    on_two=(-n 1 "$meshfold" generate --model run/model --mesh tsp=2 --threads 1)
    ! mpiexec "${on_two[@]}" --prompt abc : "${on_two[@]}" --prompt abd >out 2>err || complain 'mpi: two prompts'
    grep -q 'rank 1: prompt 1 is not the same' err || complain "mpi, two prompts: $(cat err)"
    ! mpiexec -n 2 "${on_two[@]:2}" --prompt-file - <one >out 2>err || complain 'mpi: stdin'
    grep -q 'name a file' err || complain "mpi, stdin: $(cat err)"
fi
exit $((failures > 0))
