/* Plug-ins: shared objects that bring what the library itself must not depend on. Each exports one symbol. */
#ifndef CAVMAE_BASE_PLUGIN_H
#define CAVMAE_BASE_PLUGIN_H

#include "context.h"

/* Opens `file` ("libcavmae-media.so") from the context's plugin_dir or, without one, from beside this library and
 * then from the directory that the library was built for; never from the loader's search path. CAVMAE_E_BACKEND
 * with the loader's words. */
cavmae_status cavmae__plugin_open(cavmae_context *context, const char *file, const char *symbol_name, void **handle,
                                  void **symbol);
void cavmae__plugin_close(void *handle); /* NULL is fine */

#endif
