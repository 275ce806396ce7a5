/* CSS: narrow and wide, light and dark. What every page has, and what only one of them needs. */
#ifndef EXAMPLE_PAGE_STYLE_H
#define EXAMPLE_PAGE_STYLE_H

extern const char page_style[], demo_style[], search_style[];

#endif
