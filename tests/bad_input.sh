#!/usr/bin/env bash
# bad_input.sh BUILD SOURCE: what `meshfold train` says to wrong flags and broken files: one line that names the
# culprit, exit status 2, nothing written.
set -u
meshfold=$1/meshfold
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
export OMP_NUM_THREADS=1
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE

failures=0
cases=0
complain() {
    echo "FAILED: $1"
    sed 's/^/    /' stderr stdout
    failures=$((failures + 1))
}

# ends CODE PATTERN WORD...: meshfold WORD... exits with CODE after one line on stderr like PATTERN, and leaves nothing.
ends() {
    local wanted=$1 pattern=$2 code=0
    shift 2
    cases=$((cases + 1))
    timeout -k 5 60 "$meshfold" "$@" >stdout 2>stderr || code=$?
    if [ $code != "$wanted" ]; then
        complain "meshfold $*: exit $code, expected $wanted"
    elif [ "$(wc -l <stderr)" != 1 ] || ! grep -qE "^meshfold: error: .*$pattern" stderr || [ -s stdout ]; then
        complain "meshfold $*: not one line like: $pattern"
    elif [ -e out ] || [ -L out ]; then
        complain "meshfold $*: left --out behind"
        rm -rf out
    fi
}
refuses() { # PATTERN WORD...: on top of settings that are all right
    local pattern=$1
    shift
    ends 2 "$pattern" train --config base.json --out out "$@"
}

for i in $(seq 100); do echo "$i bottles of beer on the wall, $i bottles of beer"; done >text
cat >base.json <<END
{"model": "tiny", "data": ["text"], "seq": 32, "steps": 4, "threads": 1}
END

# --- words ------------------------------------------------------------------------------------------------------------
ends 2 'unknown command trian: did you mean train\?' trian
ends 2 'unknown command frobnicate; see meshfold --help' frobnicate
refuses 'unknown flag --sqe: did you mean --seq\?' --sqe 4
refuses 'unknown flag --learning-rate; see meshfold train --help' --learning-rate=4
refuses 'unexpected word 4' --seq 8 4
refuses '--steps needs a value' --steps
refuses '--steps is given twice' --steps 2 --steps 3

# --- numbers ----------------------------------------------------------------------------------------------------------
refuses '--steps 10x: expected an integer from 1 to ' --steps 10x
refuses '--steps 0: expected an integer from 1 to ' --steps 0
refuses '--steps -5: expected an integer from 1 to ' --steps -5
refuses '--steps 1e3: expected an integer from 1 to ' --steps 1e3
refuses '--steps 99999999999999999999: expected an integer from 1 to ' --steps 99999999999999999999
refuses '--batch 1.5: expected an integer from 1 to ' --batch 1.5
refuses '--accumulate 0: expected an integer from 1 to ' --accumulate 0
refuses '--threads 0: expected an integer from 1 to ' --threads 0
refuses '--seed -1: expected an integer from 0 to ' --seed -1
refuses '--steps has an empty value' --steps ''
refuses '--lr has an empty value' --lr=
refuses '--lr 1e-3foo: expected a number from 0 to ' --lr 1e-3foo
refuses '--lr nan: expected a number from 0 to ' --lr nan
refuses '--lr inf: expected a number from 0 to ' --lr inf
refuses '--lr -1: expected a number from 0 to ' --lr -1
refuses '--lr 1e999: expected a number from 0 to ' --lr 1e999
refuses '--beta2 1: expected a number from 0 to 0.99' --beta2 1
refuses '--eps 0: expected a number from ' --eps 0
refuses '--comm-timeout 0: expected a number from ' --comm-timeout 0
refuses '--warmup 4: must be less than --steps 4' --warmup 4
refuses '--min-lr 0.1: must be at most --lr 0.01' --lr 0.01 --min-lr 0.1
refuses '--dtype f16: expected one of f32\|bf16' --dtype f16
refuses '--recompute all: expected one of none\|attention\|block' --recompute all
refuses '--engine gloo: expected one of auto\|local\|mpi\|nccl' --engine gloo

# --- mesh -------------------------------------------------------------------------------------------------------------
for size in 0 -1 x '' 2x 1048577 99999999999999999999; do
    refuses "--mesh tsp=$size: the size must be a whole number from 1 to " --mesh "tsp=$size"
