#!/usr/bin/env bash
# shapes.sh BUILD: `meshfold shapes`: the same clips whatever their number, as .npy and .y4m, and what they show, to train on;
# what is refused.
set -euo pipefail
meshfold=$1/meshfold
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
failures=0
complain() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}
# ends CODE PATTERN WORD...: that exit code, one line like the pattern on stderr, and no file.
ends() {
    local wanted=$1 pattern=$2 code=0
    shift 2
    "$meshfold" shapes "$@" >out 2>err || code=$?
    [ "$code" = "$wanted" ] && [ ! -s out ] && [ "$(wc -l <err)" = 1 ] && grep -Eq -- "$pattern" err ||
        complain "$*: exit $code, $(cat out err)"
    [ -z "$(find . -name '*.part' -o -name 'no.*')" ] || complain "$*: leaves $(ls)"
}
# same BYTES FILE FILE: behind their headers they begin with the same.
same() { cmp -s -i 128 -n "$@"; }

"$meshfold" shapes --out all.npy
[ "$(stat -c %s all.npy)" = $((128 + 256 * 16 * 32 * 32 * 3)) ] || complain "all.npy has $(stat -c %s all.npy) bytes"
head -c 128 all.npy | grep -aq "'descr': '|u1', 'fortran_order': False, 'shape': (256, 16, 32, 32, 3)" ||
    complain "all.npy begins with $(head -c 128 all.npy | tail -c +11)"
"$meshfold" shapes --out few.npy --count 3 --seed 1 --size 32x32 --frames 16
same $((3 * 16 * 32 * 32 * 3)) all.npy few.npy || complain 'fewer clips are other clips'
"$meshfold" shapes --out other.npy --count 3 --seed 2
same $((16 * 32 * 32 * 3)) few.npy other.npy && complain 'another seed gives the same clips'
"$meshfold" shapes --out short.npy --count 1 --frames 5
same $((5 * 32 * 32 * 3)) few.npy short.npy || complain 'shorter clips are other clips'

head -c 128 all.condition.npy | grep -aq "'descr': '<f4', 'fortran_order': False, 'shape': (256, 2, 16)" ||
    complain "all.condition.npy begins with $(head -c 128 all.condition.npy | tail -c +11)"
[ "$(stat -c %s all.condition.npy)" = $((128 + 256 * 2 * 16 * 4)) ] || complain 'all.condition.npy is of another size'
same $((3 * 2 * 16 * 4)) all.condition.npy few.condition.npy || complain 'fewer clips show other things'
same $((3 * 2 * 16 * 4)) few.condition.npy other.condition.npy && complain 'another seed shows the same'

"$meshfold" shapes --out one.y4m --count 1 --frames 4 --size 31x17
[ "$(head -n 1 one.y4m)" = 'YUV4MPEG2 W31 H17 F8:1 Ip A1:1 C444' ] || complain "one.y4m begins with $(head -n 1 one.y4m)"
[ "$(stat -c %s one.y4m)" = $((36 + 4 * (6 + 31 * 17 * 3))) ] || complain "one.y4m has $(stat -c %s one.y4m) bytes"
"$meshfold" --help | grep -q '^  shapes  ' || complain '--help does not list shapes'
"$meshfold" shapes --help | grep -q '^Examples' || complain 'shapes --help lacks examples'

# train CODE PATTERN FILE: that exit code, and in the output a line like the pattern.
train() {
    local code=0
    "$meshfold" train --model stdit-shapes --data "$3" --frames 4 --grid 2x2 --steps 1 --threads 1 >out 2>&1 || code=$?
    [ "$code" = "$1" ] && grep -Eq -- "$2" out || complain "train on $3: exit $code, $(cat out)"
}
train 0 '256 clips in 1 file, 3328 runs of frames, the last 332 held out$' all.npy
train 0 'too short to hold any out: evaluated on what is trained on$' one.y4m
train 0 '^eval after step 1: training loss ' one.y4m
rm one.condition.npy
train 2 'one.y4m: a condition of 2 tokens of 16 channels is needed: one.condition.npy: cannot be opened' one.y4m

ends 2 '--out' --count 3
ends 2 'no.y4m: a .y4m holds one clip, not 256' --out no.y4m
ends 2 'no.mp4: is named neither' --out no.mp4
ends 2 'no.condition.npy: is a name of conditions' --out no.condition.npy
ends 2 '--count' --out no.npy --count 0
for size in 32 32x 7x32 32x4097 -32x32 32x32x3 ' 32x32' 99999x32 axb; do
    ends 2 '--size .*expected a width and a height from 8 to 4096' --out no.npy "--size=$size"
done
ends 1 'absent/no.npy: cannot be created' --out absent/no.npy
if ulimit -f 8; then
    trap '' XFSZ
    ends 1 'no.npy: cannot be written' --out no.npy
fi

[ "$failures" -eq 0 ] || exit 1
echo "shapes: all as it should be"
