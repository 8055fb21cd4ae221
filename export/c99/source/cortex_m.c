/* The self-test as firmware for a Cortex-M: start-up code, and output by semihosting. Build and run:
 * make -f cortex_m.mk run */
#include "causalrn.h"
#include "causalrn_weights.h"

extern uint32_t data_source[], data_begin[], data_end[], bss_begin[], bss_end[], stack_bottom[], stack_top[];

int causalrn_selftest(const causalrn_weights *weights, float *worst);
void start(void);

enum { WRITE = 0x04, EXIT = 0x18, APPLICATION_EXIT = 0x20026, RUNTIME_ERROR = 0x20023 };
static const uint32_t UNUSED = 0xdeadbeefu;
static causalrn_weights weights;

static void call_host(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

static void say(const char *words) { call_host(WRITE, words); }

static void say_number(uint32_t number)
{
    char digits[12];
    int place = 11;
    digits[place] = '\0';
    do {
        digits[--place] = (char)('0' + number % 10u);
        number /= 10u;
    } while (number > 0u);
    say(digits + place);
}

static uint32_t unused_stack(void)
{
    uint32_t words = 0;
    while (stack_bottom + words < stack_top && stack_bottom[words] == UNUSED)
        words++;
    return words * 4u;
}

static void run(void)
{
    float worst = 0.0f;
    int code = causalrn_use(&weights, causalrn_payload);
    if (code == CAUSALRN_OK)
        code = causalrn_selftest(&weights, &worst);
    const uint32_t whole = (uint32_t)((uintptr_t)stack_top - (uintptr_t)stack_bottom), unused = unused_stack();
    say(code == CAUSALRN_OK ? "passed" : code > CAUSALRN_OK ? causalrn_message(code) : "failed");
    say(": largest error ");
    const uint32_t hundredths = worst < 1e5f ? (uint32_t)(worst * 10000.0f) : 999999999u;
    say_number(hundredths / 100u);
    say(hundredths % 100u < 10u ? ".0" : ".");
    say_number(hundredths % 100u);
    say(" % of what is allowed, stack ");
    say_number(whole - unused);
    say(unused > 0u ? " bytes\n" : " bytes: overflowed\n");
    call_host(EXIT, (const void *)(uintptr_t)(code == CAUSALRN_OK && unused > 0u ? APPLICATION_EXIT : RUNTIME_ERROR));
}

void start(void)
{
    for (uint32_t *to = data_begin, *from = data_source; to < data_end;)
        *to++ = *from++;
    for (uint32_t *to = bss_begin; to < bss_end;)
        *to++ = 0u;
    const uintptr_t own = (uintptr_t)stack_top - 128u; /* this function's part of the stack */
    for (volatile uint32_t *to = stack_bottom; (uintptr_t)to < own;) /* what has been written over has been used */
        *to++ = UNUSED;
    *(volatile uint32_t *)0xe000ed88u |= 0xfu << 20; /* the floating-point unit */
    __asm__ volatile("dsb\n\tisb");
    run();
    for (;;) {
    }
}

__attribute__((section(".vectors"), used)) static const void *const vectors[2] = {stack_top, (void *)start};
