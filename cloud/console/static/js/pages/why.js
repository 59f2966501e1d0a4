/** Why: can I believe this alarm? */

import { alarmPath, get } from "../api.js";
import { ago, clock, count, delay, percent, short, span, stamp, times } from "../format.js";
import { html, useRef, useState } from "../html.js";
import { useKeys } from "../keys.js";
import { Bars, Facts, Key, Note, Panel, Problem, useAsk, Waiting } from "../parts/bits.js";
import { go, toDevice, toWhy } from "../router.js";
import { may } from "../session.js";
import { newAlarms, now_s } from "../state/fleet.js";
import { judge, judged, takeBack } from "../state/verdicts.js";

/** @typedef {import("../types").AlarmWhole} AlarmWhole */
/** @typedef {import("../types").Step} Step */

/** What a step's sign says, for those who do not see it. @type {Record<Step["state"], string>} */
const STATES = { checked: "checked by the cloud", told: "as the device or a stage told it", waiting: "waiting", failed: "does not agree" };

/** "nothing was compared" -> "Nothing was compared." @param {string} text */
const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}`.replace(/\.?$/, ".");

/** @param {{ device: string, alarm_id: string }} props */
export function Why({ device, alarm_id }) {
  const key = { device, alarm_id };
  const [note, setNote] = useState("");
  const said = useRef(false);
  const mine = newAlarms.value.find((one) => one.device === device && one.alarm_id === alarm_id);
  const { value, error } = useAsk(() => /** @type {Promise<AlarmWhole>} */ (get(alarmPath(key))), [device, alarm_id, judged.value, mine?.state, mine?.seen_by]);
  /** @param {"confirmed" | "rejected" | "acknowledged"} verdict */
  const say = async (verdict) => {
    if (!value || !may("operator")) return; // nobody judges what is not shown yet
    said.current = true; // `value` is read anew a moment later
    if (await judge([key], verdict, note)) setNote("");
  };
  const undo = () => {
    if (!may("operator") || !(said.current || value?.verdict || value?.acknowledged_s)) return;
    said.current = false;
    void takeBack([key]);
  };
  const next = () => {
    const others = newAlarms.peek().filter((one) => one.device !== device || one.alarm_id !== alarm_id);
    const at = newAlarms.peek().findIndex((one) => one.device === device && one.alarm_id === alarm_id);
    const one = others[Math.max(0, at)] ?? others[0];
    go(one ? toWhy(one) : "/inbox");
  };
  useKeys({ c: () => void say("confirmed"), x: () => void say("rejected"), a: () => void say("acknowledged"), u: undo, n: next, j: next, Escape: () => go("/inbox") });
  if (!value) return error ? html`<h1>Why</h1><${Problem} error=${error} />` : html`<h1 class="loading">Why: ${device}</h1><${Waiting} lines=${9} />`;
  const { why } = value;
  return html`
    <div class="page-head"><div>
      <p class="crumbs"><a href="/inbox">Inbox</a> / <a href=${toDevice(device)}>${device}</a></p>
      <h1>Why: ${why.cause}</h1>
      <p class="muted">${[why.peers, why.checks].filter(Boolean).map(sentence).join(" ")}</p>
    </div><${Verdicts} alarm=${value} say=${say} undo=${undo} next=${next} note=${note} setNote=${setNote} /></div>
    ${error ? html`<${Problem} error=${error} />` : null}
    <div class="split why">
      <${Chain} value=${value} />
      <div class="stack">
        <${Panel} title="Share of the score per channel"><${Bars} shares=${value.attribution} most=${10} /><//>
        <${Around} value=${value} />
        <${Past} value=${value} />
      </div>
    </div>`;
}

/** @param {{ alarm: AlarmWhole, say: (verdict: "confirmed" | "rejected" | "acknowledged") => void, undo: () => void, next: () => void, note: string, setNote: (note: string) => void }} props */
function Verdicts({ alarm, say, undo, next, note, setNote }) {
  return html`<div class="buttons verdicts">
    ${alarm.verdict ? html`<span class=${`tag verdict ${alarm.verdict}`}>${alarm.verdict} by ${alarm.verdict_by || "somebody"}</span>` : null}
    ${may("operator")
      ? html`<${Note} note=${note} setNote=${setNote} />
          <button type="button" class="primary" aria-pressed=${alarm.verdict === "confirmed"} onClick=${() => say("confirmed")}>Confirm <${Key}>c<//></button>
          <button type="button" aria-pressed=${alarm.verdict === "rejected"} onClick=${() => say("rejected")}>Reject <${Key}>x<//></button>
          ${alarm.acknowledged_s || alarm.verdict ? null : html`<button type="button" onClick=${() => say("acknowledged")}>Acknowledge <${Key}>a<//></button>`}
          ${alarm.verdict || alarm.acknowledged_s ? html`<button type="button" onClick=${undo}>Undo <${Key}>u<//></button>` : null}`
      : html`<span class="muted">A viewer looks; an operator judges.</span>`}
    <button type="button" onClick=${next}>Next <${Key}>n<//></button>
  </div>`;
}

