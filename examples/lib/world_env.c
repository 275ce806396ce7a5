#define _GNU_SOURCE
#include "world_env.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Variables ---- */

static int32_t fault(char *error, size_t error_size, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int32_t fault(char *error, size_t error_size, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error, error_size, format, args);
    va_end(args);
    return 0;
}

/* NULL where it is not set, or empty. */
static const char *variable(const char *name) {
    const char *value = name ? getenv(name) : NULL;
    return value && *value ? value : NULL;
}

static const char *first_of(const char *const *names) {
    const char *value = NULL;
    for (; *names && !value; names++) value = variable(*names);
    return value;
}

/* Leaves *number as it is where the variable is not set. */
static int32_t read_number(const char *name, int64_t least, int64_t most, int32_t *number, char *error, size_t size) {
    const char *text = variable(name);
    char *end;
    if (!text) return 1;
    errno = 0;
    const long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno) return fault(error, size, "%s is '%s', which is not a number", name, text);
    if (value < least || value > most)
        return fault(error, size, "%s is %s, which is not between %lld and %lld", name, text, (long long)least,
                     (long long)most);
    *number = (int32_t)value;
    return 1;
}

/* ---- Launchers ---- */

typedef struct launcher {
    const char *name, *rank, *size, *local_rank, *local_size;
    int32_t mpi;
} launcher;

/* The first whose rank is set. Slurm is last: what mpirun and torchrun start on its machines see its variables too, as
 * they are for the process that started them. */
static const launcher launchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", 0},
    {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", 1},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE", 1},
    {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", NULL, 0},
};

static int32_t is_slurm(const launcher *l) { return !strcmp(l->name, "Slurm"); }

static int32_t read_place(world_env *env, const launcher *l, char *error, size_t size) {
    if (!variable(l->size)) return fault(error, size, "%s is set, and %s is not", l->rank, l->size);
    if (!read_number(l->size, 1, INT_MAX, &env->size, error, size) ||
        !read_number(l->rank, 0, INT_MAX, &env->rank, error, size) ||
        !read_number(l->local_rank, 0, INT_MAX, &env->local_rank, error, size) ||
        (l->local_size && !read_number(l->local_size, 1, INT_MAX, &env->local_size, error, size)))
        return 0;
    if (env->rank >= env->size)
        return fault(error, size, "%s is %d, and %s is %d: ranks count from 0", l->rank, (int)env->rank, l->size,
                     (int)env->size);
    if (env->local_rank >= env->size)
        return fault(error, size, "%s is %d, and %s is %d", l->local_rank, (int)env->local_rank, l->size,
                     (int)env->size);
    if (env->local_size > env->size)
        return fault(error, size, "%s is %d, and %s is %d", l->local_size, (int)env->local_size, l->size,
                     (int)env->size);
    if (env->local_size && env->local_rank >= env->local_size)
        return fault(error, size, "%s is %d, and %s is %d", l->local_rank, (int)env->local_rank, l->local_size,
                     (int)env->local_size);
    env->launcher = l->name;
    env->mpi = l->mpi || variable("PMIX_RANK") != NULL;
    return 1;
}

/* Slurm's "2(x3),1": 2, 2, 2, 1 tasks on the machines 0 to 3. 0: it does not say. */
static int32_t tasks_of_node(const char *list, int32_t node) {
    while (list && *list) {
        char *end;
        long tasks = strtol(list, &end, 10), times = 1;
        if (end == list || tasks < 1 || tasks > INT_MAX) return 0;
        if (!strncmp(end, "(x", 2)) {
            times = strtol(end + 2, &end, 10);
            if (times < 1 || *end != ')') return 0;
            end++;
        }
        if (node < times) return (int32_t)tasks;
        node -= (int32_t)times;
        if (*end != ',') return 0;
        list = end + 1;
    }
    return 0;
}

/* ---- Where rank 0 is ---- */

