#!/usr/bin/env bash
# generate_clips.sh BUILD SOURCE: `meshfold generate` of a model of videos: the same clips on every layout, however many
# are made at once; files that are what their names say; wrong input.
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

cat >small.json <<'END'
{"architectures": ["SpatialTemporalTransformer"], "model_type": "stdit", "hidden_size": 32, "num_hidden_layers": 2,
 "num_attention_heads": 4, "intermediate_size": 64, "sample_frames": 3, "sample_height": 8, "sample_width": 12,
 "in_channels": 3, "patch_size": 4, "initializer_range": 0.1}
END
"$meshfold" shapes --out shapes.npy --count 16 --frames 4 --size 16x12 >/dev/null
"$meshfold" train --model small.json --data shapes.npy --batch 2 --steps 8 --threads 1 --out run >train
generate() { "$meshfold" generate --model run/model --threads 1 --steps 5 "$@"; }

# Bytes of a .npy behind its header, as decimal numbers, one a line.
values() { tail -c "$2" "$1" | od -An -v -tu1 -w1; }
bytes=$((3 * 3 * 8 * 12 * 3)) # clips, frames, height, width, channels

generate --clips 3 --out single.npy --sheet single.png 2>figures || complain "single: $(cat figures)"
head -c 8 single.png | od -An -tx1 | grep -q '89 50 4e 47' || complain 'the sheet is no PNG'
grep -q '3 clips of 3 frames of 12x8' figures || complain "figures: $(cat figures)"
values single.npy $bytes >expected
[ "$(wc -l <expected)" = $bytes ] || complain 'the size of single.npy'
[ "$(sort -n expected | uniq | wc -l)" -gt 20 ] || complain 'all pixels of single.npy are alike'

# Rounding may carry a pixel over to its neighbour.
same() {
    values "$1" $bytes | paste - expected |
        awk '{d = $1 - $2; if (d < -1 || d > 1) bad++} END {exit bad > 0}'
}
while read -r flags; do
    # shellcheck disable=SC2086
    generate $flags --clips 3 --out other.npy 2>err || complain "$flags: $(cat err)"
    same other.npy || complain "$flags: other clips"
    rm -f other.npy
done <<'END'
--mesh dsp=2
--mesh dsp=3 --stream ring
--mesh dsp=4 --no-borrow
--mesh sp=2 --exchange ring
--mesh tp=2 --reduction scatter
--mesh tsp=2
--mesh dp=2
--mesh dp=2,dsp=2 --batch 1
--batch 2
END
generate --clips 3 --seed 2 --out other.npy 2>err
same other.npy && complain 'another seed, the same clips'

# Replicas share the clips out: two make four in the room of one that makes two.
room() { generate --sheet s.png --json "$@" 2>err | sed -n 's/.*"activations": //p' | head -n 1; }
[ "$(room --clips 4 --mesh dp=2)" = "$(room --clips 2)" ] || complain "dp=2 makes more clips than are wanted: $(cat err)"

# A condition: each clip has its own, whatever stands beside it in a round; guidance takes it farther.
sed 's/"in_channels"/"condition_tokens": 2, "condition_channels": 16, "in_channels"/' small.json >led.json
"$meshfold" train --model led.json --data shapes.npy --batch 2 --steps 8 --threads 1 --out led >/dev/null
led() { "$meshfold" generate --model led/model --threads 1 --steps 5 --condition shapes.condition.npy --clips 3 "$@"; }
led --out led.npy 2>err || complain "led: $(cat err)"
values led.npy $bytes >expected
for flags in '--batch 2' '--batch 1 --mesh dp=2' '--batch 2 --mesh dsp=2,stream=ring'; do
    # shellcheck disable=SC2086
    led $flags --out other.npy 2>err || complain "led, $flags: $(cat err)"
    same other.npy || complain "led, $flags: other clips"
done
led --guidance 30 --out other.npy 2>err || complain "guidance: $(cat err)"
same other.npy && complain 'guidance changes nothing'
values single.npy $bytes >expected

