#include "fibre.h"

#include <cstdint>
#include <cstring>

/* Saves the registers that a callee must keep on the old stack and takes them from the new one. `ret` goes where the
 * new stack was left, mostly the place that the old one was left at too: the processor then predicts it. */
#if defined(__x86_64__) && !defined(CUDASIM_UCONTEXT)
extern "C" __attribute__((visibility("hidden"))) void cudasim_switch_stack(void **from, void *to);
asm(".text\n"
    ".hidden cudasim_switch_stack\n"
    ".globl cudasim_switch_stack\n"
    ".type cudasim_switch_stack, @function\n"
    "cudasim_switch_stack:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size cudasim_switch_stack, . - cudasim_switch_stack\n");

/* Six registers, the address that `ret` takes, and the empty place of entry's own return address, which must lie 8
 * below a multiple of 16. */
static void *first_frame(unsigned char *end, void (*entry)()) {
    void **top = reinterpret_cast<void **>(end) - 8;
    memset(top, 0, 8 * sizeof *top);
    memcpy(&top[6], &entry, sizeof entry);
    return top;
}

#elif defined(__aarch64__) && !defined(CUDASIM_UCONTEXT)
extern "C" __attribute__((visibility("hidden"))) void cudasim_switch_stack(void **from, void *to);
asm(".text\n"
    ".hidden cudasim_switch_stack\n"
    ".globl cudasim_switch_stack\n"
    ".type cudasim_switch_stack, @function\n"
    "cudasim_switch_stack:\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp, #0]\n"
    "    stp x21, x22, [sp, #16]\n"
    "    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n"
    "    stp x27, x28, [sp, #64]\n"
    "    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n"
    "    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n"
    "    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n"
    "    str x9, [x0]\n"
    "    mov sp, x1\n"
    "    ldp x19, x20, [sp, #0]\n"
    "    ldp x21, x22, [sp, #16]\n"
    "    ldp x23, x24, [sp, #32]\n"
    "    ldp x25, x26, [sp, #48]\n"
    "    ldp x27, x28, [sp, #64]\n"
    "    ldp x29, x30, [sp, #80]\n"
    "    ldp d8, d9, [sp, #96]\n"
    "    ldp d10, d11, [sp, #112]\n"
    "    ldp d12, d13, [sp, #128]\n"
    "    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    ret\n"
    ".size cudasim_switch_stack, . - cudasim_switch_stack\n");

static void *first_frame(unsigned char *end, void (*entry)()) {
    unsigned char *top = end - 160;
    memset(top, 0, 160);
    memcpy(top + 88, &entry, sizeof entry); /* x30 */
    return top;
}

#else
/* Slow, with a system call a switch, but everywhere (-DCUDASIM_UCONTEXT tries it). A context's stack pointer is its
 * ucontext: a new stack's lies at its end, a suspended one's in the frame that was left. */
#include <ucontext.h>

static void cudasim_switch_stack(void **from, void *to) {
    ucontext_t here;
    *from = &here;
    swapcontext(&here, static_cast<ucontext_t *>(to));
}

static void *first_frame(unsigned char *end, void (*entry)(), unsigned char *stack) {
    ucontext_t *frame = reinterpret_cast<ucontext_t *>((uintptr_t)(end - sizeof(ucontext_t)) & ~(uintptr_t)63);
    getcontext(frame);
    frame->uc_stack.ss_sp = stack;
    frame->uc_stack.ss_size = (size_t)(reinterpret_cast<unsigned char *>(frame) - stack);
    frame->uc_link = nullptr;
    makecontext(frame, entry, 0);
    return frame;
}
#undef CUDASIM_UCONTEXT
#define CUDASIM_UCONTEXT 1
#endif

namespace cudasim {

context new_context(unsigned char *stack, size_t size, void (*entry)()) {
    context made;
    unsigned char *end = reinterpret_cast<unsigned char *>((uintptr_t)(stack + size) & ~(uintptr_t)15);
#ifdef CUDASIM_ASAN
    __asan_unpoison_memory_region(stack, size); /* of a thread that a fault has ended */
    made.stack = stack;
    made.stack_size = size;
#endif
#ifdef CUDASIM_UCONTEXT
    made.stack_pointer = first_frame(end, entry, stack);
#else
    made.stack_pointer = first_frame(end, entry);
#endif
    return made;
}

#ifdef CUDASIM_ASAN
void switch_context(context &from, const context &to, bool ended) {
    void *fake_stack = nullptr;
    __sanitizer_start_switch_fiber(ended ? nullptr : &fake_stack, to.stack, to.stack_size);
    cudasim_switch_stack(&from.stack_pointer, to.stack_pointer);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
}

void entered_context(context &came_from) {
    __sanitizer_finish_switch_fiber(nullptr, &came_from.stack, &came_from.stack_size);
}
#else
void switch_context(context &from, const context &to, bool) {
    cudasim_switch_stack(&from.stack_pointer, to.stack_pointer);
}

void entered_context(context &) {}
#endif

} // namespace cudasim
