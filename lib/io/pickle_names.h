/* The names that a pickle may use. */
#ifndef CAVMAE_IO_PICKLE_NAMES_H
#define CAVMAE_IO_PICKLE_NAMES_H

#include "pickle.h"

/* Row of the table, or -1. */
int32_t cavmae__pickle_find_name(const char *module, size_t module_length, const char *name, size_t name_length);
const cavmae__pickle_name *cavmae__pickle_name_at(int64_t row);

/* Python's name for an opcode that is refused, NULL where there is none. */
const char *cavmae__pickle_refused_opcode(unsigned char opcode);

#endif
