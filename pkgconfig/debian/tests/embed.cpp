/* Embeds made-up clips with a new tiny model. */
#include <cavmae.hpp>
#include <cmath>
#include <cstdio>
#include <vector>

int main() {
    const cavmae::context context = cavmae::context::create();
    const cavmae::model model = cavmae::model::create(cavmae::config::create(context, "tiny"));
    std::vector<float> sound(128 * 128), picture(3 * 64 * 64), audio(32), visual(32);
    for (std::size_t i = 0; i < sound.size(); i++) sound[i] = static_cast<float>(std::sin(0.1 * static_cast<double>(i)));
    for (std::size_t i = 0; i < picture.size(); i++) picture[i] = static_cast<float>(i % 7) - 3;

    cavmae::batch clips;
    clips.count = 1;
    clips.audio = sound.data();
    clips.image = picture.data();
    cavmae::embedding out;
    out.audio = audio.data();
    out.visual = visual.data();
    model.embed(clips, out);
    double square = 0;
    for (const float value : visual) square += static_cast<double>(value) * value;
    std::printf("%s; length of the embedding: %.4f\n", cavmae::build_info(), std::sqrt(square));
    return !(std::fabs(square - 1) < 1e-4);
}
