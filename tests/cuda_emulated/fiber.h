/* fiber.h: stacks that take turns on one thread of the host. */
#ifndef MF_EMULATED_FIBER_H
#define MF_EMULATED_FIBER_H

namespace emulated {

struct fiber;
/* Calls body when it is first resumed. */
fiber *fiber_take(void (*body)());
/* Until it yields: true; until body has returned: false, and then the fiber is no more the caller's. */
bool fiber_resume(fiber *f);
/* From within a fiber: back to who resumed it. */
void fiber_yield();

} // namespace emulated

#endif
