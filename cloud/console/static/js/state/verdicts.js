/** Verdicts: given at once, undone for as long as the toast stands, by the key u as long as the page lives, and on an alarm's own page at any time. */

import { alarmPath, post, words } from "../api.js";
import { signal } from "../html.js";
import { toast } from "../parts/toast.js";

/** @typedef {import("../types").AlarmKey} AlarmKey */
/** @typedef {import("../types").Verdict} Verdict */

/** Grows when somebody here has judged: lists read themselves anew. */
export const judged = signal(0);

/** @type {{ keys: AlarmKey[], verdict: Verdict }[]} */
const done = [];
const SAID = { confirmed: "Confirmed", rejected: "Rejected", acknowledged: "Acknowledged", undone: "Taken back" };

/** @param {AlarmKey[]} keys @param {Verdict} verdict @param {string} note */
async function send(keys, verdict, note) {
  const [only] = keys;
  if (keys.length === 1 && only) await post(`${alarmPath(only)}/verdict`, { verdict, note });
  else {
    // The API takes 500 at once.
    for (let n = 0; n < keys.length; n += 500) await post("/api/verdicts", { alarms: keys.slice(n, n + 500), verdict, note });
  }
}

/**
 * @param {AlarmKey[]} keys
 * @param {Exclude<Verdict, "undone">} verdict
 * @param {string} [note]
 * @returns {Promise<boolean>}
 */
export async function judge(keys, verdict, note = "") {
  const [first] = keys;
  if (!first) return false;
  const what = keys.length === 1 ? first.device : `${keys.length} alarms`;
  try {
    await send(keys, verdict, note);
  } catch (error) {
    toast(`${what} was not judged: ${words(error)}`, { bad: true });
    return false;
  }
  done.push({ keys, verdict });
  judged.value += 1;
  toast(`${SAID[verdict]} ${what}`, { action: { label: "Undo", key: "u", run: undo } });
  return true;
}

/** Take back what was said last on this page. */
export async function undo() {
  const last = done.pop();
  if (!last) toast("There is nothing to undo");
  else if (!(await takeBack(last.keys))) done.push(last);
}

/** Take back what was said last of these alarms, whoever said it. @param {AlarmKey[]} keys @returns {Promise<boolean>} */
export async function takeBack(keys) {
  const what = keys.length === 1 ? keys[0]?.device : `${keys.length} alarms`;
  try {
    await send(keys, "undone", "");
  } catch (error) {
    toast(`${what} could not be undone: ${words(error)}`, { bad: true });
    return false;
  }
  toast(`Took back: ${what}`);
  judged.value += 1;
  return true;
}