done
refuses '--mesh foo=2: no axis is called "foo"; this version has: dp, tp, sp, tsp' --mesh foo=2
refuses '--mesh =2: no axis is called ""; this version has: dp, tp, sp, tsp' --mesh =2
refuses '--mesh: "tsp" is not an axis and its size, as in tsp=4' --mesh tsp
refuses '--mesh: "" is not an axis and its size, as in tsp=4' --mesh tsp=2,
refuses '--mesh tsp=2,tsp=2: axis tsp is given twice' --mesh tsp=2,tsp=2
refuses '--mesh has an empty value' --mesh ''

# --- data -------------------------------------------------------------------------------------------------------------
: >empty
printf 'a few words' >short
mkdir hollow
ln -s nowhere hollow-link
refuses '--data: nosuch: cannot be read: No such file' --data nosuch
refuses '--data: nosuch: cannot be read: No such file' --data text nosuch
refuses '--data: hollow-link: cannot be read: No such file' --data hollow-link
refuses '--data: no text in empty: ' --data empty
refuses '--data: no text in hollow: 0 files in it' --data hollow
refuses '--data: /dev/null: is neither a regular file nor a folder' --data /dev/null
refuses '--seq 32: the text has 11 bytes, .* use a text of 330 bytes or more$' --data short
refuses '--seq 9000: the text has [0-9]+ bytes, .* use a text of 90010 bytes or more, or --seq [1-9][0-9]+ or less$' \
    --seq 9000
ends 2 'meshfold train needs --data' train --model tiny --out out
ends 2 'meshfold train needs --model: a preset, a config.json or a folder' train --data text --out out

# --- --config ---------------------------------------------------------------------------------------------------------
config() { # PATTERN JSON
    printf '%s' "$2" >settings.json
    ends 2 "$1" train --config settings.json --model tiny --data text --out out
}
config 'settings.json: unknown name "sqe": did you mean "seq"\?' '{"sqe": 4}'
config 'settings.json: unknown name "quantum"; see meshfold train --help' '{"quantum": 4}'
config 'settings.json: "seq" must be an integer, not a string' '{"seq": "4"}'
config 'settings.json: "seq" must be an integer, not a number with a fraction' '{"seq": 4.5}'
config 'settings.json: "lr" must be a number, not null' '{"lr": null}'
config 'settings.json: "seq" 0: expected an integer from 1 to ' '{"seq": 0}'
config 'settings.json: "data" must be an array of strings, not a string' '{"data": "text"}'
config 'settings.json: "force" must be true or false, not an integer' '{"force": 1}'
config 'settings.json: is not valid JSON: .*line 1, ' '{"seq": 4'
config 'settings.json: is not valid JSON: duplicate object key .*line 2, ' $'{"seq": 4,\n "seq": 5}'
config 'settings.json: is not valid JSON: ' ''
config 'settings.json: expected a JSON object' '[4]'
ends 2 'nosuch.json: cannot be opened: No such file' train --config nosuch.json --out out
ends 2 'hollow: is not a regular file' train --config hollow --out out
mkfifo pipe
ends 2 'pipe: is not a regular file' train --config pipe --out out

# --- --model ----------------------------------------------------------------------------------------------------------
model_fields='architectures:["LlamaForCausalLM"] model_type:"llama" hidden_size:16 num_hidden_layers:1
num_attention_heads:2 num_key_value_heads:1 intermediate_size:16 vocab_size:256 tie_word_embeddings:true'

# model_json [FIELD VALUE]: a small model's config.json, with FIELD set to VALUE, or without it where VALUE is empty.
model_json() {
    local field separator='{'
    for field in $model_fields; do
        [[ "${1:-} ${2:-}" != *"${field%%:*}"* ]] || continue
        printf '%s"%s": %s' "$separator" "${field%%:*}" "${field#*:}"
        separator=', '
    done
    [ -z "${2:-}" ] || printf ', "%s": %s' "$1" "$2"
    echo '}'
}
model() { # PATTERN FIELD VALUE
    model_json "$2" "$3" >config.json
    refuses "--model: config.json: $1" --model config.json
}
for field in hidden_size num_hidden_layers num_attention_heads intermediate_size vocab_size; do
    model "$field is missing; it must be a whole number from 1 to " $field ''
    model "$field is null; it must be a whole number from 1 to " $field null
