/** What the console knows of the fleet: a snapshot, then changes. Views read the signals; the hive reads `rows`. */

import { get } from "../api.js";
import { batch, computed, signal } from "../html.js";
import { follow, listen } from "../live/live.js";
import { Rows } from "./rows.js";

/** @typedef {import("../types").Snapshot} Snapshot */
/** @typedef {import("../types").LiveMessage} LiveMessage */

export const rows = new Rows();

/** Grows by one with every order of the rows. */
export const order = signal(0);
/** Grows by one with every frame that changed rows. */
export const beat = signal(0);
export const loaded = signal(false);
/** @type {import("../../vendor/signals.js").Signal<import("../types").Headline>} */
export const headline = signal({ text: "", detail: "", group: null });
/** @type {import("../../vendor/signals.js").Signal<import("../types").Counts>} */
export const counts = signal({ alarm: 0, watch: 0, silent: 0, updating: 0, ok: 0, inbox: 0, seen: 0 });
/** @type {import("../../vendor/signals.js").Signal<import("../types").Group[]>} */
export const groups = signal([]);
/** @type {import("../../vendor/signals.js").Signal<import("../types").Incident[]>} */
export const incidents = signal([]);
/** @type {import("../../vendor/signals.js").Signal<import("../types").NewAlarm[]>} */
export const newAlarms = signal([]);
/** @type {import("../../vendor/signals.js").Signal<import("../types").LearningNews | null>} */
export const learningNews = signal(null);
/** @type {import("../../vendor/signals.js").Signal<{ state: import("../types").Linkage, since_s: number, heard_s: number }>} */
export const linkage = signal({ state: "connecting", since_s: Date.now() / 1000, heard_s: 0 });
/** The server's clock less this machine's. */
export const skew_s = signal(0);
/** Seconds since the epoch by the server's clock; ticks once a second. */
export const now_s = signal(Date.now() / 1000);

/** Names of devices that belong to an incident. */
export const inIncident = computed(() => new Set(incidents.value.flatMap((one) => one.alarms.map(([device]) => device))));

/** @type {Set<(changed: number[]) => void>} */
const drawers = new Set();

/** Be told which rows changed, each frame. @param {(changed: number[]) => void} draw @returns {() => void} to stop */
export function onRows(draw) {
  drawers.add(draw);
  return () => drawers.delete(draw);
}

setInterval(() => {
  if (!document.hidden) now_s.value = Date.now() / 1000 + skew_s.peek();
}, 1000);

/** @param {import("../types").Delta} news */
function takeSmall(news) {
  if (news.headline && news.headline.text + news.headline.detail !== headline.peek().text + headline.peek().detail) headline.value = news.headline;
  if (news.counts) counts.value = news.counts;
  if (news.groups) groups.value = news.groups;
  if (news.incidents) incidents.value = news.incidents;
  if (news.alarms) newAlarms.value = news.alarms;
  if (news.now_s) {
    skew_s.value = news.now_s - Date.now() / 1000;
  }
}

/** @param {Snapshot} snapshot */
function load(snapshot) {
  rows.load(snapshot.groups, snapshot.devices);
  takeSmall(snapshot);
  now_s.value = snapshot.now_s;
  loaded.value = true;
  order.value += 1;
  beat.value += 1;
}

/** One frame's messages, in one go. @param {LiveMessage[]} messages */
function apply(messages) {
  /** @type {Set<number>} */
  const changed = new Set();
  let reordered = false;
  batch(() => {
    for (const message of messages) {
      if (message.type === "state") linkage.value = message;
      else if (message.type === "learning") learningNews.value = message.data;
      else if (message.type === "snapshot") {
        load(message.data);
        reordered = true;
      } else {
        const touched = rows.take(message.data);
        reordered ||= touched === null;
        for (const n of touched ?? []) changed.add(n);
        takeSmall(message.data);
      }
    }
    if (reordered) order.value += 1;
    if (reordered || changed.size) beat.value += 1;
  });
  if (changed.size && !reordered) for (const draw of drawers) draw([...changed]);
}

/** Listen, take the snapshot, follow. @param {Promise<Snapshot>} [early] a request already under way */
export async function begin(early) {
  listen(apply);
  const snapshot = await (early ?? get("/api/fleet"));
  batch(() => load(snapshot));
  follow(snapshot.cursor);
}
