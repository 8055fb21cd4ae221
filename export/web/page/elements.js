/** Small helpers to build and fill elements. */

/**
 * An element with properties, attributes (names with a hyphen, or "role") and children.
 *
 * @param {string} tag
 * @param {Record<string, unknown>} [properties]
 * @param {...(Node | string)} children
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Show a message in an element that is hidden while it has none. */
export function showMessage(target, message) {
  target.textContent = message;
  target.hidden = message === "";
}

/** Enable or disable a button without taking the focus from it. */
export function setEnabled(button, enabled) {
  button.setAttribute("aria-disabled", String(!enabled));
}

/** Whether a button may be used now. */
export const isEnabled = (button) => button.getAttribute("aria-disabled") !== "true";

/** A number of bytes for people: "896 bytes", "34.8 KB". */
export function bytesInWords(bytes) {
  if (bytes < 1e3) return `${bytes} bytes`;
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} KB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** An error as a sentence; one that is not the module's own gets a remedy. File names keep their small letters. */
export function errorInWords({ name, message }) {
  const sentence =
    name === "CausalRNError" ? message : `something unexpected happened (${message}): load the page again`;
  return `${sentence.replace(/^[a-z]+(?= )/, (word) => word[0].toUpperCase() + word.slice(1))}.`;
}
