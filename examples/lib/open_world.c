#define _GNU_SOURCE
#include "open_world.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rendezvous.h"
#include "tcp_carrier.h"
#include "world_env.h"

static int32_t is(const world_options *w, const char *kind) { return !strcmp(w->kind ? w->kind : "none", kind); }

/* What the launcher says; "host:port" and "file:path" of the command line, or of CAVMAE_RENDEZVOUS, come first. */
static world_env environment(const world_options *w, const char **file) {
    world_env env;
    char error[512];
    if (!read_world_env(&env, error, sizeof error)) die("%s", error);
    const char *place = w->rendezvous ? w->rendezvous : getenv("CAVMAE_RENDEZVOUS");
    *file = NULL;
    if (!place || !*place) return env;
    if (!strncmp(place, "file:", 5)) {
        *file = place + 5;
        return env;
    }
    const char *colon = strrchr(place, ':'), *first = place;
    char *end;
    const long port = colon ? strtol(colon + 1, &end, 10) : 0;
    size_t length = colon ? (size_t)(colon - place) : 0;
    if (length > 1 && place[0] == '[' && colon[-1] == ']') { /* [::1]:29501 */
        first++;
        length -= 2;
    }
    if (!length || length >= sizeof env.address || end == colon + 1 || *end || port < 1 || port > 65535)
        die("--rendezvous takes HOST:PORT or file:PATH, not %s", place);
    memcpy(env.address, first, length);
    env.address[length] = '\0';
    env.port = (int32_t)port;
    return env;
}

/* ---- The context ---- */

/* Slurm can show each rank one GPU, its own, which is then the first. */
static int32_t gpu_of(const world_env *env) {
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (visible && *visible && !strchr(visible, ',')) return 0;
    if (env->local_rank < 0) die("which GPU is this rank's? Set LOCAL_RANK, or give --device cuda:N");
    return env->local_rank;
}

static cavmae_context *open_device(const world_env *env, const char *device, int32_t threads,
                                   int32_t (*cancel)(void *user)) {
    char own[512];
    const size_t word = device ? strcspn(device, ",") : 0;
    const int32_t takes_any = device && word == 4 && (!strncmp(device, "auto", 4) || !strncmp(device, "cuda", 4));
    if (takes_any && !strncmp(device, "auto", 4)) {
        cavmae_context *context = open_context(device, threads, cancel);
        if (strncmp(cavmae_context_device(context), "cuda", 4) != 0) return context;
        cavmae_context_free(context);
    }
    if (!takes_any) return open_context(device, threads, cancel);
    snprintf(own, sizeof own, "cuda:%d%s", (int)gpu_of(env), device + word);
    return open_context(own, threads, cancel);
}

/* srun and mpirun may have dealt the processors already: each rank then sees no more than its share. */
static int32_t share_of_processors(const world_env *env) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    const int32_t seen = CPU_COUNT(&set), share = seen / env->local_size;
    if (strcmp(env->launcher, "torchrun") != 0 && seen <= sysconf(_SC_NPROCESSORS_ONLN) / env->local_size) return seen;
    return share > 1 ? share : 1;
}

cavmae_context *open_context_in(world_options *w, const char *device, int32_t threads, int32_t (*cancel)(void *user)) {
    const char *file;
    w->size = 1;
    if (is(w, "none")) return open_context(device, threads, cancel);
    if (!is(w, "auto") && !is(w, "tcp") && !is(w, "mpi")) die("--world is none, auto, tcp or mpi, not %s", w->kind);
    const world_env env = environment(w, &file);
    w->rank = env.rank;
    w->size = env.size;
    if (w->size > 1) speak_for_rank(w->rank, NULL);
    if (!threads && env.local_size > 1) threads = share_of_processors(&env);
    return env.size > 1 ? open_device(&env, device, threads, cancel) : open_context(device, threads, cancel);
}

/* ---- The world ---- */

static cavmae_world *opened;

static void tell(const char *sentence) { cavmae_world_fail(opened, sentence); }

