/* HTML pages that open from a disk: the frame of a page, and what other people wrote put into it without being HTML. */
#ifndef EXAMPLE_PAGE_H
#define EXAMPLE_PAGE_H

#include <stdio.h>

/* The file, its head up to inside <style> with page_style written: what follows is more style, then page_body. Where
 * the file cannot be written the program ends, at the latest in close_page. */
FILE *open_page(const char *path, const char *title);
void page_body(FILE *html);
void close_page(FILE *html, const char *path);

/* Text, also within an attribute's quotes: a file's name may hold anything, and need not be UTF-8. */
void write_text(FILE *html, const char *text);

/* The address of `file` from the folder of the page at `path`. */
void write_address(FILE *html, const char *path, const char *file);

#endif
