/* Numbers as text with a decimal point, whatever the program's locale says. */
#ifndef CAVMAE_BASE_NUMBER_H
#define CAVMAE_BASE_NUMBER_H

/* As strtod in the C locale. */
double cavmae__parse_f64(const char *text, char **end);

/* Enough digits to read the same number back. */
void cavmae__format_f64(char out[32], double number);

#endif
