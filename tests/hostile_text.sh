#!/usr/bin/env bash
# hostile_text.sh BUILD SOURCE: tokenize, train and eval on texts that nobody meant well: done, or refused in one line
# that names the file; never waited on.
set -u
meshfold=$1/meshfold
work=$(mktemp -d)
trap 'chmod -R u+rwx "$work"; rm -rf "$work"' EXIT
cd "$work" || exit 1
export MESHFOLD_MACHINE=$work/none.json OMP_NUM_THREADS=1
unset OMPI_COMM_WORLD_SIZE OMPI_COMM_WORLD_RANK PMI_SIZE PMI_RANK MESHFOLD_TRACE
failures=0

for i in $(seq 200); do echo "line $i of a text"; done >text
"$meshfold" train --model tiny --data text --seq 32 --steps 1 --threads 1 --out run >/dev/null || exit 1

tokenize=(tokenize --tokenizer "$2/tests/golden/tokenizer/gpt2.json" --out ids.bin --data)
train=(train --model tiny --seq 32 --steps 1 --threads 1 --data)
eval=(eval --init run/model --seq 32 --windows 4 --threads 1 --data)

# ends CODE PATTERN WORD...
ends() {
    local wanted=$1 pattern=$2 code=0
    shift 2
    timeout -k 5 120 "$meshfold" "$@" >out 2>err || code=$?
    [ $code = "$wanted" ] && { [ $code = 0 ] || [ "$(wc -l <err)" = 1 ]; } && grep -qE -- "$pattern" err out && return
    echo "FAILED: meshfold $*: exit $code, expected $wanted and $pattern: $(head -c 500 err)"
    failures=$((failures + 1))
}
refused() { # PATTERN PATH, by all three
    ends 2 "$1" "${tokenize[@]}" "$2"
    ends 2 "$1" "${train[@]}" "$2"
    ends 2 "$1" "${eval[@]}" "$2"
}

: >empty
mkdir hollow
mkfifo pipe
ln -s loop-b loop-a
ln -s loop-a loop-b
mkdir -p folder/inner
ln -s ../../loop-a folder/inner/link
refused 'no text in empty: ' empty
refused 'no text in hollow: ' hollow
refused 'pipe: is neither a regular file nor a folder' pipe
refused 'loop-a: cannot be read: Too many levels' loop-a
refused 'folder/inner/link: is a link that leads nowhere: Too many levels' folder
refused 'text/x: cannot be read: Not a directory' text/x
cp text closed
chmod 000 closed
[ -r closed ] || refused 'closed: cannot be opened: Permission denied' closed

printf x >one
ends 0 'ids of 16 bits, from 1 document' "${tokenize[@]}" one
ends 2 'the text has 1 bytes' "${train[@]}" one
ends 2 'a text of 1 tokens has nothing to predict' "${eval[@]}" one

# Folders that lead back to themselves, and pipes among files, are passed over.
mkdir circle
cp text circle
mkfifo circle/pipe
ln -s ../circle circle/again
head -c 20000 /dev/zero >zeros
for i in $(seq 2000); do printf '\xff\xc0\xed\xa0\x80\xf4\x90%d\xe2\x82' "$i"; done >broken
head -c 3000000 /dev/zero | tr '\0' a >line
for path in circle zeros broken line; do
    ends 0 'ids of 16 bits, from 1 document' "${tokenize[@]}" "$path"
    ends 0 'held-out loss' "${train[@]}" "$path"
    ends 0 '^loss' "${eval[@]}" "$path"
done

[ $failures = 0 ] || exit 1
echo 'all texts are taken, or refused by name'
