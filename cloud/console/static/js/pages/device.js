/** Device: how is this one? */

import { alarmPath, devicePath, get, rows as rowsOf, url } from "../api.js";
import { ScoreChart } from "../chart/scores.js";
import { ago, bytes, count, percent, short, stamp, times } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { useKeys } from "../keys.js";
import { Bars, Empty, Facts, Key, Panel, Problem, useAsk, Waiting } from "../parts/bits.js";
import { Controls } from "../parts/device-controls.js";
import { LABELS, Shape } from "../parts/shape.js";
import { go, toWhy } from "../router.js";
import { beat, now_s, rows } from "../state/fleet.js";
import { judged } from "../state/verdicts.js";

/** @typedef {import("../types").Device} Device */
/** @typedef {import("../types").Alarm} Alarm */
/** @typedef {import("../types").Scores} Scores */

/** @type {[string, number][]} */
const RANGES = [["2 h", 7200], ["24 h", 86400], ["7 d", 604800], ["30 d", 2592000]];

/** Grows when the live stream changed this device, at most every three seconds. @param {string} name */
function useMoved(name) {
  void beat.value;
  const n = rows.row.get(name);
  const mark = n === undefined ? "" : `${rows.seen[n]} ${rows.status[n]} ${rows.release[n]}`;
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const timer = setTimeout(() => setTurn((before) => before + 1), 3000);
    return () => clearTimeout(timer);
    // A device heard every second would put the timer off for ever, so only what was seen at the last turn counts.
  }, [turn, mark !== ""]);
  const [shown, setShown] = useState(mark);
  useEffect(() => setShown(mark), [turn]);
  return shown;
}

/** @param {{ device: string }} props */
export function DevicePage({ device }) {
  const moved = useMoved(device);
  const [range, setRange] = useState(7200);
  const { value, error, again, set } = useAsk(() => /** @type {Promise<Device>} */ (get(devicePath(device))), [device, moved, judged.value]);
  const scores = useAsk(async () => {
    const to_s = now_s.peek();
    return /** @type {Promise<Scores>} */ (get(url(`${devicePath(device)}/scores`, { from_s: to_s - range, to_s, points: 600 })));
  }, [device, moved, range]);
  const alarms = useAsk(async () => rowsOf(/** @type {import("../types").Page<Alarm>} */ (await get(url("/api/alarms", { device, limit: 50 })))), [device, moved, judged.value]);
  const last = value?.last_alarm ?? null;
  useKeys({ w: () => last && go(toWhy(last)), Escape: () => go("/") });
  if (!value) return error ? html`<h1>${device}</h1><${Problem} error=${error} />` : html`<h1 class="loading">${device}</h1><${Waiting} lines=${9} />`;
  const ratio = value.period && value.period.threshold > 0 ? value.period.max / value.period.threshold : null;
  return html`
    <div class="page-head"><div>
      <p class="crumbs"><a href="/">Fleet</a> / <a href=${url("/", { group: value.group })}>${value.group}</a></p>
      <h1><${Shape} status=${value.status} label /> ${device} <small>${LABELS[value.status]?.toLowerCase()}${ratio === null ? "" : `, ${times(ratio)} threshold`}${value.state === "retired" ? ", retired" : ""}</small></h1>
      <p class="muted">${value.online === false ? "offline, " : value.online ? "online, " : ""}heard ${ago(value.last_seen_s, now_s.value)}${labels(value)}</p>
    </div></div>
    ${error ? html`<${Problem} error=${error} />` : null}
    <${Facts} facts=${figures(value)} />
    <div class="split device">
      <div class="stack">
        <${Panel} title="Score against threshold" aside=${html`<div class="tabs" role="group" aria-label="How far back">${RANGES.map(([name, s]) => html`<button type="button" key=${name} aria-pressed=${range === s} onClick=${() => setRange(s)}>${name}</button>`)}</div>`}>
          ${scores.error ? html`<${Problem} error=${scores.error} />` : scores.value ? html`<${ScoreChart} scores=${scores.value} />` : html`<div class="plot-place"></div>`}
        <//>
        <${AlarmList} list=${alarms.value} error=${alarms.error} />
      </div>
      <div class="stack">
        ${last ? html`<${LastAlarm} alarm=${last} />` : null}
        <${Controls} device=${value} changed=${(/** @type {Device | null} */ now) => (now ? set(now) : again())} />
        <${Details} device=${value} />
      </div>
    </div>`;
}