/** @param {{ value: AlarmWhole }} props */
function Chain({ value }) {
  const [copied, setCopied] = useState(false);
  const { steps, command } = value.why;
  const copy = () => navigator.clipboard?.writeText(command).then(() => setCopied(true), () => {});
  return html`<${Panel} title="From sensor to decision" aside=${html`<button type="button" class="plain command" title="The same in a terminal" onClick=${copy}><code>${command}</code> <span>${copied ? "copied" : "copy"}</span></button>`}>
    <ol class="chain">
      ${steps.map(
        (step, n) => html`<li key=${step.what} class=${`step ${step.state}`}>
          <span class="sign"><${Sign} state=${step.state} /></span>
          <div class="step-body"><p class="step-title">${step.title}</p><p class="step-text">${step.text}</p>
            ${step.detail ? html`<p class="step-detail">${step.detail}</p>` : null}
            ${step.digest ? html`<p class="step-detail"><code title=${step.digest}>${short(step.digest)}</code></p>` : null}</div>
          <span class="step-time">${step.at_s === null || step.state === "waiting" ? "" : n === 0 || step.delay_s === null ? clock(step.at_s) : delay(step.delay_s)}</span>
        </li>`,
      )}
    </ol>
    <p class="muted legend"><span class="step checked"><${Sign} state="checked" /> checked by the cloud</span> <span class="step told"><${Sign} state="told" /> as it was told</span></p>
  <//>`;
}

/** A tick only where the cloud itself has compared something. @param {{ state: Step["state"] }} props */
function Sign({ state }) {
  const paths = { checked: "M4 8.5 7 11l5-6", told: "M5 8h6", waiting: "M8 5v3.5l2.5 1.5", failed: "M5 5l6 6m0-6-6 6" };
  return html`<svg viewBox="0 0 16 16" width="20" height="20" role="img" aria-label=${STATES[state]} fill="none" stroke="currentColor" stroke-width="1.4" stroke-linecap="round" stroke-linejoin="round">
    <circle cx="8" cy="8" r="7" /><path d=${paths[state]} /></svg>`;
}

/** The fleet around the alarm, when it began. @param {{ value: AlarmWhole }} props */
function Around({ value }) {
  const one = value.context;
  if (!one) return html`<${Panel} title="Fleet when it began"><p class="empty">The enrich stage has not said anything yet.</p><//>`;
  /** @type {[string, unknown][]} */
  const facts = [
    ["Peers on the same channel", `${count(one.peers_same_channel ?? 0)} of ${count(one.peers ?? 0)}`],
    ["Peers in alarm", count(one.peers_alarming ?? 0)],
    ["Against the usual", one.lift ? `${one.lift.toFixed(1)}×` : "–"],
    ["Its alarms, 24 h and 7 d", `${count(one.alarms_24h ?? 0)}, ${count(one.alarms_7d ?? 0)}`],
    ["Its verdicts, 30 d", `${count(one.confirmed_30d ?? 0)} confirmed, ${count(one.rejected_30d ?? 0)} rejected`],
    ["Drift", one.drift_psi === undefined ? "–" : `${one.drift_psi.toFixed(2)} PSI`],
    ["Age of the release", one.release_age_s ? span(one.release_age_s) : "–"],
  ];
  if (one.model) facts.push([`Model ${one.model.name}`, one.model.value.toFixed(3)]);
  return html`<${Panel} title="Fleet when it began">${one.stale ? html`<p class="problem">The store could not be asked: only what the alarm says is known.</p>` : null}<${Facts} facts=${facts} /><//>`;
}

/** @param {{ value: AlarmWhole }} props */
function Past({ value }) {
  return html`<${Panel} title="The alarm">
    <${Facts} facts=${[
      ["Score, greatest", `${value.score.toPrecision(3)}, ${value.peak_score.toPrecision(3)}`],
      ["Threshold", `${value.threshold.toPrecision(3)} (${times(value.ratio)})`],
      ["Confidence", percent(value.confidence)],
      ["Began", `${stamp(value.begin_s)}, ${ago(value.begin_s, now_s.value)}`],
      ["Ended", value.end_s ? stamp(value.end_s) : "still open"],
      ["Windows", count(value.windows)],
      ["Release", `${value.release}, ${value.runtime}`],
    ]} />
    ${value.deliveries.length ? html`<h3>Told</h3><ul class="plain-list">${value.deliveries.map((one) => html`<li key=${one.target}><b>${one.target}</b> ${one.state}${one.tries > 1 ? ` after ${one.tries} tries` : ""}${one.error ? html` <span class="muted">${one.error}</span>` : null}</li>`)}</ul>` : null}
    ${value.verdicts.length ? html`<h3>Verdicts</h3><ul class="plain-list">${value.verdicts.map((one) => html`<li key=${`${one.time_s} ${one.verdict}`}><b>${one.verdict}</b> by ${one.by}, ${stamp(one.time_s)}${one.note ? html` <span class="muted">${one.note}</span>` : null}</li>`)}</ul>` : null}
  <//>`;
}
