# make -f cortex_m.mk          build/firmware.elf: the self-test for a Cortex-M7, and what it takes
# With less optimization the 16 lanes go through memory: slower, and more stack.
# make -f cortex_m.mk run      runs it in QEMU (mps2-an500)

CROSS ?= arm-none-eabi-
CPU ?= -mcpu=cortex-m7 -mthumb -mfloat-abi=hard -mfpu=fpv5-sp-d16
CFLAGS ?= -O3 -fno-math-errno
BUILD ?= build
STRICT = -std=c99 -Wall -Wextra -DCAUSALRN_NO_MAIN -ffunction-sections
QEMU ?= qemu-system-arm -M mps2-an500 -display none -monitor none -serial none \
	-chardev stdio,id=out -semihosting-config enable=on,chardev=out -kernel

$(BUILD)/firmware.elf: cortex_m.c selftest.c causalrn.c causalrn.h golden.h causalrn_weights.h cortex_m.ld
	mkdir -p $(BUILD)
	$(CROSS)gcc $(CPU) $(STRICT) $(CFLAGS) -nostartfiles -Wl,--gc-sections -T cortex_m.ld \
		cortex_m.c selftest.c causalrn.c -lm -lgcc -o $@
	$(CROSS)size $@

run: $(BUILD)/firmware.elf
	$(QEMU) $<

.PHONY: run
