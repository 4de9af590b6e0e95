/* world.c: launching ranks on an engine, and the first error among them. */
#include "comm/ops.h"

#include <stdlib.h>
#include <string.h>

static const mf_engine *const engines[] = {&mf_engine_local, &mf_engine_mpi, &mf_engine_dry,
                                           &mf_engine_one_of};
enum { ENGINES = sizeof engines / sizeof engines[0] };
static const char nccl[] = "nccl";

static const mf_engine *engine_find(const char *name) {
    for (int i = 0; i < ENGINES; i++)
        if (name && strcmp(engines[i]->name, name) == 0) return engines[i];
    return NULL;
}

mf_status mf_launch(const mf_launch_options *options, mf_rank_body body, void *argument) {
    bool by_nccl = options->engine && strcmp(options->engine, nccl) == 0;
    const char *name = !by_nccl ? options->engine : mf_launched_by_mpi() ? "mpi" : "local";
    const mf_engine *engine = engine_find(name);
    if (!engine)
        return MF_FAIL(MF_EINVAL, "no engine named %s: it is local, mpi, nccl, dry or one-of",
                       name ? name : "(none)");
    if (!(options->timeout_s >= 0))
        return MF_FAIL(MF_EINVAL, "a timeout of %g s: it must be positive, or 0 for 300 s",
                       options->timeout_s);
    mf_launch_options o = *options;
    if (o.timeout_s == 0) o.timeout_s = 300;
    MF_TRY(by_nccl ? mf_nccl_launch(engine, &o, body, argument) : engine->launch(&o, body, argument));
    return MF_OK;
}

void mf_abort_peers(int code) {
    for (int i = 0; i < ENGINES; i++)
        if (engines[i]->abort_peers) engines[i]->abort_peers(code);
}

/* What mpiexec tells its children: Open MPI's name for it, then that of MPICH and of those that derive from
 * it. */
static const char *told(const char *open_mpi, const char *mpich) {
    const char *text = getenv(open_mpi);
    return text ? text : getenv(mpich);
}

static int count(const char *text, int fallback) {
    long n = text ? strtol(text, NULL, 10) : 0;
    return n > 0 && n <= INT32_MAX ? (int)n : fallback;
}

bool mf_launched_by_mpi(void) { return told("OMPI_COMM_WORLD_SIZE", "PMI_SIZE") != NULL; }

int mf_mpi_ranks(void) { return count(told("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"), 1); }

int mf_mpi_local_ranks(void) {
    return count(told("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"), mf_mpi_ranks());
}

int mf_mpi_local_rank(void) {
    const char *text = told("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID");
    long n = text ? strtol(text, NULL, 10) : 0;
    return n > 0 && n <= INT32_MAX ? (int)n : 0;
}

int mf_world_rank(const mf_world *world) { return world->rank; }
int mf_world_size(const mf_world *world) { return world->size; }
const char *mf_world_engine(const mf_world *world) { return world->nccl ? nccl : world->engine->name; }
bool mf_world_is_one_of(const mf_world *world) { return world->engine == &mf_engine_one_of; }
bool mf_world_speaks(const mf_world *world) { return world->rank == 0 || mf_world_is_one_of(world); }

int mf_world_local_rank(const mf_world *world) {
    if (mf_world_is_one_of(world)) return 0;
    return world->engine == &mf_engine_mpi ? mf_mpi_local_rank() : world->rank;
}

void mf_world_use(mf_world *world, mf_device *device) {
    world->device = mf_device_has_queues(device) ? device : NULL;
}

mf_status mf_failure_init(mf_failure *failure) {
    atomic_init(&failure->set, false);
    failure->error = (mf_error){0};
    if (pthread_mutex_init(&failure->lock, NULL))
        return MF_FAIL(MF_ENOMEM, "no lock for the ranks' first error");
    return MF_OK;
}

void mf_failure_destroy(mf_failure *failure) { pthread_mutex_destroy(&failure->lock); }

mf_status mf_world_fail(mf_world *world) {
    mf_failure *f = world->failure;
    pthread_mutex_lock(&f->lock);
    bool first = !atomic_load(&f->set);
    if (first) {
        f->error = *mf_error_last();
        atomic_store(&f->set, true);
    }
    mf_status status = mf_error_adopt(&f->error);
    pthread_mutex_unlock(&f->lock);
    if (first && world->engine->wake) world->engine->wake(world);
    if (first && world->nccl) mf_nccl_wake(world);
    return status;
}

/* The world's error was copied where it arose; the rank that had it has added its callers to the trace since.
 */
static void keep_trace(mf_failure *f) {
    const mf_error *own = mf_error_last();
    pthread_mutex_lock(&f->lock);
    if (own->rank == f->error.rank && strcmp(own->message, f->error.message) == 0) f->error = *own;
    pthread_mutex_unlock(&f->lock);
}

void mf_world_end(mf_world *world, mf_status status) {
    if (!status) return;
    if (mf_error_last()->status != status)
        MF_FAIL(status, "rank %d ended: %s", world->rank, mf_status_text(status));
    if (mf_world_failed(world)) keep_trace(world->failure);
    mf_world_fail(world);
}
