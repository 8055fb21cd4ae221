// Answers what is typed, line by line. Before, the golden vectors: by how much this board is off.
#include <causalrn.h>
#include <causalrn_demo.h>

static char line[CAUSALRN_DEMO_POSITIONS + 1];
static unsigned length = 0;

static void say(int code) {
  if (code != CAUSALRN_OK)
    Serial.print(causalrn_message(code));
  Serial.println();
}

static void answer() {
  const char *text = nullptr;
  int code = causalrn_demo_ask(line);
  if (code == CAUSALRN_OK)
    code = causalrn_demo_next(&text);
  while (code == CAUSALRN_OK && text != nullptr) {
    Serial.print(text);
    code = causalrn_demo_next(&text);
  }
  say(code);
}

void setup() {
  float worst = 0;
  Serial.begin(115200);
  while (!Serial && millis() < 4000) {
  }
  const int code = causalrn_demo_begin(&worst);
  Serial.print("golden vectors: largest error ");
  Serial.print(worst);
  Serial.print(worst <= 100 ? " % of what is allowed " : " % of what is allowed: wrong ");
  say(code);
}

void loop() {
  while (Serial.available() > 0) {
    const int letter = Serial.read();
    if (letter != '\n' && letter != '\r') {
      if (length < sizeof line - 1)
        line[length++] = (char)letter;
    } else if (length > 0) {
      line[length] = '\0';
      length = 0;
      answer();
    }
  }
}
