/* What codes mean, in words.
 *
 * Needs causalrn.h. */

const char *causalrn_message(int code)
{
    switch (code) {
    case CAUSALRN_OK: return "fine";
    case CAUSALRN_NOT_WEIGHTS: return "not a weights file";
    case CAUSALRN_WRONG_ENDIANNESS: return "the weights file and this machine have another byte order";
    case CAUSALRN_WRONG_VERSION: return "a weights file of another version: export again";
    case CAUSALRN_WRONG_MODEL: return "weights of another model than causalrn.h describes";
    case CAUSALRN_TRUNCATED: return "the weights file is truncated";
    case CAUSALRN_OVERSIZED: return "the weights file is longer than it says";
    case CAUSALRN_DAMAGED: return "the weights file is damaged: its checksum differs";
    case CAUSALRN_MISALIGNED: return "memory has to be aligned to 4 bytes, better 64";
    case CAUSALRN_TOO_SMALL: return "less memory than causalrn_session_size says";
    case CAUSALRN_WRONG_TOKEN: return "a token is outside the vocabulary";
    case CAUSALRN_FULL: return "no position is left";
    case CAUSALRN_NOT_FINITE: return "NaN or infinity: reset before going on";
    case CAUSALRN_WRONG_SIZE: return "a capacity, batch or number of tokens that cannot be";
    case CAUSALRN_MIXED: return "sessions of different weights or instruction sets, or one of them twice";
    default: return "unknown error";
    }
}
