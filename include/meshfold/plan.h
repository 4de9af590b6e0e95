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

#include "meshfold/train.h"

enum { MF_CLUSTER_LEVELS = 4, MF_CLUSTER_NAME = 96 };

/* Efficiency grows with size and levels off: share * x / (x + half), over each size x that matters. */
typedef struct mf_efficiency {
    double share; /* of the peak, at most; in (0, 1] */
    double half;  /* the size that reaches half of it; 0: any does */
} mf_efficiency;

typedef struct mf_cluster {
    char name[MF_CLUSTER_NAME], device[MF_CLUSTER_NAME];
    double memory_bytes;       /* of a device */
    double memory_bytes_per_s; /* read and written */
    double flops[2];           /* a second, by mf_dtype */
    mf_efficiency gemm;        /* by each of m, n, k */
    mf_efficiency attention;   /* by the queries of a call */
    double launch_s;           /* of an operation */
    bool overlaps;             /* transfers run beside the computation */
    int levels;
    struct {
        char name[MF_CLUSTER_NAME];
        int ranks;              /* that it joins, counted from rank 0 on; the last level's: 0, any number */
        double latency_s;       /* of a hop */
        double bytes_per_s;     /* of a rank, in each direction */
    } level[MF_CLUSTER_LEVELS]; /* from the inside out */
} mf_cluster;

/* MF_EIO, MF_EFORMAT: names the file and the entry that is missing, of another kind, not positive, or
 * contradicts another. */
mf_status mf_cluster_load(const char *path, mf_cluster *out);
/* Refers to the cluster, which must outlive it. */
mf_costs mf_cluster_costs(const mf_cluster *cluster);
/* The level that a group of ranks needs: the innermost that joins all of them. */
int mf_cluster_level(const mf_cluster *cluster, const int *ranks, int size);

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
 * can be read in place only if `borrows`. options->steps is not looked at. */
mf_status mf_plan(const mf_cluster *cluster, const mf_measure_options *options, int rank, bool borrows,
                  mf_plan_result *out);

#endif
