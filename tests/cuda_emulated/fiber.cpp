/* fiber.cpp: see fiber.h. Registers are exchanged by hand on x86-64, by ucontext elsewhere. */
#include "fiber.h"

#include "emulated.h"

#include <sys/mman.h>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if MF_EMULATED_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulated {

namespace {

constexpr size_t stack_bytes = MF_EMULATED_ASAN ? 1 << 20 : 1 << 18, guard_bytes = 1 << 16;

#if defined(__x86_64__)

struct context {
    void *stack;
};

/* What a call must leave as it was is kept on the stack that is left. A jump, for processors foresee where it
 * goes better than a return that no call belongs to. */
extern "C" void emulated_exchange(context *save, context *load);
asm(R"(
    .text
    .globl emulated_exchange
    .hidden emulated_exchange
    .type emulated_exchange, @function
emulated_exchange:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
    .size emulated_exchange, . - emulated_exchange
)");

/* As though it had been left just before the first instruction of `body`. */
void prepare(context *c, char *stack, void (*body)()) {
    void **top = (void **)(stack + stack_bytes);
    *--top = nullptr; /* where body would return to: it never does */
    *--top = (void *)body;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    c->stack = top;
}

#else

struct context {
    ucontext_t registers;
};

void emulated_exchange(context *save, context *load) { swapcontext(&save->registers, &load->registers); }

void prepare(context *c, char *stack, void (*body)()) {
    getcontext(&c->registers);
    c->registers.uc_stack.ss_sp = stack;
    c->registers.uc_stack.ss_size = stack_bytes;
    c->registers.uc_link = nullptr;
    makecontext(&c->registers, body, 0);
}

#endif

} // namespace

struct fiber {
    context own;
    char *stack;
    void (*body)();
    bool ended;
    void *fake_stack; /* the address sanitizer's */
};

namespace {

auto &idle = *new std::vector<fiber *>; /* never deleted: stacks may be wanted until the very end */
fiber *current;
context caller;
const void *caller_stack;
size_t caller_stack_bytes;
void *caller_fake_stack;

#if MF_EMULATED_ASAN
void leave(void **fake, const void *stack, size_t bytes) {
    __sanitizer_start_switch_fiber(fake, stack, bytes);
}
void arrive(void *fake, const void **from, size_t *bytes) {
    __sanitizer_finish_switch_fiber(fake, from, bytes);
}
#else
void leave(void **, const void *, size_t) {}
void arrive(void *, const void **, size_t *) {}
#endif

void begin() {
    arrive(nullptr, &caller_stack, &caller_stack_bytes);
    current->body();
    current->ended = true;
    leave(nullptr, caller_stack, caller_stack_bytes);
    emulated_exchange(&current->own, &caller);
    __builtin_unreachable();
}

fiber *make() {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *map = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (map == MAP_FAILED || mprotect(map, guard_bytes, PROT_NONE)) die("no memory for a stack");
    fiber *made = new fiber();
    made->stack = (char *)map + guard_bytes;
    return made;
}

} // namespace

fiber *fiber_take(void (*body)()) {
    fiber *f = idle.empty() ? make() : idle.back();
    if (!idle.empty()) idle.pop_back();
    f->body = body;
    f->ended = false;
    f->fake_stack = nullptr;
    prepare(&f->own, f->stack, begin);
    return f;
}

bool fiber_resume(fiber *f) {
    current = f;
    leave(&caller_fake_stack, f->stack, stack_bytes);
    emulated_exchange(&caller, &f->own);
    arrive(caller_fake_stack, nullptr, nullptr);
    current = nullptr;
    if (!f->ended) return true;
    idle.push_back(f);
    return false;
}

void fiber_yield() {
    fiber *own = current;
    leave(&own->fake_stack, caller_stack, caller_stack_bytes);
    emulated_exchange(&own->own, &caller);
    arrive(own->fake_stack, &caller_stack, &caller_stack_bytes);
}

} // namespace emulated
