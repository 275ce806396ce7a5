/* libcavmae-media.so: cavmae_decoder over FFmpeg's libraries, versions 4.4 to 7. */
#include "ffmpeg_reader.h"

CAVMAE_API const cavmae_decoder *cavmae_media_plugin(void);

/* The plug-in's one symbol. */
const cavmae_decoder *cavmae_media_plugin(void) {
    static const cavmae_decoder decoder = {.struct_size = sizeof decoder,
                                           .version = 1,
                                           .probe = cavmae__describe,
                                           .audio = cavmae__decode_sound,
                                           .frames = cavmae__decode_pictures};
    return &decoder;
}
