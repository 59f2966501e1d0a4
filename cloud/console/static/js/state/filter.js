/** Which devices the fleet page speaks of: a status, a group, a few letters. Lives in the address, so it can be sent on. */

import { computed, signal } from "../html.js";
import { beat, order, rows } from "./fleet.js";
import { STATUSES } from "./rows.js";

/** @typedef {{ status: string, group: string, q: string }} Filter */

/** @type {import("../../vendor/signals.js").Signal<Filter>} */
export const filter = signal({ status: "", group: "", q: "" });
export const filtered = computed(() => Boolean(filter.value.status || filter.value.group || filter.value.q));

/** From the address. @param {string} search */
export function readFilter(search) {
  const query = new URLSearchParams(search);
  filter.value = { status: query.get("status") ?? "", group: query.get("group") ?? "", q: query.get("q") ?? "" };
}

/** @param {Partial<Filter>} change */
export function setFilter(change) {
  filter.value = { ...filter.peek(), ...change };
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(filter.peek())) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const text = query.toString();
  history.replaceState(history.state, "", text ? `${location.pathname}?${text}` : location.pathname);
}

/**
 * A test of a row; every row passes an empty filter.
 * @param {Filter} one
 * @returns {(n: number) => boolean}
 */
export function matcher({ status, group, q }) {
  const wanted = STATUSES.indexOf(/** @type {import("./rows.js").Status} */ (status));
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  return (n) => {
    if (wanted >= 0 && rows.status[n] !== wanted) return false;
    const groupName = rows.groups[/** @type {number} */ (rows.group[n])]?.name ?? "";
    if (group && groupName !== group) return false;
    if (!words.length) return true;
    const text = `${rows.names[n]} ${groupName}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
}

/** How many rows pass. */
export const matching = computed(() => {
  void [beat.value, order.value];
  if (!filtered.value) return rows.size;
  const passes = matcher(filter.value);
  let found = 0;
  for (let n = 0; n < rows.size; n++) if (passes(n)) found += 1;
  return found;
});
