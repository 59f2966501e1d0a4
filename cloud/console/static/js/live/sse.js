/** Server-sent events out of a byte stream: the format's parser, and nothing of the network. (WHATWG HTML, 9.2.6) */

/** @typedef {{ event: string, id: string, data: string }} Event */

/**
 * Feed it text as it comes; it calls back once per whole event. A stream begins with a parser of its own.
 * @param {(event: Event) => void} onEvent
 */
export function parser(onEvent) {
  let rest = "";
  let [event, id] = ["", ""];
  /** @type {string[]} */
  let data = [];

  /** @param {string} line */
  function take(line) {
    if (line === "") {
      if (data.length) onEvent({ event: event || "message", id, data: data.join("\n") });
      event = "";
      data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment: only says that the other end lives
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "event") event = value;
    else if (field === "data") data.push(value);
    else if (field === "id" && !value.includes("\0")) id = value;
  }

  /** @param {string} text */
  return (text) => {
    rest += text;
    // A CR at the very end may be the first half of CRLF: it waits for what follows.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = /** @type {string} */ (lines.pop());
    for (const line of lines) take(line);
  };
}
