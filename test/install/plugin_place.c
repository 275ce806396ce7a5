/* Where a plug-in is looked for after the current directory changed: plugin_place DIRECTORY. */
#include <cavmae.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv) {
    cavmae_context *context;
    cavmae_media_info info = {.struct_size = sizeof info};
    if (argc != 2 || chdir(argv[1]) != 0 || cavmae_context_create(NULL, &context) != CAVMAE_OK) return 2;
    cavmae_status status = cavmae_media_probe(context, "none", &info);
    printf("%s\n", cavmae_last_error());
    cavmae_context_free(context);
    return status == CAVMAE_E_BACKEND;
}
