/* Answers what is typed, line by line. Before, the golden vectors: by how much this chip is off. */
#include "causalrn_demo.h"

#include <zephyr/console/console.h>
#include <zephyr/sys/printk.h>

static void answer(const char *line)
{
    const char *text = NULL;
    int code = causalrn_demo_ask(line);
    if (code == CAUSALRN_OK)
        code = causalrn_demo_next(&text);
    while (code == CAUSALRN_OK && text != NULL) {
        printk("%s", text);
        code = causalrn_demo_next(&text);
    }
    printk("%s\n", code == CAUSALRN_OK ? "" : causalrn_message(code));
}

int main(void)
{
    float worst = 0.0f;
    const int code = causalrn_demo_begin(&worst);
    const unsigned hundredths = worst < 1e5f ? (unsigned)(100.0f * worst) : 9999999u; /* printk has no floats */
    printk("golden vectors: largest error %u.%02u %% of what is allowed%s\n", hundredths / 100u, hundredths % 100u,
           worst <= 100.0f ? "" : ": wrong");
    if (code != CAUSALRN_OK)
        printk("%s\n", causalrn_message(code));
    console_getline_init();
    for (;;)
        answer(console_getline());
}
