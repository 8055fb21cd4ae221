// As much of Arduino's core as a sketch with a serial port needs, on QEMU's semihosting.
#ifndef ARDUINO_STAND_IN_H
#define ARDUINO_STAND_IN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

class StandInSerial {
public:
  void begin(unsigned long) {}
  explicit operator bool() const { return true; }
  int available() const;
  int read();
  size_t print(const char *text);
  size_t print(double number);
  size_t println() { return print("\n"); }
};

extern StandInSerial Serial;
unsigned long millis();
void setup();
void loop();

#endif
