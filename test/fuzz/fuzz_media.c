/* Media through the plug-in, which is linked in: FFmpeg's own code is not under test, what is made of it is. */
#define _GNU_SOURCE
#include <libavutil/log.h>
#include <libavutil/mem.h>

#include "fuzz.h"

enum { MOST_AT_ONCE = 64 << 20, LONGEST = 30 };

const cavmae_decoder *cavmae_media_plugin(void);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const cavmae_source source = {.struct_size = sizeof source, .path = "input", .data = data, .size = size};
    const double seconds[] = {0, 0.1, 0.1, LONGEST};
    cavmae_media_info info = {.struct_size = sizeof info};
    cavmae_tensor *tensor = NULL;
    int32_t rate = 0;
    av_log_set_level(AV_LOG_QUIET); /* what the plug-in cannot silence: messages without a file to belong to */
    av_max_alloc(MOST_AT_ONCE);
    cavmae_context *context = fuzz_context(FUZZ_MEMORY);
    FUZZ_CHECK(cavmae_context_set_decoder(context, cavmae_media_plugin()) == CAVMAE_OK);
    if (fuzz_ok(cavmae_media_probe_source(context, &source, &info))) {
        FUZZ_CHECK(info.seconds >= 0 && info.frame_rate >= 0 && info.width >= 0 && info.height >= 0);
        FUZZ_CHECK((info.width > 0) == (info.height > 0) && info.audio_channels >= 0);
    }
    if (fuzz_ok(cavmae_media_audio_source(context, &source, &tensor, &rate))) {
        FUZZ_CHECK(rate > 0);
        fuzz_read_tensor(tensor);
        cavmae_tensor_free(tensor);
    }
    if (fuzz_ok(cavmae_media_frames_source(context, &source, seconds, 4, &tensor))) {
        fuzz_read_tensor(tensor);
        cavmae_tensor_free(tensor);
    }
    fuzz_end(context);
    return 0;
}
