/* A program of the toy's first version: what it was promised, it gets. */
#include "toy.h"

int main(void) {
    toy_options options = {0};
    toy_box *box;
    options.struct_size = sizeof options;
    if (toy_create(&options, &box) != TOY_OK || toy_put(box, 3) != TOY_OK || toy_put(box, 4) != TOY_OK) return 1;
    const int right = toy_count(box) == 2 && toy_result(box) == 7;
    toy_free(box);
    return !right;
}
