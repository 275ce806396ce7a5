/* What launchers say in the environment, right and wrong. */
#define _GNU_SOURCE
#include "world_env.h"

#include <stdlib.h>
#include <string.h>

#include "check.h"

static const char *const names[] = {"RANK",
                                    "WORLD_SIZE",
                                    "LOCAL_RANK",
                                    "LOCAL_WORLD_SIZE",
                                    "MASTER_ADDR",
                                    "MASTER_PORT",
                                    "TORCHELASTIC_RUN_ID",
                                    "PMI_RANK",
                                    "PMI_SIZE",
                                    "MPI_LOCALRANKID",
                                    "MPI_LOCALNRANKS",
                                    "PMIX_RANK",
                                    "PMIX_NAMESPACE",
                                    "OMPI_COMM_WORLD_RANK",
                                    "OMPI_COMM_WORLD_SIZE",
                                    "OMPI_COMM_WORLD_LOCAL_RANK",
                                    "OMPI_COMM_WORLD_LOCAL_SIZE",
                                    "OMPI_MCA_ess_base_jobid",
                                    "SLURM_PROCID",
                                    "SLURM_NTASKS",
                                    "SLURM_LOCALID",
                                    "SLURM_NODEID",
                                    "SLURM_JOB_ID",
                                    "SLURM_JOBID",
                                    "SLURM_STEP_ID",
                                    "SLURM_STEPID",
                                    "SLURM_NODELIST",
                                    "SLURM_JOB_NODELIST",
                                    "SLURM_STEP_NODELIST",
                                    "SLURM_STEP_TASKS_PER_NODE",
                                    "SLURM_TASKS_PER_NODE",
                                    "CAVMAE_PORT"};

/* Sets "NAME=value NAME=value ..." and nothing else. */
static void set(const char *variables) {
    char copy[1024], *rest = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unsetenv(names[i]);
    strcpy(copy, variables);
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *value = strchr(word, '=');
        *value++ = '\0';
        setenv(word, value, 1);
    }
}

typedef struct right {
    const char *variables, *launcher;
    int32_t mpi, rank, size, local_rank, local_size;
    const char *address;
    int32_t port; /* -1: some */
    const char *job;
} right;

#define SLURM "SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_LOCALID=1 SLURM_JOB_ID=77 SLURM_STEP_ID=3 "

static const right rights[] = {
    {"", NULL, 0, 0, 1, -1, 0, "", 0, ""},
    {"RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 MASTER_ADDR=node7 MASTER_PORT=29500 TORCHELASTIC_RUN_ID=abc",
     "torchrun", 0, 3, 4, 1, 2, "node7", 29501, "abc"},
    {"RANK=2 WORLD_SIZE=3 MASTER_ADDR=127.0.0.1 MASTER_PORT=4000", "torchrun", 0, 2, 3, 2, 3, "127.0.0.1", 4001, ""},
    {"RANK=2 WORLD_SIZE=3 MASTER_ADDR=::1 CAVMAE_PORT=4000 MASTER_PORT=9", "torchrun", 0, 2, 3, 2, 3, "::1", 4000, ""},
    {"RANK=0 WORLD_SIZE=3 MASTER_ADDR=10.0.0.1", "torchrun", 0, 0, 3, -1, 0, "10.0.0.1", 0, ""},
    {"RANK= WORLD_SIZE= LOCAL_RANK=", NULL, 0, 0, 1, -1, 0, "", 0, ""},
    {"OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2 "
     "PMIX_NAMESPACE=prterun-7@1 PMIX_RANK=1",
     "Open MPI", 1, 1, 2, 1, 2, "127.0.0.1", -1, "prterun-7@1"},
    {"OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2",
     "Open MPI", 1, 1, 4, 1, 2, "", 0, ""},
    {"PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=0", "PMI", 1, 1, 2, 0, 0, "", 0, ""},
    {"PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2", "PMI", 1, 1, 2, 1, 2, "127.0.0.1", 0, ""},
    {SLURM "SLURM_STEP_NODELIST=gpu-[001-004]-x SLURM_NODELIST=other SLURM_NODEID=2 SLURM_STEP_TASKS_PER_NODE=2(x4)",
     "Slurm", 0, 5, 8, 1, 2, "gpu-001-x", -1, "77.3"},
    {SLURM "SLURM_NODELIST=node[03-07,9] SLURM_NODEID=2 SLURM_TASKS_PER_NODE=3(x2),2", "Slurm", 0, 5, 8, 1, 2, "node03",
     -1, "77.3"},
    {SLURM "SLURM_NODELIST=a,b MASTER_ADDR=c MASTER_PORT=99", "Slurm", 0, 5, 8, 1, 0, "c", 100, "77.3"},
    {SLURM "SLURM_NODELIST=a PMIX_RANK=5", "Slurm", 1, 5, 8, 1, 0, "a", -1, "77.3"},
    /* a job's shell; what mpirun and torchrun start in a job */
    {"SLURM_NTASKS=8 SLURM_JOB_ID=77", NULL, 0, 0, 1, -1, 0, "", 0, ""},
    {"SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_NODELIST=a OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4", "Open MPI", 1, 3,
     4, -1, 0, "", 0, ""},
    {"SLURM_PROCID=0 SLURM_NTASKS=1 RANK=3 WORLD_SIZE=4 MASTER_ADDR=m MASTER_PORT=1", "torchrun", 0, 3, 4, -1, 0, "m",
     2, ""},
};

