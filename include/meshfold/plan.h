/* plan.h: clusters as files describe them, and steps that run dry on them.
 *
 *     mf_cluster cluster;
 *     MF_TRY(mf_cluster_load("clusters/h100.json", &cluster));
 *     mf_plan_result plan;
 *     MF_TRY(mf_plan(&cluster, &options, &plan));       // options: as for mf_measure
 *     printf("%.2f s, %lld bytes\n", plan.step_s, (long long)plan.rank.memory.peak_total);
 */
#ifndef MESHFOLD_PLAN_H
#define MESHFOLD_PLAN_H

#include "meshfold/rates.h"
#include "meshfold/train.h"

enum { MF_CLUSTER_LEVELS = 4, MF_CLUSTER_NAME = 96, MF_CLUSTER_RATES = 4 };

/* Efficiency grows with size and levels off: share * x / (x + half), over each size x that matters. */
typedef struct mf_efficiency {
    double share; /* of the peak, at most; in (0, 1] */
    double half;  /* the size that reaches half of it; 0: any does */
} mf_efficiency;

typedef struct mf_cluster {
    char name[MF_CLUSTER_NAME], device[MF_CLUSTER_NAME];
    char computes[8];          /* "cpu" or "cuda", where it was measured; else "" */
    double memory_bytes;       /* of a device */
    double memory_bytes_per_s; /* read and written */
    double flops[2];           /* a second, by mf_dtype */
    mf_efficiency gemm;        /* by each of m, n, k */
    mf_efficiency attention;   /* by the queries of a call */
    double launch_s;           /* of an operation */
    bool overlaps;             /* transfers run beside the computation */
    bool shared;               /* all ranks are on one device: its memory is theirs together */
    int levels;
    struct {
        char name[MF_CLUSTER_NAME];
        int ranks;              /* that it joins, counted from rank 0 on; the last level's: 0, any number */
        double latency_s;       /* of a hop */
        double bytes_per_s;     /* of a rank, in each direction */
    } level[MF_CLUSTER_LEVELS]; /* from the inside out */
    int measured;
    mf_rates rates[MF_CLUSTER_RATES]; /* by ranks, ascending: what was measured goes before the peaks above */
} mf_cluster;

/* MF_EIO, MF_EFORMAT: names the file and the entry that is missing, of another kind, not positive, or
 * contradicts another. */
mf_status mf_cluster_load(const char *path, mf_cluster *out);
/* Written so that mf_cluster_load reads the same, to six digits. MF_EIO names the file. */
mf_status mf_cluster_save(const mf_cluster *cluster, const char *path);
/* Memory of a rank, of so many. */
double mf_cluster_memory(const mf_cluster *cluster, int ranks);
/* With so many ranks at work. Refers to the cluster, which must outlive it. */
mf_costs mf_cluster_costs(const mf_cluster *cluster, int ranks);
/* The level that a group of ranks needs: the innermost that joins all of them. */
int mf_cluster_level(const mf_cluster *cluster, const int *ranks, int size);
/* How long a group's links take for a collective (by mf_comm_op) in which each rank sends so many bytes,
 * latency apart. together: [levels] of the group's `size` ranks, the fewest that a unit of the level (a node,
 * say) holds, which the levels further out join; of the last level all. */
double mf_cluster_links_s(const mf_cluster *cluster, int op, double bytes, const int *together, int size);

typedef struct mf_plan_result {
    mf_rank_report
        rank; /* of the planned rank; its transfers are a step's, exposed_s and total_s predicted */
    double step_s, tokens_per_s,
        flops_share;  /* tokens: of all ranks; share: of the devices' peak in the model's type */
    double exposed_s; /* of the step, the rank waited for transfers */
    bool fits;
    double short_by_bytes; /* where it does not */
} mf_plan_result;
/* One step of rank `rank` of the mesh, dry, its peers taken to be where it is; nothing is sent where memory
 * can be read in place only if `borrows`. options->steps is not looked at. Without a
 * cluster (NULL) only memory and transfers are found: the rest is 0. */
mf_status mf_plan(const mf_cluster *cluster, const mf_measure_options *options, int rank, bool borrows,
                  mf_plan_result *out);
