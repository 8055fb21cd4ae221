/* A plugin of QEMU (7.0 or later, API version 1): how many instructions have been executed whenever the one at an address
 * is: -plugin count_instructions.so,mark=ADDRESS
 *
 * QEMU's own plugins and header are not packaged everywhere, so what is needed of the interface is declared here. */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGISTERS = 0, ADD = 0 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*translated)(plugin_id, struct qemu_plugin_tb *));
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t number);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);
extern void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *instruction, int operation, void *counter,
                                                       uint64_t by);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *instruction,
                                                   void (*reached)(unsigned, void *), int registers, void *data);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;
static uint64_t executed, mark;

static void say(unsigned processor, void *data)
{
    (void)processor, (void)data;
    fprintf(stderr, "executed %" PRIu64 "\n", executed);
}

static void count(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
        if (qemu_plugin_insn_vaddr(instruction) == mark)
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, say, NO_REGISTERS, NULL);
        qemu_plugin_register_vcpu_insn_exec_inline(instruction, ADD, &executed, 1);
    }
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int number, char **words)
{
    (void)info;
    if (number != 1 || strncmp(words[0], "mark=", 5) != 0)
        return 1;
    mark = strtoull(words[0] + 5, NULL, 0);
    qemu_plugin_register_vcpu_tb_trans_cb(id, count);
    return 0;
}
