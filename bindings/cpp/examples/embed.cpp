/* embed MODEL CLIP: how well a clip's sound and picture fit, as the cosine of their embeddings. */
#include <cavmae.hpp>
#include <cstdio>
#include <numeric>

int main(int argc, char **argv) {
    if (argc != 3) return std::fprintf(stderr, "usage: embed MODEL CLIP\n"), 2;
    try {
        const cavmae::context context = cavmae::context::create();
        const cavmae::model model = cavmae::model::load(context, argv[1]);
        const std::int64_t width = model.configuration().get_i64(CAVMAE_P_EMBED_DIM);
        std::vector<float> audio(static_cast<std::size_t>(width)), visual(audio);

        cavmae::embedding out;
        out.audio = audio.data();
        out.visual = visual.data();
        model.embed_file(argv[2], out);
        std::printf("cosine %.4f\n", std::inner_product(audio.begin(), audio.end(), visual.begin(), 0.0));
    } catch (const cavmae::error &error) {
        std::fprintf(stderr, "%s: %s\n", cavmae::status_str(error.status()), error.what());
        return 1;
    }
    return 0;
}