static void test_right(void) {
    char error[512];
    for (size_t i = 0; i < sizeof rights / sizeof *rights; i++) {
        const right *r = &rights[i];
        world_env env;
        set(r->variables);
        int good = CHECK(read_world_env(&env, error, sizeof error));
        good = good && CHECK((env.launcher == NULL) == (r->launcher == NULL)) &&
               CHECK(!r->launcher || !strcmp(env.launcher, r->launcher)) && CHECK(env.mpi == r->mpi) &&
               CHECK(env.rank == r->rank) && CHECK(env.size == r->size) && CHECK(env.local_rank == r->local_rank) &&
               CHECK(env.local_size == r->local_size) && CHECK(!strcmp(env.address, r->address)) &&
               CHECK(r->port < 0 ? env.port > 1023 && env.port < 32768 : env.port == r->port) &&
               CHECK(!strcmp(env.job, r->job));
        if (!good) printf("    with %s\n", r->variables);
    }
}

static void test_wrong(void) {
    static const char *const wrongs[][2] = {
        {"RANK=1", "WORLD_SIZE is not"},
        {"WORLD_SIZE=4", "RANK is not"},
        {"RANK=one WORLD_SIZE=4", "RANK is 'one'"},
        {"RANK=1 WORLD_SIZE=4x", "WORLD_SIZE is '4x'"},
        {"RANK=4 WORLD_SIZE=4", "RANK is 4, and WORLD_SIZE is 4"},
        {"RANK=-1 WORLD_SIZE=4", "RANK is -1"},
        {"RANK=0 WORLD_SIZE=0", "WORLD_SIZE is 0"},
        {"RANK=0 WORLD_SIZE=99999999999999999999", "WORLD_SIZE"},
        {"RANK=0 WORLD_SIZE=4 LOCAL_RANK=4", "LOCAL_RANK is 4"},
        {"RANK=0 WORLD_SIZE=4 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2", "LOCAL_RANK is 2, and LOCAL_WORLD_SIZE is 2"},
        {"RANK=0 WORLD_SIZE=4 LOCAL_WORLD_SIZE=5", "LOCAL_WORLD_SIZE is 5"},
        {"RANK=0 WORLD_SIZE=4 MASTER_PORT=70000", "MASTER_PORT is 70000"},
        {"RANK=0 WORLD_SIZE=4 MASTER_PORT=http", "MASTER_PORT is 'http'"},
        {"RANK=0 WORLD_SIZE=4 CAVMAE_PORT=0", "CAVMAE_PORT is 0"},
        {"PMI_RANK=0 PMI_SIZE=2 MPI_LOCALRANKID=x", "MPI_LOCALRANKID"},
        {"PMI_SIZE=2", "PMI_RANK is not"},
        {"OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK is 2"},
        {"OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK is not"},
        {"SLURM_PROCID=8 SLURM_NTASKS=8", "SLURM_PROCID is 8"},
        {"SLURM_PROCID=1", "SLURM_NTASKS is not"},
        {SLURM "SLURM_NODELIST=node[1-", "SLURM_NODELIST"},
        {SLURM "SLURM_NODEID=q", "SLURM_NODEID"},
    };
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        world_env env;
        char error[512] = "";
        set(wrongs[i][0]);
        if (!CHECK(!read_world_env(&env, error, sizeof error)) || !CHECK(strstr(error, wrongs[i][1]) != NULL))
            printf("    with %s: %s\n", wrongs[i][0], error);
    }
}

static void test_hosts(void) {
    static const char *const hosts[][2] = {{"node[03-07,9]", "node03"},
                                           {"gpu-[001-004]-x", "gpu-001-x"},
                                           {"a,b", "a"},
                                           {"a", "a"},
                                           {"n[1-2]r[3,5]z,q", "n1r3z"},
                                           {"n[7],m[1-3]", "n7"},
                                           {"node.example.org", "node.example.org"},
                                           {"", NULL},
                                           {",a", NULL},
                                           {"a[1-3", NULL},
                                           {"a]", NULL},
                                           {"a-name-that-is-longer-than-what-there-is-room-for", NULL}};
    char host[32];
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        const int found = first_host(hosts[i][0], host, sizeof host);
        if (!CHECK(found == (hosts[i][1] != NULL)) || !CHECK(!found || !strcmp(host, hosts[i][1])))
            printf("    of %s: %s\n", hosts[i][0], host);
    }
}

int main(void) {
    test_right();
    test_wrong();
    test_hosts();
    return check_summary("world_env");
}
