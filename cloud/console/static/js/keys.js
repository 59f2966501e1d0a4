/** Keys: a page says what its keys do while it stands; nothing fires while somebody types or holds a modifier. */

import { useEffect, useRef } from "./html.js";

/** @typedef {Record<string, () => void>} Keymap  "g f" is two keys, one after the other */

/** @type {Keymap[]} The last one that knows a key has it. */
const maps = [];
let first = "";
let first_at = 0;

/** @param {EventTarget | null} target */
function types(target) {
  if (!(target instanceof HTMLElement)) return false;
  return target.isContentEditable || target.matches("textarea, select, input:not([type=checkbox], [type=radio], [type=button])");
}

/** @param {KeyboardEvent} event */
function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || types(event.target)) return;
  // A dialog has its own keys.
  if (document.querySelector("dialog[open]") && event.key !== "?") return;
  const two = event.timeStamp - first_at < 1200 && first ? `${first} ${event.key}` : "";
  [first, first_at] = [event.key, event.timeStamp];
  for (const name of two ? [two, event.key] : [event.key]) {
    for (let n = maps.length - 1; n >= 0; n--) {
      const run = /** @type {Keymap} */ (maps[n])[name];
      if (!run) continue;
      event.preventDefault();
      first = "";
      run();
      return;
    }
  }
}
document.addEventListener("keydown", pressed);

/** @param {Keymap} map @returns {() => void} to take them back */
export function bind(map) {
  maps.push(map);
  return () => void maps.splice(maps.indexOf(map), 1);
}

/** A page's keys, for as long as it stands; what they do may change with every drawing. @param {Keymap} map */
export function useKeys(map) {
  const latest = useRef(map);
  latest.current = map;
  const names = Object.keys(map).join("\n");
  useEffect(() => bind(Object.fromEntries(names.split("\n").map((name) => [name, () => latest.current[name]?.()]))), [names]);
}

/** What ? shows: keys, what they do. */
export const HELP = [
  ["Go to", [["g f", "Fleet"], ["g a", "Inbox"], ["g r", "Rollouts"], ["g l", "Learning"], ["g s", "System"]]],
  ["Fleet", [["1", "Hive"], ["2", "Table"], ["3", "Map"], ["/", "Filter"], ["n", "Next alarm"], ["← → ↑ ↓", "Move in the hive"], ["Enter", "Open the device"]]],
  ["Alarms", [["j", "Next"], ["k", "Previous"], ["c", "Confirm"], ["x", "Reject"], ["a", "Acknowledge"], ["u", "Undo"], ["w", "Why"], ["e", "Show an incident's alarms"], ["n", "Next alarm"]]],
  ["Everywhere", [["t", "Dark or light"], ["Esc", "Clear, close"], ["?", "This help"]]],
];
