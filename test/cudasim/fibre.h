/* Fibres: stacks that one OS thread switches between. A switch costs a few nanoseconds. */
#ifndef CUDASIM_FIBRE_H
#define CUDASIM_FIBRE_H

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define CUDASIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDASIM_ASAN 1
#endif
#endif

#ifdef CUDASIM_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cudasim {

/* Where execution stands on a stack that is not running. */
struct context {
    void *stack_pointer = nullptr;
#ifdef CUDASIM_ASAN
    const void *stack = nullptr;
    size_t stack_size = 0;
#endif
};

/* A context that will call `entry`, which never returns, on the stack [stack, stack + size). */
context new_context(unsigned char *stack, size_t size, void (*entry)());

/* Goes on at `to`; comes back when somebody switches to `from`. ended: nobody will. */
void switch_context(context &from, const context &to, bool ended);

/* The first thing that `entry` does. came_from: the context that started it. */
void entered_context(context &came_from);

} // namespace cudasim

#endif
