/* The table that crn_api.h describes.
 *
 * Needs everything before it. */

static const char *message(int code)
{
    switch (code) {
    case CRN_NO_MEMORY: return "no memory is left";
    case CRN_NO_FILE: return "the file cannot be read";
    case CRN_NOT_WRITTEN: return "the file cannot be written";
    case CRN_NO_SLOT: return "no slot of this number is in use";
    case CRN_NO_LOGITS: return "the slot has taken no token yet";
    case CRN_NOT_STATE: return "not a state file of this model for one sequence, or a damaged one";
    case CRN_OTHER_CHECKPOINT: return "a state of another checkpoint, or of the same weights in another model";
    case CRN_OTHER_ARITHMETIC: return "a state of the same checkpoint in another arithmetic: quantized, or otherwise";
    case CRN_NOT_INLINE: return "weights are not compiled in: open the weights file";
    default: return causalrn_message(code);
    }
}

#ifndef CAUSALRN_EXPORT
#if defined(_WIN32)
#define CAUSALRN_EXPORT __declspec(dllexport)
#elif defined(__GNUC__)
#define CAUSALRN_EXPORT __attribute__((visibility("default")))
#else
#define CAUSALRN_EXPORT
#endif
#endif

static const crn_api functions = {
    CRN_API_VERSION, sizeof(crn_api), open_file,   open_memory, open_inline, close_model, describe_model, choose_kernel,
    open_session,    close_session,   admit,       release,     reset,       copy,        position_of,    logits_of,
    memory_of,       step,            prefill,     step_many,   save_file,   load_file,   save_memory,    load_memory,
    message};

CAUSALRN_EXPORT const crn_api *causalrn_api(void) { return &functions; }

/* Under its plain name, for dlsym and for other languages. Programs in C find the one with the model's number. */
#undef causalrn_api
#ifdef CAUSALRN_PLAIN_API
CAUSALRN_EXPORT const crn_api *causalrn_api(void);
CAUSALRN_EXPORT const crn_api *causalrn_api(void) { return &functions; }
#endif
