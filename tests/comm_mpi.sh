#!/bin/bash
# comm_mpi.sh BUILD SOURCE: the MPI engine at 1 to 5 ranks: its values, and each way to fail, by name.
set -u
program=$1/tests/mpi_comm_ranks
if [ ! -x "$program" ]; then
    echo "built without MPI: nothing to run"
    exit 77
fi
source "$2/tests/support/mpi_environment.sh"

failures=0
complain() {
    echo "FAILED: $1"
    printf '%s\n' "$output" | tail -20
    failures=$((failures + 1))
}

# passes RANKS WAY
passes() {
    output=$(timeout -k 5 120 mpiexec -n "$1" "$program" "$2" 2>&1) || complain "$2 at $1 ranks"
}

# fails RANKS TIMEOUT_S WAY TEXT [RANKS_ASKED]: ends by itself, not with success, and says TEXT
fails() {
    output=$(timeout -k 5 25 mpiexec -n "$1" "$program" "$3" "$2" ${5:+"$5"} 2>&1)
    local code=$?
    if [ $code = 0 ] || [ $code = 124 ]; then # 124: timeout had to end it
        complain "$3 at $1 ranks ended with $code"
    elif ! grep -qF -- "$4" <<<"$output"; then
        complain "$3 at $1 ranks does not say: $4"
    fi
}

for ranks in 1 2 3 4 5; do
    passes $ranks borrowing
    passes $ranks sending
done
if [ -f "$1/libmeshfold_cuda_emulated.so" ]; then
    export MESHFOLD_CUDA_MODULE=$1/libmeshfold_cuda_emulated.so MESHFOLD_TEST_DEVICE=cuda
    for ranks in 1 2 3 4; do passes $ranks on_device; done
    unset MESHFOLD_CUDA_MODULE MESHFOLD_TEST_DEVICE
fi
fails 3 60 mismatch "axis all, operation 2: rank 0 called broadcast of 64 bytes with root 0, rank 1 called"
fails 3 60 other_parts "rank 1 called reduce_scatter of 12 f32 with other offsets"
fails 3 60 other_block "axis all, operation 1: alltoall: rank 1 sends 12 bytes to rank 0, which expects 10"
fails 3 1 late_alltoall "waited 1 s for rank 1 in alltoall"
fails 2 60 other_group "rank 0 creates axis columns, rank 1 another group"
fails 3 1 late "waited 1 s for rank 1 in barrier"
fails 3 1 late_request "waited 1 s for rank 1 in broadcast of 64 bytes"
fails 2 1 late_signal "rank 0 waited 1 s for rank 1 to signal 9 in slot 2"
fails 3 60 own_error "rank 1: no such data file"
fails 3 60 killed "signal 9"
fails 3 60 no_memory "rank 0: no memory for weights"
fails 3 60 no_memory "rank 2: axis all: rank 0 has no memory to share"
fails 2 60 borrowing "3 ranks asked for, but mpiexec started 2" 3
[ $failures = 0 ] && echo "all ways end as they should"
exit $((failures > 0))
