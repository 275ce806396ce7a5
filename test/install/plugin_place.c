/* Where a plug-in is looked for after the current directory changed, and the library was removed (as an upgrade does it):
 * plugin_place DIRECTORY [LIBRARY]. */
#include <cavmae.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    cavmae_context *context;
    cavmae_media_info info = {.struct_size = sizeof info};
    if (argc < 2 || argc > 3 || chdir(argv[1]) != 0 || cavmae_context_create(NULL, &context) != CAVMAE_OK) return 2;
    if (argc == 3 && unlink(argv[2]) != 0) return 2;
    cavmae_status status = cavmae_media_probe(context, "none", &info);
    printf("%s\n", cavmae_last_error());
    cavmae_context_free(context);
    return status == CAVMAE_E_BACKEND;
}