static void meet_others(const world_options *w, const world_env *env, const char *file, meeting *m, int *sockets) {
    char error[1024];
    *m = (meeting){.rank = env->rank,
                   .size = env->size,
                   .address = env->address,
                   .port = env->port,
                   .file = file,
                   .job = hash_text(env->job, (uint64_t)env->size),
                   .timeout = w->timeout ? w->timeout : 30};
    if (!file && !env->address[0])
        die("where do ranks meet? Set MASTER_ADDR and MASTER_PORT, or give --rendezvous HOST:PORT or file:PATH");
    if (!file && !env->port) die("where do ranks meet? Set MASTER_PORT or CAVMAE_PORT");
    if (!meet(m, sockets, error, sizeof error)) die("%s", error);
}

static void open_nccl(const world_options *w, const world_env *env, const char *file, cavmae_context *context,
                      const cavmae_world_options *options, cavmae_world **world) {
    uint8_t id[CAVMAE_NCCL_ID_SIZE];
    char error[1024];
    meeting m;
    if (is(w, "mpi")) die("--world mpi is for the CPU; on GPUs, auto takes NCCL");
    if (env->rank == 0) check(cavmae_nccl_id(context, id));
    int *sockets = allocate((size_t)env->size, sizeof *sockets);
    meet_others(w, env, file, &m, sockets);
    if (!tell_all(&m, sockets, id, sizeof id, error, sizeof error)) die("%s", error);
    close_sockets(sockets, env->size);
    free(sockets);
    check(cavmae_world_create_nccl(context, options, id, world));
}

static void open_tcp(const world_options *w, const world_env *env, const char *file, cavmae_context *context,
                     const cavmae_world_options *options, cavmae_world **world) {
    meeting m;
    int *sockets = allocate((size_t)env->size, sizeof *sockets);
    meet_others(w, env, file, &m, sockets);
    const cavmae_collectives carrier = open_tcp_carrier(env->rank, env->size, sockets);
    free(sockets);
    check(cavmae_world_create(context, options, &carrier, world));
}

/* 0: there is no plug-in, or its MPI does not know what started this process; TCP may do. */
static int32_t open_mpi(const world_options *w, const world_env *env, cavmae_context *context,
                        const cavmae_world_options *options, cavmae_world **world) {
    const cavmae_status status = cavmae_world_create_mpi(context, options, NULL, world);
    if (is(w, "mpi")) check(status);
    if (status == CAVMAE_E_BACKEND) {
        if (env->rank == 0) warn("%s; going on over TCP", cavmae_last_error());
        return 0;
    }
    check(status);
    if (is(w, "mpi") || cavmae_world_size(*world) == env->size) return 1;
    cavmae_world_free(*world);
    *world = NULL;
    return 0;
}

/* A world leaves its notes in watch_dir where a rank was killed: those of earlier ones are nobody's by now. */
static void prepare_folder(const char *path, int32_t rank) {
    if (mkdir(path, 0777) != 0 && errno != EEXIST) die("cannot make the directory %s: %s", path, strerror(errno));
    DIR *folder = rank == 0 ? opendir(path) : NULL;
    if (!folder) return;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
        if (!strncmp(entry->d_name, "cavmae-world-", 13)) unlinkat(dirfd(folder), entry->d_name, 0);
    closedir(folder);
}

cavmae_world *open_world(world_options *w, cavmae_context *context, const char *watch_dir) {
    const char *file;
    if (is(w, "none")) return NULL;
    const world_env env = environment(w, &file);
    if (env.size == 1 && !is(w, "mpi")) return NULL;
    const cavmae_world_options options = {.struct_size = sizeof options,
                                          .rank = env.rank,
                                          .size = env.size,
                                          .timeout = w->timeout,
                                          .watch_dir = watch_dir};
    if (watch_dir) prepare_folder(watch_dir, env.rank);
    if (!strncmp(cavmae_context_device(context), "cuda", 4))
        open_nccl(w, &env, file, context, &options, &w->world);
    else if (is(w, "tcp") || !(env.mpi || is(w, "mpi")) || !open_mpi(w, &env, context, &options, &w->world))
        open_tcp(w, &env, file, context, &options, &w->world);
    w->rank = cavmae_world_rank(w->world);
    w->size = cavmae_world_size(w->world);
    opened = w->world;
    speak_for_rank(w->rank, tell);
    note("%d ranks, over %s", (int)w->size, cavmae_world_carrier(w->world));
    return w->world;
}

void close_world(world_options *w) {
    if (!w->world) return;
    speak_for_rank(w->rank, NULL);
    opened = NULL;
    cavmae_world_free(w->world);
    w->world = NULL;
}
