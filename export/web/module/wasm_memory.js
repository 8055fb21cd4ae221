/** A WebAssembly module's memory: where things lie, and views of them. Addresses reach JavaScript as signed integers. */

import { CausalRNError } from "./errors.js";

const PAGE_BYTES = 65536,
  LINE_BYTES = 64,
  LARGEST_BYTES = 2 ** 32;

export class WasmMemory {
  /** @param {WebAssembly.Memory} memory  @param {number} start first address that is free */
  constructor(memory, start) {
    this.memory = memory;
    this.free = start;
  }

  /** Make room; gives its address, a multiple of a cache line. Where there is none, nothing changes. */
  allocate(bytes) {
    const address = Math.ceil(this.free / LINE_BYTES) * LINE_BYTES;
    this.#growTo(address + bytes, bytes);
    this.free = address + bytes;
    return address;
  }

  #growTo(end, bytes) {
    const missing = end - this.memory.buffer.byteLength;
    try {
      if (!(end <= LARGEST_BYTES - PAGE_BYTES)) throw new RangeError("beyond 32 bits");
      if (missing > 0) this.memory.grow(Math.ceil(missing / PAGE_BYTES));
    } catch {
      const megabytes = Math.ceil(bytes / 1e6).toLocaleString("en");
      throw new CausalRNError(
        "unavailable",
        `no ${megabytes} MB of memory for this model: close other pages, or use a smaller one or a shorter text`,
      );
    }
  }

  /** A view; it is void when the memory grows. */
  view(Kind, address, count) {
    return new Kind(this.memory.buffer, address >>> 0, count);
  }

  /** A copy. */
  copy(Kind, address, count) {
    return this.view(Kind, address, count).slice();
  }

  /** The text at an address, up to a zero. */
  text(address) {
    const bytes = new Uint8Array(this.memory.buffer),
      start = address >>> 0;
    return new TextDecoder().decode(bytes.subarray(start, bytes.indexOf(0, start)));
  }
}