# Streams: one, or one a clip; a larger clip than the model was made for.
generate --clips 1 --out one.y4m 2>err || complain "one.y4m: $(cat err)"
[ "$(head -1 one.y4m | cut -d' ' -f1-3)" = 'YUV4MPEG2 W12 H8' ] || complain "one.y4m: $(head -1 one.y4m)"
generate --clips 2 --frames 5 --grid 3x2 --out two.y4m 2>err || complain "two.y4m: $(cat err)"
grep -q '^wrote two-1.y4m to -2.y4m$' err || complain "two.y4m: $(cat err)"
[ "$(head -1 two-2.y4m | cut -d' ' -f1-3)" = 'YUV4MPEG2 W8 H12' ] || complain "two-2.y4m: $(head -1 two-2.y4m)"
[ "$(grep -ac FRAME two-1.y4m)" = 5 ] || complain 'five frames'
"$meshfold" train --model small.json --frames 2 --grid 1x2 --data shapes.npy --steps 1 --threads 1 --out cut >/dev/null
"$meshfold" generate --model cut/model --threads 1 --steps 1 --clips 1 --out cut.y4m 2>err || complain "cut: $(cat err)"
[ "$(head -1 cut.y4m | cut -d' ' -f1-3)" = 'YUV4MPEG2 W8 H4' ] || complain "not what it was trained on: $(head -1 cut.y4m)"
generate --clips 1 --sheet s.png --json 2>err | grep -q '"steps": 5' || complain "--json: $(cat err)"

refuses() {
    local wanted=$1 code=0
    shift
    "$meshfold" generate "$@" >out 2>err || code=$?
    [ "$code" = 2 ] || complain "$*: exit $code"
    grep -qF -- "$wanted" err || complain "$*: $(cat err)"
    [ "$(wc -l <err)" = 1 ] || complain "$*: more than a line: $(cat err)"
}
refuses 'needs --out or --sheet' --model run/model
refuses '--out a.mp4: clips are written to a .npy or a .y4m' --model run/model --out a.mp4
refuses '--sheet a.jpg: the picture is a .png' --model run/model --sheet a.jpg
refuses '--prompt: is of texts; this model makes clips' --model run/model --prompt x --out a.npy
refuses '--grid 3: expected rows and columns' --model run/model --grid 3 --out a.npy
refuses '--steps' --model run/model --steps 0 --out a.npy
refuses 'dsp cuts all tokens by itself' --model run/model --mesh dsp=2,sp=2 --out a.npy
refuses 'give --condition' --model led/model --out a.npy
refuses '--condition: the model has none' --model run/model --condition shapes.condition.npy --out a.npy
refuses 'a.condition.npy: is a name of conditions' --model led/model --condition shapes.condition.npy \
    --out a.condition.npy
refuses 'shapes.npy: is (16, 4, 12, 16, 3) of |u1; (16, 2, 16) of <f4 is needed' --model led/model --condition shapes.npy --out a.npy
refuses '--sheet /nowhere/a.png: /nowhere cannot be written' --model run/model --sheet /nowhere/a.png
refuses 'are beyond 65535 pixels a side' --model run/model --clips 2000 --sheet a.png
refuses '/nowhere/a.npy' --model run/model --out /nowhere/a.npy
for i in {1..40}; do echo "a text of lines, of which this is number $i"; done >text
"$meshfold" train --model tiny --data text --seq 16 --steps 1 --threads 1 --out texts >/dev/null
refuses '--clips: is of clips; this model makes texts' --model texts/model --clips 2 --prompt x

# Processes.
if [ -x "$1/tests/mpi_parity_ranks" ]; then
    # shellcheck source=support/mpi_environment.sh
    source "$source/tests/support/mpi_environment.sh"
    mpiexec -n 2 "$meshfold" generate --model run/model --threads 1 --steps 5 --clips 3 --mesh dsp=2 --out mpi.npy 2>err ||
        complain "mpi: $(cat err)"
    same mpi.npy || complain 'mpi: other clips'
fi
[ $failures = 0 ] && echo 'the same clips everywhere'
exit $((failures > 0))
