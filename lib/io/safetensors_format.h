/* What reading and writing safetensors share. */
#ifndef CAVMAE_IO_SAFETENSORS_FORMAT_H
#define CAVMAE_IO_SAFETENSORS_FORMAT_H

#include "json.h"
#include "tensor.h"

#define CAVMAE__METADATA "__metadata__"
#define CAVMAE__DATA_CRC "crc32"          /* of each tensor, in the order of the data, joined by spaces */
#define CAVMAE__HEADER_CRC "crc32.header" /* of the header, with zeros in place of these digits */
#define CAVMAE__NO_CRC "00000000"

enum { CAVMAE__CRC_DIGITS = 8, CAVMAE__MAX_HEADER = 100000000 }; /* the limit of the format's own implementation */

/* "F32" and so on to CAVMAE_FLOAT32 and back; 0 or NULL where there is none. */
int32_t cavmae__safetensors_dtype(const cavmae__json_string *name);
const char *cavmae__safetensors_dtype_name(int32_t dtype);

/* 8 lower-case hexadecimal digits; 0 if they are not that. */
int cavmae__parse_crc(const char *digits, uint32_t *crc);

#endif