int32_t first_host(const char *list, char *host, size_t size) {
    size_t length = 0;
    for (; *list && *list != ','; list++) {
        if (*list == '[') {
            for (list++; *list && !strchr("-,]", *list); list++)
                if (length + 1 < size) host[length++] = *list;
            list = strchr(list, ']');
            if (!list) return 0;
        } else if (*list == ']' || length + 1 >= size) {
            return 0;
        } else {
            host[length++] = *list;
        }
    }
    host[length] = '\0';
    return length > 0;
}

int32_t is_loopback(const char *address) {
    return !strncmp(address, "127.", 4) || !strcmp(address, "::1") || !strcmp(address, "localhost");
}

uint64_t hash_text(const char *text, uint64_t before) {
    uint64_t hash = before ^ 0xCBF29CE484222325u;
    for (; *text; text++) hash = (hash ^ (unsigned char)*text) * 0x100000001B3u;
    return hash;
}

static void read_job(world_env *env, const launcher *l) {
    static const char *const torchrun[] = {"TORCHELASTIC_RUN_ID", NULL},
                             *const open_mpi[] = {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", NULL},
                             *const slurm[] = {"SLURM_JOB_ID", "SLURM_JOBID", NULL},
                             *const step[] = {"SLURM_STEP_ID", "SLURM_STEPID", NULL};
    const char *job = !strcmp(l->name, "torchrun")   ? first_of(torchrun)
                      : !strcmp(l->name, "Open MPI") ? first_of(open_mpi)
                      : is_slurm(l)                  ? first_of(slurm)
                                                     : NULL;
    if (!job) return;
    const char *part = is_slurm(l) ? first_of(step) : NULL;
    snprintf(env->job, sizeof env->job, "%s%s%s", job, part ? "." : "", part ? part : "");
}

static int32_t read_meeting_place(world_env *env, const launcher *l, char *error, size_t size) {
    static const char *const lists[] = {"SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST", NULL};
    const char *address = variable("MASTER_ADDR"), *list = first_of(lists);
    int32_t master = 0;
    if (address && strlen(address) >= sizeof env->address) return fault(error, size, "MASTER_ADDR is too long");
    if (address)
        strcpy(env->address, address);
    else if (is_slurm(l) && list && !first_host(list, env->address, sizeof env->address))
        return fault(error, size, "SLURM_STEP_NODELIST (or SLURM_NODELIST) is '%s', which is not a list of hosts",
                     list);
    else if (env->local_size == env->size)
        strcpy(env->address, "127.0.0.1");
    if (!read_number("CAVMAE_PORT", 1, 65535, &env->port, error, size) ||
        !read_number("MASTER_PORT", 1, 65534, &master, error, size))
        return 0;
    if (!env->port && master) env->port = master + 1; /* torchrun's own store holds MASTER_PORT */
    if (!env->port && env->job[0])                    /* below those that systems give to outgoing connections */
        env->port = 16384 + (int32_t)(hash_text(env->job, 0) % 16384);
    return 1;
}

int32_t read_world_env(world_env *env, char *error, size_t error_size) {
    const launcher *l = NULL;
    *env = (world_env){.size = 1, .local_rank = -1};
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers && !l; i++) {
        if (variable(launchers[i].rank))
            l = &launchers[i];
        else if (variable(launchers[i].size) && !is_slurm(&launchers[i])) /* a job's shell has SLURM_NTASKS alone */
            return fault(error, error_size, "%s is set, and %s is not", launchers[i].size, launchers[i].rank);
    }
    if (!l) return 1;
    if (!read_place(env, l, error, error_size)) return 0;
    if (is_slurm(l)) {
        static const char *const lists[] = {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE", NULL};
        int32_t node = 0;
        if (!read_number("SLURM_NODEID", 0, INT_MAX, &node, error, error_size)) return 0;
        env->local_size = tasks_of_node(first_of(lists), node);
        if (env->local_size <= env->local_rank || env->local_size > env->size)
            env->local_size = 0; /* of the whole job */
    }
    read_job(env, l);
    if (!read_meeting_place(env, l, error, error_size)) return 0;
    if (is_loopback(env->address)) {
        if (!env->local_size) env->local_size = env->size;
        if (env->local_rank < 0) env->local_rank = env->rank;
    }
    return 1;
}
