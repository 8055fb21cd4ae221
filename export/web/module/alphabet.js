/** Token alphabets: text to token ids and back, as in the manifest's entry "alphabet". */

import { CausalRNError } from "./errors.js";

const BOS = 0,
  SEP = 1,
  EOS = 2,
  FIRST_LETTER = 3;
const LETTERS = "abcdefghijklmnopqrstuvwxyz";
const SECOND_BYTES = { 0xe0: [0xa0, 0xbf], 0xed: [0x80, 0x9f], 0xf0: [0x90, 0xbf], 0xf4: [0x80, 0x8f] };

/** "letters": BOS 0, SEP 1, EOS 2, a-z 3-28, a blank stands for SEP. "bytes": UTF-8 bytes. */
export class Alphabet {
  constructor(name) {
    if (!["letters", "bytes"].includes(name))
      throw new CausalRNError("bundle", `alphabet ${name} is unknown: export again`);
    this.name = name;
    /** Token ids after which generation stops by itself. */
    this.stopIds = name === "letters" ? [EOS] : [];
  }

  /** Token ids of the text alone. */
  encode(text) {
    if (this.name === "bytes") return [...new TextEncoder().encode(text)];
    return [...text].map((character, index) => {
      if (character === " ") return SEP;
      const place = LETTERS.indexOf(character);
      if (place >= 0) return FIRST_LETTER + place;
      throw new CausalRNError(
        "input",
        `character '${character}' at place ${index + 1} of the text is not in the alphabet: this model knows the letters a to z`,
      );
    });
  }

  /** Token ids of a prompt: letters get BOS before, and SEP after if they have none. */
  prompt(text) {
    if (text === "") throw new CausalRNError("input", "the prompt is empty: type something");
    const ids = this.encode(text);
    if (this.name === "bytes") return ids;
    if (!ids.includes(SEP)) return [BOS, ...ids, SEP];
    if (ids.indexOf(SEP) !== ids.lastIndexOf(SEP) || ids[0] === SEP || ids[ids.length - 1] === SEP)
      throw new CausalRNError("input", "a blank stands for SEP: write one, between a string and what is asked of it");
    return [BOS, ...ids];
  }

  /** Decodes token by token, from where an earlier stream ended. */
  textStream(tail = []) {
    return new TextStream(this, tail);
  }

  /** Text of token ids; markers are left out, bytes that are no UTF-8 are replaced. */
  decode(ids) {
    if (this.name === "bytes") return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(ids));
    return Array.from(ids, (id) => (id >= FIRST_LETTER ? LETTERS[id - FIRST_LETTER] : "")).join("");
  }

  /** A token for people: a marker by its name. */
  symbol(id) {
    if (this.name === "bytes")
      return id > 32 && id < 127 ? String.fromCharCode(id) : `0x${id.toString(16).padStart(2, "0")}`;
    return ["BOS", "SEP", "EOS"][id] ?? LETTERS[id - FIRST_LETTER];
  }
}

/** Text of tokens that come one by one: a character of several bytes comes with its last one. */
class TextStream {
  constructor(alphabet, tail) {
    this.alphabet = alphabet;
    /** Bytes of a character that is not whole yet. */
    this.tail = [...tail];
  }

  /** What a token adds to the text. */
  take(id) {
    const bytes = [...this.tail, id];
    if (this.alphabet.name === "bytes" && beginsCharacter(bytes)) {
      this.tail = bytes;
      return "";
    }
    if (this.alphabet.name !== "bytes" || !beginsCharacter([id])) {
      this.tail = [];
      return this.alphabet.decode(bytes);
    }
    const broken = this.end(); // and the next character begins
    this.tail = [id];
    return broken;
  }

  /** What is left at the end: one replacement character where there is a tail. */
  end() {
    const left = this.alphabet.decode(this.tail);
    this.tail = [];
    return left;
  }
}

/** Whether bytes begin a character of UTF-8 and are not all of it: table 3-7 of the Unicode standard. */
export function beginsCharacter(bytes) {
  const [first, second, third] = bytes,
    isBetween = (byte, low, high) => byte >= low && byte <= high;
  const length = !isBetween(first, 0xc2, 0xf4) ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const [low, high] = SECOND_BYTES[first] ?? [0x80, 0xbf];
  return (
    bytes.length >= 1 &&
    bytes.length < length &&
    (second === undefined || isBetween(second, low, high)) &&
    (third === undefined || isBetween(third, 0x80, 0xbf))
  );
}