done
for field in hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size \
    vocab_size; do
    for value in -1 0 1.5 1e30 4611686018427387904 true '"16"' '[16]' '{}'; do
        model "$field is [^;]*; it must be a whole number from 1 to " $field "$value"
    done
done
for field in rms_norm_eps rope_theta initializer_range; do
    for value in -1 0 1e300 false '"1e-6"' '[]'; do
        model "$field is [^;]*; it must be a number above 0 and at most " $field "$value"
    done
done
model 'num_attention_heads 2 is not a multiple of num_key_value_heads 3' num_key_value_heads 3
model 'head_dim is 7; it must be even' head_dim 7
model 'head_dim is not given, and hidden_size 17 does not divide by num_attention_heads 2' hidden_size 17
model 'tie_word_embeddings is "yes"; it must be true or false' tie_word_embeddings '"yes"'
model 'architectures.*MambaForCausalLM.*LlamaForCausalLM' architectures '["MambaForCausalLM"]'
model 'architectures is missing and model_type is "gpt2"; it must be "llama"' architectures 'null, "model_type": "gpt2"'
model 'attention_bias' attention_bias true
model 'mlp_bias' mlp_bias true
model 'hidden_act is "gelu"' hidden_act '"gelu"'
model 'attention_dropout is 0.1' attention_dropout 0.1
model 'rope_scaling is of type "yarn"; this version supports "default"' rope_scaling '{"rope_type": "yarn"}'
model 'its sizes make [0-9.e+]+ parameters; at most ' hidden_size '1048576, "num_hidden_layers": 10000,
    "head_dim": 64, "intermediate_size": 16777216'
model_json vocab_size 255 >config.json
refuses 'vocab_size is 255; text is bytes, which need at least 256' --model config.json
model_json | tr -d '}' >config.json
refuses '--model: config.json: is not valid JSON: .*line ' --model config.json
echo '[]' >config.json
refuses '--model: config.json: is not a JSON object' --model config.json
: >config.json
refuses '--model: config.json: is not valid JSON' --model config.json
refuses '--model: no model tinny: a preset \(tiny, .*\), a config.json or a folder that holds one' --model tinny
refuses '--model: hollow/config.json: cannot be opened: No such file' --model hollow
refuses '--model has an empty value' --model ''

# --- --init -----------------------------------------------------------------------------------------------------------
mkdir given
model_json >given/config.json
OMP_NUM_THREADS=1 "$meshfold" train --config base.json --model given --steps 1 --out made >stdout 2>stderr ||
    complain 'a run that is all right fails'
whole=made/model/model.safetensors
header_bytes=$(od -An -tu8 -N8 "$whole" | tr -d ' ')
header=$(tail -c +9 "$whole" | head -c "$header_bytes")
header=${header%"${header##*\}}"} # without its padding
tail -c +$((9 + header_bytes)) "$whole" >data

# eight BYTES: a number in eight bytes, the lowest first.
eight() {
    local i value=$1
    for i in 1 2 3 4 5 6 7 8; do
        # shellcheck disable=SC2059 # the format is the byte
        printf "\\x$(printf %02x $((value & 255)))"
        value=$((value >> 8))
    done
}

