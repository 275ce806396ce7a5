#define _GNU_SOURCE
#include "meeting_file.h"

#include <errno.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void add_address(meeting_file *f, const char *address) {
    if (f->addresses < MEETING_ADDRESSES && *address)
        snprintf(f->address[f->addresses++], sizeof f->address[0], "%s", address);
}

/* loopback: those, or all others. Link-local addresses are left out: they mean something only
 * together with the reader's own interface. */
static void add_interfaces(meeting_file *f, const struct ifaddrs *all, int32_t loopback) {
    for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
        char host[256];
        if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || ((i->ifa_flags & IFF_LOOPBACK) != 0) != loopback) continue;
        const int family = i->ifa_addr->sa_family;
        if (family != AF_INET && family != AF_INET6) continue;
        const socklen_t length = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
        if (getnameinfo(i->ifa_addr, length, host, sizeof host, NULL, 0, NI_NUMERICHOST) != 0) continue;
        if (!strchr(host, '%')) add_address(f, host);
    }
}

void list_own_addresses(meeting_file *f) {
    struct ifaddrs *all;
    f->addresses = 0;
    if (getifaddrs(&all) != 0) return;
    add_interfaces(f, all, 0);
    add_interfaces(f, all, 1);
    freeifaddrs(all);
}

/* ---- The file ---- */

static const char first_line[] = "cavmae rendezvous 1";

int32_t write_meeting_file(const char *path, const meeting_file *f, char *error, size_t error_size) {
    char temporary[4096];
    snprintf(temporary, sizeof temporary, "%s.%016" PRIx64, path, f->token);
    FILE *file = fopen(temporary, "wxe");
    if (!file) {
        snprintf(error, error_size, "cannot write %s: %s", temporary, strerror(errno));
        return 0;
    }
    fprintf(file, "%s\njob %016" PRIx64 "\ntoken %016" PRIx64 "\nstarted %.0f\nsize %d\nport %d\n", first_line, f->job,
            f->token, f->started, (int)f->size, (int)f->port);
    for (int32_t i = 0; i < f->addresses; i++) fprintf(file, "address %s\n", f->address[i]);
    fprintf(file, "end\n");
    int32_t good = !ferror(file) && fflush(file) == 0 && fsync(fileno(file)) == 0;
    good = fclose(file) == 0 && good && rename(temporary, path) == 0;
    if (good) return 1;
    snprintf(error, error_size, "cannot write %s: %s", path, strerror(errno));
    unlink(temporary);
    return 0;
}

static int32_t read_lines(FILE *file, meeting_file *f) {
    char line[300], address[256];
    *f = (meeting_file){0};
    if (!fgets(line, sizeof line, file) || strncmp(line, first_line, strlen(first_line)) != 0) return 0;
    for (int32_t i = 0; i < 32 && fgets(line, sizeof line, file); i++) {
        if (!strcmp(line, "end\n")) return f->size > 0 && f->port > 0 && f->port < 65536 && f->addresses > 0;
        if (sscanf(line, "address %255s", address) == 1)
            add_address(f, address);
        else if (sscanf(line, "job %" SCNx64, &f->job) != 1 && sscanf(line, "token %" SCNx64, &f->token) != 1 &&
                 sscanf(line, "started %lf", &f->started) != 1 && sscanf(line, "size %" SCNd32, &f->size) != 1 &&
                 sscanf(line, "port %" SCNd32, &f->port) != 1)
            return 0;
    }
    return 0;
}

int32_t read_meeting_file(const char *path, meeting_file *f, char *error, size_t error_size) {
    FILE *file = fopen(path, "re");
    if (!file) {
        snprintf(error, error_size, "%s: %s", path, strerror(errno));
        return 0;
    }
    const int32_t good = read_lines(file, f);
    fclose(file);
    if (!good) snprintf(error, error_size, "%s is no file of a rendezvous", path);
    return good;
}

void remove_meeting_file(const char *path, uint64_t token) {
    meeting_file f;
    char error[4400];
    if (read_meeting_file(path, &f, error, sizeof error) && f.token == token) unlink(path);
}
