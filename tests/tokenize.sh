#!/usr/bin/env bash
# tokenize.sh BUILD SOURCE: files of ids, their order and description; --show and --decode; what is refused.
set -euo pipefail
meshfold=$1/meshfold
golden=$2/tests/golden/tokenizer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failures=0
complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}
# refused PATTERN WORD...: exit 2 and one line like it, and no file of ids.
refused() {
    local pattern=$1 code=0
    shift
    "$meshfold" tokenize "$@" >out 2>err || code=$?
    [ "$code" = 2 ] && [ ! -s out ] && grep -Eq -- "$pattern" err || complain "$*: exit $code, $(cat out err)"
    [ -z "$(find . -name '*.part' -o -name 'no.*')" ] || complain "$*: leaves $(ls)"
}
tokenize() { "$meshfold" tokenize --tokenizer "$golden/llama3.json" "$@"; }

mkdir text
printf 'one\ntwo\n\nthree' >text/b
printf 'zero' >text/a
printf '' >text/empty
ids() { od -An -v -tu2 -w2 "$1" | xargs; }
whole() { xargs "$meshfold" tokenize --tokenizer "$golden/llama3.json" --decode <<<"$(ids "$1")"; }

tokenize --data text --out files.bin >said || complain 'tokenize fails'
end='<|end_of_text|>'
[ "$(whole files.bin)" = "$(printf 'zero%sone\ntwo\n\nthree%s' "$end" "$end")" ] || complain "files: $(whole files.bin)"
grep -q 'from 2 documents in 3 files' said || complain "tokenize says $(cat said)"
for line in '"type": "uint16"' '"vocab_size": 811' '"separator": 801' '"documents": 2' '"bytes": 18' '"xxh3:'; do
    grep -q "$line" files.json || complain "files.json lacks $line: $(cat files.json)"
done
grep -q "\"count\": $(($(stat -c %s files.bin) / 2))," files.json || complain 'files.json counts wrongly'

tokenize --data text --out lines.bin --document-per-line --separator '<|eot_id|>' --json >said || complain 'lines fail'
[ "$(whole lines.bin)" = 'zero<|eot_id|>one<|eot_id|>two<|eot_id|>three<|eot_id|>' ] || complain "lines: $(whole lines.bin)"
grep -q '"documents": 4' said || complain "--json says $(cat said)"
tokenize --data text/b --out none.bin --separator none --add-special >/dev/null || complain '--separator none fails'
[ "$(whole none.bin)" = "$(printf '<|begin_of_text|>one\ntwo\n\nthree')" ] || complain "none: $(whole none.bin)"
printf 'a<|eot_id|>' >special
tokenize --data special --out special.bin --separator none >/dev/null
[ "$(ids special.bin)" = "64 802" ] || complain "special tokens are cut: $(ids special.bin)"
tokenize --data special --out special.bin --separator none --special-as-text >/dev/null
[[ " $(ids special.bin) " != *" 802 "* && $(whole special.bin) = 'a<|eot_id|>' ]] || complain '--special-as-text'

# Whatever the threads: the same file.
for i in $(seq 300); do echo "line $i of many: $((i * i))" && cat text/b; done >long
cat long long long >text/long
for threads in 1 3 8; do
    tokenize --data text long --out "t$threads.bin" --document-per-line --threads "$threads" >/dev/null
    cmp -s t1.bin "t$threads.bin" && cmp -s t1.json "t$threads.json" || complain "$threads threads: another file"
done
"$meshfold" train --model tiny --data t1.bin --seq 32 --steps 1 >trained 2>&1 ||
    grep -q vocab_size trained || complain "train does not read the ids: $(cat trained)"

[ "$(tokenize --show 'Hello' | awk '{print $2}' | xargs)" = 'H ell o' ] || complain "--show: $(tokenize --show Hello)"
[ "$(tokenize --show 'a' --json)" = '[{"id":64,"token":"a"}]' ] || complain "--show --json"
[ "$(tokenize --decode 64 802 64 --skip-special)" = aa ] || complain '--decode'

known=(--tokenizer "$golden/llama3.json")
refused 'give one of --data, --show and --decode' "${known[@]}"
refused 'give one of --data, --show and --decode' "${known[@]}" --show a --decode 1
refused '--data needs --out' "${known[@]}" --data text
refused 'is named NAME.bin' "${known[@]}" --data text --out no.ids
refused 'absent: cannot be read' "${known[@]}" --data absent --out no.bin
refused 'no text in text/empty: no ids come of it' "${known[@]}" --data text/empty --out no.bin
refused '--separator <x>: .* no such token' "${known[@]}" --data text --out no.bin --separator '<x>'
refused '--decode: x is no id' "${known[@]}" --decode x
refused '--decode: 811 is no id from 0 to 810' "${known[@]}" --decode 811
refused '--tokenizer: .*absent.json' --tokenizer absent.json --show a
refused 'does not say which token ends a text' --tokenizer "$golden/parts.json" --data text --out no.bin

[ "$failures" -eq 0 ] || exit 1
echo "tokenize: all as it should be"