# init PATTERN: the broken given/model.safetensors, alone and on two ranks, with and without --model.
init() {
    refuses "rank [01]: given/model.safetensors: $1" --init given
    ends 2 "rank [01]: given/model.safetensors: $1" train --init given --data text --seq 32 --steps 1 --out out \
        --mesh tsp=2
}
broken() { # PATTERN HEADER
    { eight ${#2} && printf '%s' "$2" && cat data; } >given/model.safetensors
    init "$1"
}
edited() { # PATTERN SED_SCRIPT: the header as sed changes it
    local changed
    changed=$(sed "$2" <<<"$header")
    [ "$changed" != "$header" ] || complain "$2 changes nothing"
    broken "$1" "$changed"
}
cp made/model/config.json given/config.json
sed -i 's/"model": "tiny"/"model": "given"/' base.json

ends 2 '--init: nosuch/config.json: cannot be opened: No such file' train --init nosuch --data text --seq 32 --out out
refuses 'nosuch/model.safetensors: cannot be opened: No such file' --init nosuch
init 'cannot be opened: No such file'
: >given/model.safetensors
init 'is no safetensors file: 0 bytes are too few'
head -c 5000 /dev/zero | tr '\0' 'x' >given/model.safetensors
init 'is no safetensors file or cut short'
head -c 100 "$whole" >given/model.safetensors
init 'is no safetensors file or cut short: its header would have [0-9]+ bytes, the file 100'
head -c -1000 "$whole" >given/model.safetensors
init 'tensor model.embed_tokens.weight has data_offsets [0-9]+ to [0-9]+; the file.s data are 0 to '
{ eight 9223372036854775807 && printf '%s' "$header" && cat data; } >given/model.safetensors
init 'is no safetensors file or cut short: its header would have 9223372036854775807 bytes'
{ cat "$whole" && echo more; } >given/model.safetensors
init 'its last 5 bytes belong to no tensor'
broken 'is not valid JSON' "${header%?}"
broken 'is no safetensors file: its header is no JSON object' "[]"
edited 'tensor model.layers.0.self_attn.v_proj.weight overlaps the data before it' 's/\[1536,2048\]/[1024,1536]/'
edited 'tensor [a-z0-9._]* has data_offsets -4 to 1020; the file.s data are 0 to ' 's/\[0,1024\]/[-4,1020]/'
edited 'tensor [a-z0-9._]* has data_offsets 1024 to 0; the file.s data are 0 to ' 's/\[0,1024\]/[1024,0]/'
edited 'tensor [a-z0-9._]* has data_offsets 0 to 9223372036854775807; ' 's/\[0,1024\]/[0,9223372036854775807]/'
edited 'tensor [a-z0-9._]* has data_offsets that are not two whole numbers' 's/\[0,1024\]/[0]/'
edited 'tensor [a-z0-9._]* has 1024 bytes of data, which 512 values of F32 do not fill' 's/\[16,16\]/[16,32]/'
edited 'tensor [a-z0-9._]* has a shape that overflows' 's/\[16,16\]/[4294967296,4294967296]/'
edited 'tensor model.embed_tokens.weight is \[128, 32\], but the model.s is \[256, 16\]' 's/\[256,16\]/[128,32]/'
edited 'tensor model.embed_tokens.weight is \[4096\], but the model.s is \[256, 16\]' 's/\[256,16\]/[4096]/'
edited 'tensor model.norm.weight is I32; F32, BF16 and F16 can be read' \
    's/\("model.norm.weight":{"dtype":"\)F32/\1I32/'
edited 'tensor model.norm.weight has the unknown type Q4' 's/\("model.norm.weight":{"dtype":"\)F32/\1Q4/'
edited 'has no tensor model.norm.weight, which the model needs' 's/model.norm.weight/model.norm.wait/'
edited 'is not valid JSON: duplicate' 's/model.norm.weight/model.embed_tokens.weight/'
sed -i 's/"num_hidden_layers": 1/"num_hidden_layers": 2/' given/config.json
cp "$whole" given/model.safetensors
init 'has no tensor model.layers.1.self_attn.q_proj.weight, which the model needs'
mv given/model.safetensors given/model-00001-of-00001.safetensors
index() { # PATTERN JSON: what is wrong with an index over that file
    echo "$2" >given/model.safetensors.index.json
    refuses "rank [01]: given/model.safetensors.index.json: $1" --init given
}
index 'has no weight_map that says which file a tensor is in' '{}'
index 'is not valid JSON' '{"weight_map": {"model.norm.weight": '
index 'tensor model.norm.weight is in no file of this folder' '{"weight_map": {"model.norm.weight": "../a"}}'
index 'tensor model.norm.weight is in no file of this folder' '{"weight_map": {"model.norm.weight": 7}}'
index 'tensor model.lost is not in model-00001-of-00001.safetensors, where the index has it' \
    '{"weight_map": {"model.lost": "model-00001-of-00001.safetensors"}}'
index 'tensor [a-z0-9._]* of model-00001-of-00001.safetensors is not in the index' \
    '{"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}'
echo '{"weight_map": {"model.norm.weight": "model-2.safetensors"}}' >given/model.safetensors.index.json
refuses 'given/model-2.safetensors: cannot be opened: No such file' --init given
cp given/model-00001-of-00001.safetensors given/model-2.safetensors
index 'tensor [a-z0-9._]* of model-00001-of-00001.safetensors is not in the index|is in model-' \
    '{"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors", "model.embed_tokens.weight": "model-2.safetensors"}}'
rm given/model-2.safetensors
sed -i 's/"model": "given"/"model": "tiny"/' base.json

# --- --out ------------------------------------------------------------------------------------------------------------
ends 2 '--out made: exists and is not empty; name another folder, or give --force to write over it' \
    train --config base.json --out made
ends 2 '--out text: text is a file, not a folder' train --config base.json --out text
ends 2 '--out text: text is a file, not a folder' train --config base.json --out text --force
ends 2 '--out text/run: text is a file, not a folder' train --config base.json --out text/run
ends 2 '--out text/a/b/c: text is a file, not a folder' train --config base.json --out text/a/b/c
ends 2 '--out has an empty value' train --config base.json --out ''
ends 2 '--out 0*: File name too long' train --config base.json --out "$(printf '%0300d' 0)"
if [ "$(id -u)" != 0 ]; then # nothing is closed to root
    mkdir closed
    chmod a-w closed
    ends 2 '--out closed/run: closed cannot be written: Permission denied' train --config base.json \
        --out closed/run
    ends 2 '--out closed: closed cannot be written: Permission denied' train --config base.json --out closed
fi
cmp -s data <(tail -c +$((9 + header_bytes)) "$whole") || complain 'a refused --out was written to'
[ "$(find made -type f | sort | tr '\n' ' ')" = "made/metrics.jsonl made/model/config.json $whole made/resolved.json \
made/summary.json " ] || complain 'a refused --out has other files than before'

# --- sizes that no machine has ----------------------------------------------------------------------------------------
ulimit -v 4000000
head -c 11000000 /dev/zero | tr '\0' 'a' >big
ends 1 'no memory for weights: [0-9]+ bytes of weights; [0-9]+ bytes held, [0-9]+ at the peak' \
    train --model tsp-7b --data big --seq 1000000 --out out
ends 1 'no memory for .*: [0-9]+ bytes of activations; [0-9]+ bytes held, [0-9]+ at the peak' \
    train --model tiny --data big --seq 1000000 --out out
ends 1 'no memory for ' train --model tsp-7b --mesh tsp=2 --data big --seq 1000000 --out out
ends 1 'no memory for ' train --model tiny --data text --seq 32 --batch 1048576 --accumulate 1048576 --out out

# --- verify -----------------------------------------------------------------------------------------------------------
verify() { # PATTERN WORD...: on top of a model
    local pattern=$1
    shift
    ends 2 "$pattern" verify --model tiny "$@"
}
verify 'meshfold verify needs --mesh; see meshfold verify --help'
verify '--mesh tsp=2: one mesh has nothing to be compared with: give two or more' --mesh tsp=2
verify '--mesh foo=2: no axis is called "foo"; this version has: ' --mesh single foo=2
verify '--mesh has an empty value' --mesh single --mesh ''
verify '--mesh sp=2,exchange=star: exchange can.t be "star"; it is ' --mesh single sp=2,exchange=star
verify '--mesh sp=8,exchange=ulysses: .* at least as many query heads on each; there are 4' \
    --mesh single sp=8,exchange=ulysses
verify '--mesh tp=2,sp=4: .* at least as many query heads on each; there are 2' \
    --mesh single tp=2,sp=4 --exchange ulysses
verify '--mesh: more than [0-9]+ sequences would fill' --mesh dp=1000003 dp=1000033 dp=1000037
verify '--tolerance 2: expected a number from 0 to 1' --mesh single tsp=2 --tolerance 2
verify 'unknown flag --steps' --mesh single tsp=2 --steps 4
verify '--data: nosuch: cannot be read: No such file' --mesh single tsp=2 --data nosuch
verify '--seq 9000: the text has [0-9]+ bytes, ' --mesh single tsp=2 --data text --seq 9000
model_json vocab_size 200 >config.json
ends 2 'vocab_size is 200; text is bytes, which need at least 256' \
    verify --mesh single tsp=2 --model config.json --data text
ends 2 'meshfold verify needs --model: a preset, a config.json or a folder' verify --mesh single tsp=2

[ $failures = 0 ] && echo "$cases mistakes, each refused in one line"
exit $((failures > 0))