/** @param {Device} value */
const labels = (value) => Object.entries(value.labels).map(([name, text]) => `, ${name} ${text}`).join("");

/** @param {Device} value @returns {[string, unknown][]} */
function figures(value) {
  const { reported, health, period } = value;
  return [
    ["Model", reported?.release ? `release ${reported.release}` : "none"],
    ["Runtime", reported?.runtime || "–"],
    ["Battery", health?.battery_v === null || health?.battery_v === undefined ? "–" : `${health.battery_v.toFixed(1)} V`],
    ["Outbox", health?.outbox_rows === undefined ? "–" : `${count(health.outbox_rows)} waiting`],
    ["Drift", period?.drift_psi === null || period?.drift_psi === undefined ? "–" : `${period.drift_psi.toFixed(2)} PSI`],
    ["Uplink", value.uplink_bytes_per_min === null ? "–" : `${bytes(value.uplink_bytes_per_min)}/min`],
  ];
}

/** @param {{ alarm: Alarm }} props */
function LastAlarm({ alarm }) {
  const { value, error } = useAsk(() => /** @type {Promise<import("../types").AlarmWhole>} */ (get(alarmPath(alarm))), [alarm.alarm_id, judged.value]);
  return html`<${Panel} title="What drove the last alarm">
    ${value ? html`<${Bars} shares=${value.attribution} most=${7} />` : error ? html`<${Problem} error=${error} />` : html`<${Waiting} lines=${5} />`}
    <div class="buttons"><a class="button" href=${toWhy(alarm)}>Why this alarm <${Key}>w<//></a></div>
  <//>`;
}

/** @param {{ list: Alarm[] | null, error: unknown }} props */
function AlarmList({ list, error }) {
  return html`<${Panel} title="Alarms">
    ${error ? html`<${Problem} error=${error} />` : list === null ? html`<${Waiting} lines=${3} />` : null}
    ${list?.length === 0 ? html`<${Empty}>It never raised an alarm.<//>` : null}
    ${list?.length
      ? html`<div class="scroll-x" tabindex="0" role="region" aria-label="Alarms of this device"><table><thead><tr><th scope="col">Began</th><th scope="col">Channel</th><th scope="col" class="number">Score</th><th scope="col" class="number">Confidence</th><th scope="col">State</th><th scope="col">Verdict</th></tr></thead>
        <tbody>${list.map((one) => html`<tr key=${one.alarm_id}>
          <td><a href=${toWhy(one)}>${stamp(one.begin_s ?? one.received_s)}</a></td><td>${one.top_channel}${one.kind === "sensor" ? " (sensor)" : ""}</td><td class="number">${times(one.ratio)}</td>
          <td class="number">${percent(one.confidence)}</td><td>${one.state === "begin" ? html`<${Shape} status="alarm" /> open` : "ended"}</td><td>${one.verdict || (one.acknowledged_s ? "acknowledged" : "–")}</td></tr>`)}</tbody></table></div>`
      : null}
  <//>`;
}

/** @param {{ device: Device }} props */
function Details({ device }) {
  const { reported, health } = device;
  const dropped = (health?.dropped ?? []).reduce((sum, gap) => sum + gap.last - gap.first + 1, 0);
  /** @type {[string, unknown][]} */
  const facts = [
    ["Wanted release", device.desired ? `${device.desired} (revision ${device.desired_revision})` : "none"],
    ["Slot", reported?.slot ? `${reported.slot}, ${reported.state ?? "idle"}` : "–"],
    ["Digest", reported?.digest ? html`<code title=${reported.digest}>${short(reported.digest)}</code>` : "–"],
    ["Windows scored", `${count(device.windows)}, ${count(device.alarmed_windows)} alarmed`],
    ["Memory", bytes(health?.memory_bytes)],
    ["Temperature", health?.temperature_c === null || health?.temperature_c === undefined ? "–" : `${health.temperature_c.toFixed(0)} °C`],
    ["Given up by its outbox", dropped ? html`<b class="bad">${count(dropped)} events</b>` : "nothing"],
    ["Position", device.position ? `${device.position.lat_deg.toFixed(4)}, ${device.position.lon_deg.toFixed(4)}` : "not told"],
    ["First heard", stamp(device.first_seen_s)],
  ];
  if (reported?.reason) facts.splice(2, 0, ["Refused", html`<b class="bad">${reported.reason}</b>`]);
  return html`<${Panel} title="Details"><${Facts} facts=${facts} /><//>`;
}
