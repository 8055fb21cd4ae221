/* Answers what is typed, line by line. Before, the golden vectors: by how much this chip is off. */
#include "causalrn_demo.h"

#include "freertos/FreeRTOS.h"
#include "freertos/task.h"

#include <stdio.h>

static void answer(const char *line)
{
    const char *text = NULL;
    int code = causalrn_demo_ask(line);
    if (code == CAUSALRN_OK)
        code = causalrn_demo_next(&text);
    while (code == CAUSALRN_OK && text != NULL) {
        fputs(text, stdout);
        code = causalrn_demo_next(&text);
    }
    puts(code == CAUSALRN_OK ? "" : causalrn_message(code));
}

void app_main(void)
{
    static char line[CAUSALRN_DEMO_POSITIONS + 1];
    size_t length = 0;
    float worst = 0.0f;
    const int code = causalrn_demo_begin(&worst);
    printf("golden vectors: largest error %.2f %% of what is allowed%s %s\n", (double)worst, worst <= 100.0f ? "" : ": wrong",
           code == CAUSALRN_OK ? "" : causalrn_message(code));
    for (;;) {
        const int letter = getchar();
        if (letter == EOF) { /* nothing has been typed */
            clearerr(stdin);
            vTaskDelay(1);
        } else if (letter != '\n' && letter != '\r') {
            if (length < sizeof line - 1)
                line[length++] = (char)letter;
        } else if (length > 0) {
            line[length] = '\0';
            length = 0;
            answer(line);
        }
    }
}
