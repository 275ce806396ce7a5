/* The smallest user of an installed cavmae.hpp. */
#include <cavmae.hpp>

int main() {
    const cavmae::context context = cavmae::context::create();
    const std::int64_t shape[] = {2, 3};
    return cavmae::tensor::create(context, CAVMAE_FLOAT32, shape).elements() == 6 ? 0 : 1;
}
