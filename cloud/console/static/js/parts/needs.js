/** What needs somebody: incidents first, then single alarms, newest first. One key judges the chosen one. */

import { ago, times } from "../format.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { useKeys } from "../keys.js";
import { go, toWhy } from "../router.js";
import { may } from "../session.js";
import { counts, incidents, newAlarms, now_s } from "../state/fleet.js";
import { judge, undo } from "../state/verdicts.js";
import { Key, Panel } from "./bits.js";
import { Shape } from "./shape.js";

/** @typedef {{ id: string, keys: import("../types").AlarmKey[], title: string, group: string, text: string, figure: string, at_s: number, open: boolean }} Need */

/**
 * One line an incident, one line an alarm that belongs to none.
 * @param {import("../types").Incident[]} found
 * @param {import("../types").NewAlarm[]} alarms
 * @returns {Need[]}
 */
export function needs(found, alarms) {
  const taken = new Set(found.flatMap((one) => one.alarms.map((pair) => pair.join("\n"))));
  return [
    ...found.map((one) => ({
      id: one.id,
      keys: one.alarms.map(([device, alarm_id]) => ({ device, alarm_id })),
      title: `${one.devices} devices alike`,
      group: one.group,
      text: one.channel,
      figure: one.lift === null ? "new" : `${one.lift.toFixed(1)}× usual`,
      at_s: one.last_s,
      open: true,
    })),
    ...alarms
      .filter((one) => !taken.has(`${one.device}\n${one.alarm_id}`))
      .map((one) => ({
        id: `${one.device} ${one.alarm_id}`,
        keys: [{ device: one.device, alarm_id: one.alarm_id }],
        title: one.device,
        group: one.group,
        text: one.seen_by ? `${one.channel}, ${one.seen_by} has it` : one.channel,
        figure: times(one.ratio),
        at_s: one.begin_s,
        open: one.state === "begin",
      })),
  ];
}

export function Needs() {
  const list = needs(incidents.value, newAlarms.value);
  const [chosen, setChosen] = useState("");
  const box = useRef(/** @type {HTMLUListElement | null} */ (null));
  const at = list.findIndex((one) => one.id === chosen);
  /** @param {number} n */
  const move = (n) => setChosen(list[Math.max(0, Math.min(list.length - 1, n))]?.id ?? "");
  const one = list[at];
  useEffect(() => box.current?.querySelector("[data-chosen]")?.scrollIntoView({ block: "nearest" }), [chosen]);
  /** @param {"confirmed" | "rejected" | "acknowledged"} verdict */
  const say = (verdict) => {
    if (!one || !may("operator")) return;
    void judge(one.keys, verdict);
    move(at + 1);
  };
  useKeys({
    j: () => move(at + 1),
    k: () => move(at < 0 ? 0 : at - 1),
    c: () => say("confirmed"),
    x: () => say("rejected"),
    a: () => say("acknowledged"),
    w: () => one?.keys[0] && go(toWhy(one.keys[0])),
    n: () => list[0]?.keys[0] && go(toWhy(list[0].keys[0])),
    u: () => void undo(),
  });
  const more = counts.value.inbox - list.reduce((sum, need) => sum + need.keys.length, 0);
  return html`<${Panel} title="Needs you" class="needs" aside=${html`<a href="/inbox">Inbox <${Key}>g<//> <${Key}>a<//></a>`}>
    ${list.length
      ? html`<ul class="needs-list" ref=${box}>
          ${list.map(
            (need) => html`<li key=${need.id} data-chosen=${need.id === chosen ? "" : undefined} class=${need.keys.length > 1 ? "incident" : ""}>
              <a href=${need.keys[0] ? toWhy(need.keys[0]) : "/inbox"} aria-label=${`Why: ${need.title}, ${need.group}, ${need.text}, ${need.figure}`}>
                <${Shape} status=${need.open ? "alarm" : "watch"} />
                <span class="need-what"><b>${need.title}</b><span>${need.group}, ${need.text}</span></span>
                <span class="need-figure"><b>${need.figure}</b><span>${ago(need.at_s, now_s.value)}</span></span>
              </a>
            </li>`,
          )}
          ${more > 0 ? html`<li class="more"><a href="/inbox">${more} more in the inbox</a></li>` : null}
        </ul>`
      : html`<p class="empty">Nothing waits for a verdict.</p>`}
  <//>`;
}
