#!/bin/sh
# The order of the layers, by #include: base <- backend, frontend, io, parallel <- model <- train, infer, data. A file includes
# headers of its own or a lower layer, or of a neighbour that does not include its own. The plug-ins of media and MPI and the
# programs see cavmae.h alone; the CUDA plug-in, of the library, headers of base and backend.
cd "$(dirname "$0")/../.." || exit 1
find lib include examples kernels -name '*.[ch]' -o -name '*.cu' | sort | xargs awk '
    BEGIN {
        level["base"] = 0
        level["backend"] = level["frontend"] = level["io"] = level["parallel"] = 1
        level["model"] = 2
        level["train"] = level["infer"] = level["data"] = 3
        for (i = 1; i < ARGC; i++) {
            parts = split(ARGV[i], path, "/")
            if (path[1] == "lib") home[path[parts]] = path[2]
            if (path[1] == "examples" || path[1] == "kernels") home[path[parts]] = path[1]
        }
    }
    function fault(text) {
        print FILENAME ":" FNR ": " text
        failed++
    }
    FNR == 1 {
        parts = split(FILENAME, path, "/")
        own = path[1] == "lib" ? path[2] : path[1]
    }
    /^#include "/ {
        split($0, quoted, "\"")
        name = quoted[2]
        if (name == "cavmae.h" || own == "include" || name ~ /^oneapi\//) { next }
        if (name ~ /\//) { fault("includes " name " by a path, not by its bare name"); next }
        to = home[name]
        if (to == "") { fault("includes " name ", which is nowhere in lib/"); next }
        if (to == own) { next }
        if (own == "kernels" && (to == "base" || to == "backend")) { next }
        if (own == "kernels" || to == "kernels") { fault(own " must not include " name " of " to); next }
        if (own == "examples" || own == "media" || own == "mpi") { fault(own " may include only cavmae.h, not " name); next }
        if (level[to] > level[own]) { fault(own " must not include " name " of " to ", which lies above it"); next }
        if (level[to] == level[own] && uses[to, own]) { fault(own " includes " name " of " to ", which includes " own); next }
        uses[own, to] = 1
    }
    END {
        print "layers: " (failed ? 0 : 1) " passed, " failed + 0 " failed"
        exit failed != 0
    }'
