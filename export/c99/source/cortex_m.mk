# make -f cortex_m.mk                     build/cortex-m7.elf: the self-test as firmware, and what it takes
# make -f cortex_m.mk run                 runs it in QEMU
# make -f cortex_m.mk CORE=cortex-m55 run the same for another core: cortex-m4, cortex-m7, cortex-m33, cortex-m55
# With less optimization the 16 lanes go through memory: slower, and more stack.

CROSS ?= arm-none-eabi-
CORE ?= cortex-m7
CFLAGS ?= -O3 -fno-math-errno
BUILD ?= build
SOURCES ?= cortex_m.c selftest.c causalrn.c
STRICT = -std=c99 -Wall -Wextra -DCAUSALRN_NO_MAIN -ffunction-sections

# The boards of QEMU that have these cores, and their memories where they are not those in cortex_m.ld.
BOARD_cortex-m4 = mps2-an386
BOARD_cortex-m7 = mps2-an500
BOARD_cortex-m33 = mps2-an505
BOARD_cortex-m55 = mps3-an547
FPU_cortex-m4 = -mfpu=fpv4-sp-d16
FPU_cortex-m7 = -mfpu=fpv5-sp-d16
FPU_cortex-m33 = -mfpu=fpv5-sp-d16
MEMORY_cortex-m33 = -Wl,--defsym=vectors=0x10000000,--defsym=flash=0x10000400,--defsym=ram=0x38000000
MEMORY_cortex-m55 = -Wl,--defsym=flash=0x01000000,--defsym=flash_size=2M,--defsym=ram_size=512K

CPU ?= -mcpu=$(CORE) -mthumb -mfloat-abi=hard $(FPU_$(CORE))
MEMORY ?= $(MEMORY_$(CORE))
QEMU_OPTIONS ?= # e.g. -s -S, to wait for a debugger
QEMU ?= qemu-system-arm -M $(BOARD_$(CORE)) $(QEMU_OPTIONS) -display none -monitor none -serial none \
	-chardev stdio,id=out -semihosting-config enable=on,chardev=out -kernel

$(BUILD)/$(CORE).elf: $(SOURCES) causalrn.c causalrn.h golden.h causalrn_weights.h cortex_m.ld
	mkdir -p $(BUILD)
	$(CROSS)gcc $(CPU) $(STRICT) $(CFLAGS) -nostartfiles -Wl,--gc-sections $(MEMORY) -T cortex_m.ld \
		$(SOURCES) -lm -lgcc -o $@
	$(CROSS)size $@

run: $(BUILD)/$(CORE).elf
	$(QEMU) $<

.PHONY: run
