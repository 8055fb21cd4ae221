"""Mistakes in the JavaScript of a web bundle and in its engines: (file, text that is there, text instead)."""

MODULE = {
    "reset keeps the last logits": (
        "causalrn.js",
        "this.#engine.reset();\n    this.#logits = null;",
        "this.#engine.reset();",
    ),
    "reset does nothing": ("wasm_engine.js", "  reset() {\n    this.native.reset_session();", "  reset() {"),
    "last logits of the first token": (
        "causalrn.js",
        "logits.slice(logits.length - this.vocabulary)",
        "logits.slice(0, this.vocabulary)",
    ),
    "restore forgets the logits": ("causalrn.js", "snapshot.logits && snapshot.logits.slice()", "null"),
    "restore keeps the position": (
        "wasm_engine.js",
        "this.native.set_position(position);\n    this.#watchFrom",
        "this.#watchFrom",
    ),
    "restore at position 0 skipped": (
        "causalrn.js",
        "    this.#engine.loadState(",
        "    if (snapshot.position > 0) this.#engine.loadState(",
    ),
    "restore skipped at the same position": (
        "causalrn.js",
        "    this.#engine.loadState(",
        "    if (snapshot.position !== this.position) this.#engine.loadState(",
    ),
    "a row of the state lost": (
        "wasm_engine.js",
        "this.hasPool ? position : 1),\n        value",
        "this.hasPool ? Math.max(position - 1, 0) : 1),\n        value",
    ),
    "logits are a view": (
        "wasm_engine.js",
        "this.#memory.copy(Float32Array, this.#logits, tokens.length",
        "this.#memory.view(Float32Array, this.#logits, tokens.length",
    ),
    "tokens reversed": ("wasm_engine.js", "tokens.length).set(tokens);", "tokens.length).set([...tokens].reverse());"),
    "capacity one too many": (
        "causalrn.js",
        "this.position + tokens.length > this.capacity",
        "this.position + tokens.length > this.capacity + 99",
    ),
    "negative tokens taken": ("causalrn.js", "token < 0 || token >= this.vocabulary", "token >= this.vocabulary"),
    "foreign states taken": ("state_origin.js", "other.checkpoint !== own.checkpoint", "false"),
    "calls at a time not refused": ("causalrn.js", "if (this.#busy) throw", "if (false) throw"),
    "state bytes without heads": ("state_shape.js", " * arrayOf(tensor).BYTES_PER_ELEMENT", ""),
    "greedy takes the least likely": ("sampling.js", "value > logits[most]", "value < logits[most]"),
    "top-k ignored": ("sampling.js", "if (topK > 0)", "if (false)"),
    "top-p ignored": ("sampling.js", "mass < topP * whole", "true"),
    "temperature ignored": ("sampling.js", "/ temperature)", ")"),
    "draws do not depend on the position": ("sampling.js", "Math.imul(position + 1, 0x27d4eb2f)", "1"),
    "stop tokens ignored": ("generation.js", "return ids.includes(token) || spells;", "return spells;"),
    "one token too few": ("generation.js", "count === limit - 1;", "count >= limit - 2;"),
    "letters shifted": ("alphabet.js", "FIRST_LETTER = 3", "FIRST_LETTER = 4"),
    "golden check always passes": ("parity.js", "passed: rows.every((row) => row.passed), rows", "passed: true, rows"),
    "golden check of logits always passes": (
        "parity.js",
        "error, allowed, passed: error <= allowed, words }];",
        "error, allowed, passed: true, words }];",
    ),
    "golden check of states always passes": ("parity.js", "passed: ratio <= 1, words", "passed: true, words"),
    "golden check of recorded bits always passes": (
        "parity.js",
        "const equal = pairs.every(",
        "const equal = true || pairs.every(",
    ),
    "golden check ends with 0": ("verify.mjs", "? 0 : 1;", "? 0 : 0;"),
}

ENGINES = {
    "engine without SIMD empty": ("engine_plain.wasm", None),
    "engine with SIMD empty": ("engine_simd.wasm", None),
    "exp2 of the engine without SIMD": ("engine_plain.wasm", "0x1.62e428p-1"),
    "exp2 of the engine with SIMD": ("engine_simd.wasm", "0x1.62e428p-1"),
}
"""Emptied, or a constant that was 1 % larger."""
