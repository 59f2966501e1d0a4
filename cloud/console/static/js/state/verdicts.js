/** Verdicts: given at once, undone for as long as the toast stands (and by the key u as long as the page lives). */

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

export async function undo() {
  const last = done.pop();
  if (!last) {
    toast("There is nothing to undo");
    return;
  }
  const what = last.keys.length === 1 ? last.keys[0]?.device : `${last.keys.length} alarms`;
  try {
    await send(last.keys, "undone", "");
    toast(`Took back: ${what}`);
  } catch (error) {
    done.push(last);
    toast(`${what} could not be undone: ${words(error)}`, { bad: true });
  }
  judged.value += 1;
}
