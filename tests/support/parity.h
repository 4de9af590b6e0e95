/* parity.h: one model's loss and gradients under a mesh, compared with the same model on one rank. */
#ifndef MF_TEST_PARITY_H
#define MF_TEST_PARITY_H

#include "meshfold/train.h"

typedef struct parity_case {
    const char *name;
    mf_model_config config;
    int64_t batch, tokens;
} parity_case;

enum { PARITY_TOKENS = 4200 }; /* of all sequences of a case, at most */
/* Shapes that divide by nothing. NULL past the end. */
const parity_case *parity_case_at(int index);
/* The same of models of videos. */
const parity_case *parity_video_case_at(int index);

typedef struct parity_run {
    const parity_case *shape;
    const char *mesh_text;
    mf_mesh_spec mesh;
    mf_layout layout;
    mf_dtype type;
    mf_recompute recompute;
    int threads;
    bool forward_only; /* loss alone, by a model that keeps nothing */
    bool two_calls;    /* gradients of one step by two calls */
    bool packed;       /* with documents of random lengths */
    int models;        /* that follow each other on one mesh; 0: one */
    /* filled on rank 0 */
    double loss, loss_error, worst; /* relative; forward only: worst is of velocities, of videos */
    double norm_error;              /* of the gradient norm that the optimizer sees */
    char worst_name[80];
} parity_run;

/* One rank alone has more rows, and a larger vocabulary, than the model takes at a time. */
parity_case parity_long_case(void);

/* Sets mesh and layout, and the shape's batch to a multiple of the mesh's replicas. Where partial sums travel
 * in bf16 they are rounded before they are added, which one rank's are not: initial weights are then half as
 * large, so that the same tolerance still tells a wrong gradient from rounding. */
mf_status parity_lay_out(parity_run *run, parity_case *shape, const char *mesh);

/* False where the shape has too few heads for the layout. */
bool parity_possible(const parity_run *run);

/* Body for mf_launch; argument: a parity_run. Every rank also computes the whole model alone. */
mf_status parity_body(mf_world *world, void *argument);

/* Runs it on the local engine and fails the test beyond the tolerance. */
void parity_check(parity_run *run, bool no_borrow);

/* One mesh and shape: all modes, borrowed and sent, in f32, one of them in bf16; where time is short, one in
 * both. Of documents another one; where time is short, in f32 alone. Which one `turn` says. Passes over a
 * shape that is not possible. */
enum { PARITY_TURNS = 2 * (MF_RECOMPUTE_BLOCK + 2) };
void parity_check_modes(const char *mesh, const parity_case *shape, int turn);

/* Token ids and labels of a case, some labels masked: [batch, tokens]. */
void parity_tokens(const parity_case *shape, int32_t *ids, int32_t *labels);
/* Where the document of each token begins, of mf_model_set_documents: [batch, tokens]. */
void parity_documents(const parity_case *shape, int32_t *begins);
/* 1 / unmasked labels. */
double parity_scale(const parity_case *shape, const int32_t *labels);

#endif
