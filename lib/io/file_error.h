/* A failed system call on a file, as a status. */
#ifndef CAVMAE_IO_FILE_ERROR_H
#define CAVMAE_IO_FILE_ERROR_H

#include "status.h"

/* CAVMAE_E_IO with "path: cannot <what>: <errno in words>". */
cavmae_status cavmae__file_error(const char *path, const char *what);

#endif
