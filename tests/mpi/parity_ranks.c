/* parity_ranks.c: one rank of parity over processes: loss and gradients of tsp, and of what other layouts the
 * ranks can take, against one rank's, at every shape and mode, of texts and of videos. train_mpi.sh starts it
 * under mpiexec, which says how many ranks the mesh has. */
#include "support.h"

#include "parity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct runs {
    int shapes; /* at most so many */
    bool no_borrow;
    int bad;         /* runs beyond the tolerance; on rank 0 */
    double worst[2]; /* by type: largest error of all runs */
} runs;

/* Rank 0 judges. */
static void judge(runs *all, const parity_run *run, int ranks) {
    double tolerance = mf_tolerance(run->type), *worst = &all->worst[run->type];
    *worst = fmax(*worst, fmax(run->loss_error, run->worst));
    if (run->loss_error < tolerance && run->worst < tolerance && run->norm_error < tolerance)
        return; /* not NaN */
    printf("%s, %s (%d), %s, recompute %d, %s: loss error %.2e, worst error %.2e (%s)\n", run->shape->name,
           run->mesh_text, ranks, mf_dtype_name(run->type), (int)run->recompute,
           all->no_borrow ? "sent" : "borrowed", run->loss_error, run->worst, run->worst_name);
    all->bad++;
}

static mf_status run_one(mf_world *world, runs *all, parity_run *run) {
    MF_TRY(parity_body(world, run));
    if (mf_world_rank(world) == 0) judge(all, run, mf_world_size(world));
    return MF_OK;
}

/* Which layouts the world's ranks can take. */
typedef struct laid_out {
    int ranks;
    const char *mesh;
} laid_out;
static const laid_out layouts[] = {
    {2, "tp=2"},
    {2, "tp=2,reduction=scatter"},
    {2, "sp=2,exchange=ring"},
    {2, "sp=2,exchange=ulysses"},
    {2, "sp=2,stream=gather"},
    {2, "dp=2"},
    {3, "tp=3,reduction=scatter"},
    {3, "sp=3,exchange=ring,stream=gather"},
    {3, "sp=3,exchange=ulysses"},
    {4, "tp=2,sp=2,exchange=ring"},
    {4, "tp=2,sp=2,stream=gather,reduction=scatter"},
    {4, "tp=2,tsp=2"},
    {4, "tsp=2,sp=2,attention-stream=ring"},
    {4, "dp=2,tsp=2"},
    {4, "dp=2,tp=2,zero=0"},
};

/* The same of models of videos. */
static const laid_out video_layouts[] = {
    {2, "dsp=2"},
    {2, "dsp=2,stream=ring"},
    {2, "dsp=2,stream=gather"},
    {2, "sp=2,exchange=ring"},
    {2, "tp=2,reduction=scatter"},
    {3, "dsp=3"},
    {3, "dsp=3,stream=broadcast"},
    {3, "sp=3,exchange=ulysses"},
    {4, "dsp=4,stream=ring"},
    {4, "dsp=2,tp=2"},
    {4, "dp=2,dsp=2,stream=gather"},
    {4, "tsp=4"},
};

/* Every mode, with documents of texts where all is recomputed, and the loss alone. */
static mf_status run_modes(mf_world *world, runs *all, parity_run *run) {
    for (int mode = MF_RECOMPUTE_NONE; mode <= MF_RECOMPUTE_BLOCK; mode++) {
        run->recompute = (mf_recompute)mode;
        run->two_calls = mode == MF_RECOMPUTE_ATTENTION;
        run->packed = mode == MF_RECOMPUTE_BLOCK && run->shape->config.family != MF_STDIT;
        MF_TRY(run_one(world, all, run));
    }
    run->two_calls = run->packed = false;
    run->forward_only = true;
    return run_one(world, all, run);
}

typedef const parity_case *(*shape_at)(int index);

static mf_status run_mesh(mf_world *world, runs *all, const char *mesh, shape_at at) {
    for (int i = 0; i < all->shapes && at(i); i++) {
        for (int type = MF_F32; type <= MF_BF16; type++) {
            parity_case shape = *at(i);
            parity_run run = {.type = (mf_dtype)type, .threads = 1};
            MF_TRY(parity_lay_out(&run, &shape, mesh));
            if (!parity_possible(&run)) continue;
            MF_TRY(run_modes(world, all, &run));
        }
    }
    return MF_OK;
}

/* MPI starts once in a process, so all runs are in one body. */
static mf_status body(mf_world *world, void *argument) {
    runs *all = argument;
    char mesh[16];
    snprintf(mesh, sizeof mesh, "tsp=%d", mf_world_size(world));
    MF_TRY(run_mesh(world, all, mesh, parity_case_at));
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
        if (layouts[i].ranks == mf_world_size(world))
            MF_TRY(run_mesh(world, all, layouts[i].mesh, parity_case_at));
    for (size_t i = 0; i < sizeof video_layouts / sizeof *video_layouts; i++)
        if (video_layouts[i].ranks == mf_world_size(world))
            MF_TRY(run_mesh(world, all, video_layouts[i].mesh, parity_video_case_at));
    return MF_OK;
}

/* parity_ranks borrowed|sent [SHAPES] */
int main(int argc, char **argv) {
    runs all = {.shapes = argc > 2 ? atoi(argv[2]) : 1000};
    all.no_borrow = argc > 1 && strcmp(argv[1], "sent") == 0;
    mf_launch_options options = {.engine = "mpi", .timeout_s = 60, .no_borrow = all.no_borrow};
    if (mf_launch(&options, body, &all)) {
        fprintf(stderr, "rank %d: %s\n", mf_rank_get(), mf_error_last()->message);
        mf_abort_peers(1);
        return 1;
    }
    if (mf_rank_get() == 0)
        printf("%s: worst error %.2e in f32, %.2e in bf16\n", argv[1], all.worst[MF_F32], all.worst[MF_BF16]);
    return all.bad > 0;
}
