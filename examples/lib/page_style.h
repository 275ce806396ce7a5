/* The demo page's CSS: narrow and wide, light and dark. */
#ifndef EXAMPLE_PAGE_STYLE_H
#define EXAMPLE_PAGE_STYLE_H

extern const char page_style[];

#endif