/* The same after so many steps that warm up, where mf_plan has one: a device's workspace grows as it is used.
 */
mf_status mf_plan_after(const mf_cluster *cluster, const mf_measure_options *options, int rank, bool borrows,
                        int warm_up, mf_plan_result *out);

/* <0: a plan that fits before one that doesn't; then by tokens a second, or by how little is missing. */
int mf_plan_compare(const mf_plan_result *a, const mf_plan_result *b);

/* The kind of layout that a mesh makes, by what its ranks share: "dp" and "single" have none of the others.
 * On dsp weights that go round are tsp's, weights that are gathered zero3's.
 */
enum {
    MF_FAMILY_TP = 1,
    MF_FAMILY_TSP = 2,
    MF_FAMILY_ZERO3 = 4,
    MF_FAMILY_SP = 8,
    MF_FAMILY_DSP = 16,
    MF_FAMILIES = 32
};
unsigned mf_plan_family(const mf_mesh_spec *mesh, const mf_layout *layout);
/* "tp+sp" */
const char *mf_plan_family_name(unsigned family, char out[32]);

/* A search for the layouts of so many ranks that are fastest, or fit at all:
 *
 *     mf_search_options options = {.model = model, .words = mf_layout_words_none, .ranks = 8, .threads = 2};
 *     mf_search_result result = {0};
 *     MF_TRY(mf_search(&cluster, &options, &result));    // result.found[0].mesh: the best
 *     mf_search_free(&result);
 *
 * It looks at every mesh of dp, sp, tsp and tp that these ranks can make, for clips also of dp, dsp and tp,
 * with every exchange, reduction and stream. A formula orders them, the best are run dry with two and three
 * layers, or four and six, the best of these in full.
 */
enum { MF_LAYOUT_TEXT = 160, MF_LEFT_OUT = 6 };
typedef struct mf_search_options {
    mf_model_options model; /* batch: of each dp replica */
    mf_layout_words words;  /* what is given here every layout has, or it is left out */
    const char *device;     /* as for mf_measure */
    bool any_recompute;     /* all modes of recomputation; else the model's */
    bool borrows;           /* as for mf_plan */
    int ranks;
    int threads; /* that plan at one time */
} mf_search_options;

typedef struct mf_found {
    char mesh[MF_LAYOUT_TEXT]; /* as mf_layout_parse reads it */
    mf_measure_options options;
    mf_plan_result plan; /* as mf_plan has it: of rank 0 */
} mf_found;

/* Meshes and layouts that were not looked at, for one reason. */
typedef struct mf_left_out {
    int count;
    char mesh[MF_LAYOUT_TEXT], why[sizeof((mf_error *)0)->message]; /* of the first of them */
} mf_left_out;

typedef struct mf_search_result {
    mf_found *found; /* [count] best first, the best of each family among them */
    int count;
    int tried;    /* layouts; in each mode of recomputation that is searched over one */
    int screened; /* of these, run with a few layers */
    int fit;      /* of the screened */
    mf_left_out left_out[MF_LEFT_OUT];
} mf_search_result;

/* *result, empty before, is to be freed after an error too. MF_EINVAL when no layout is left, with why. */
mf_status mf_search(const mf_cluster *cluster, const mf_search_options *options, mf_search_result *result);
void mf_search_free(mf_search_result *result);
/* The fewest ranks on which something fits, of options->ranks doubled again and again, up to `most`; 0: none.
 */
mf_status mf_search_enough(const mf_cluster *cluster, const mf_search_options *options, int most, int *ranks);

/* The longest sequence that fits, or clip of the grid's rows and columns. */
typedef struct mf_longest {
    int64_t tokens;      /* a multiple of `step`, or 0: not even that fits; with one step more it would not */
    int64_t step;        /* at least 1024, and twice the ranks that share a sequence; of clips whole frames */
    mf_plan_result plan; /* at that length */
} mf_longest;
/* options->model.tokens, and the grid's frames, are not looked at. Longer sequences are taken to need more
 * memory, up to 2^28 tokens, or as many as mf_model_check lets through. */
mf_status mf_plan_longest(const mf_cluster *cluster, const mf_measure_options *options, bool borrows,
                          mf_longest *out);

#endif
