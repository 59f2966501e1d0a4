/** System: are we losing data? */

import { get, rows as rowsOf, url } from "../api.js";
import { ago, bytes, count, span, stamp } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { Empty, Facts, Panel, Problem, Said, useAsk, Waiting } from "../parts/bits.js";
import { me } from "../session.js";
import { linkage, now_s } from "../state/fleet.js";
import { toWhy } from "../router.js";

/** @typedef {import("../types").System} System */

/** What `covey cloud status --json` counts, in words. */
const words = (/** @type {string} */ name) => name.replaceAll("_", " ");

export function SystemPage() {
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && setTurn((n) => n + 1), 5000);
    return () => clearInterval(timer);
  }, []);
  const { value, error } = useAsk(() => /** @type {Promise<System>} */ (get("/api/system")), [turn]);
  const notices = me.value?.notices ?? [];
  if (!value) return error ? html`<h1>System</h1><${Problem} error=${error} />` : html`<h1 class="loading">System</h1><${Waiting} lines=${9} />`;
  const counts = Object.entries(value.counts).filter(([, figure]) => typeof figure === "number" || typeof figure === "string");
  return html`
    <div class="page-head"><div><h1 class=${value.losing ? "losing" : ""}>${value.losing ? html`<span class="bad">Data is being lost</span>` : value.late ? "Data is late" : "No data is lost"}</h1><p class="muted" role="status">${value.text}</p></div></div>
    ${error ? html`<${Problem} error=${error} />` : null}
    <${Facts} facts=${[["Store", `${value.store.kind}${value.store.size_bytes === null ? "" : `, ${bytes(value.store.size_bytes)}`}`], ["Deliveries", `${count(value.deliveries.delivered)} delivered`], ["Waiting", count(value.deliveries.waiting)], ["Failed", value.deliveries.failed ? html`<b class="bad">${count(value.deliveries.failed)}</b>` : "0"], ["Dead letters", count(Object.values(value.dead_letters).reduce((a, b) => a + b, 0))], ["This page", linkage.value.state]]} />
    <div class="split">
      <div class="stack">
        <${Stages} stages=${value.stages} />
        <${DeadLetters} reasons=${value.dead_letters} turn=${turn} />
        <${Deliveries} turn=${turn} />
      </div>
      <div class="stack">
        ${notices.length || Object.keys(value.embedded).length ? html`<${Panel} title="Notices"><ul class="plain-list">${notices.map((one) => html`<li key=${one}><${Said} text=${one} /></li>`)}${Object.entries(value.embedded).map(([name, one]) => html`<li key=${name}><b>${name}</b> is embedded: ${String(one)}</li>`)}</ul><//>` : null}
        <${Panel} title="Counted"><${Facts} facts=${counts.map(([name, figure]) => [words(name), typeof figure === "number" ? count(figure) : String(figure)])} /><//>
      </div>
    </div>`;
}

/** @param {{ stages: import("../types").Stage[] }} props */
function Stages({ stages }) {
  return html`<${Panel} title="Stages">${stages.length
    ? html`<div class="scroll-x" tabindex="0" role="region" aria-label="Stages"><table><thead><tr><th scope="col">Stage</th><th scope="col">Where</th><th scope="col" class="number">Lag</th><th scope="col" class="number">A second</th><th scope="col" class="number">Partitions</th><th scope="col" class="number">Consumers wanted</th><th scope="col">Heard</th></tr></thead>
      <tbody>${stages.map((one) => html`<tr key=${`${one.stage} ${one.instance}`} class=${one.stale ? "stale" : ""}><td><b>${one.stage}</b>${one.detail ? html`<br /><span class="muted">${one.detail}</span>` : null}</td><td class="muted">${one.instance}</td>
        <td class="number">${count(one.lag)}${one.rate > 0 && one.lag > one.rate ? html`<br /><span class="muted">${span(one.lag / one.rate)}</span>` : null}</td><td class="number">${one.rate.toFixed(1)}</td><td class="number">${one.partitions}</td>
        <td class="number">${one.wanted > 1 ? html`<b>${one.wanted}</b>` : one.wanted}</td><td>${one.stale ? html`<b class="bad">not since ${stamp(one.seen_s)}</b>` : ago(one.seen_s, now_s.value)}</td></tr>`)}</tbody></table></div>`
    : html`<${Empty}>No stage has told its state: is <code>covey cloud run</code> up?<//>`}<//>`;
}

/** @param {{ reasons: Record<string, number>, turn: number }} props */
function DeadLetters({ reasons, turn }) {
  const [reason, setReason] = useState("");
  const { value, error } = useAsk(async () => rowsOf(/** @type {import("../types").Page<import("../types").DeadLetter>} */ (await get(url("/api/deadletters", { reason, limit: 20 })))), [reason, turn]);
  const names = Object.keys(reasons);
  return html`<${Panel} title="Dead letters" aside=${names.length ? html`<label class="inline"><span>Reason</span><select value=${reason} onChange=${(/** @type {any} */ event) => setReason(event.target.value)}><option value="">any</option>${names.map((one) => html`<option key=${one} value=${one}>${one} (${count(reasons[one])})</option>`)}</select></label>` : null}>
    ${error ? html`<${Problem} error=${error} />` : null}
    ${value?.length ? html`<div class="scroll-x" tabindex="0" role="region" aria-label="Newest dead letters"><table><thead><tr><th scope="col">When</th><th scope="col">Reason</th><th scope="col">Detail</th><th scope="col">Topic</th><th scope="col" class="number">Size</th></tr></thead>
      <tbody>${value.map((one, n) => html`<tr key=${n}><td>${stamp(one.received_s)}</td><td>${one.reason}</td><td class="wrap">${one.detail}</td><td class="muted">${one.topic}</td><td class="number">${bytes(one.size_bytes)}</td></tr>`)}</tbody></table></div>` : value ? html`<${Empty}>Every message could be read.<//>` : null}
  <//>`;
}

/** @param {{ turn: number }} props */
function Deliveries({ turn }) {
  const [state, setState] = useState("");
  const { value, error } = useAsk(async () => rowsOf(/** @type {import("../types").Page<import("../types").Delivery>} */ (await get(url("/api/deliveries", { state, limit: 20 })))), [state, turn]);
  return html`<${Panel} title="Deliveries" aside=${html`<label class="inline"><span>State</span><select value=${state} onChange=${(/** @type {any} */ event) => setState(event.target.value)}><option value="">any</option>${["waiting", "delivered", "failed"].map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select></label>`}>
    ${error ? html`<${Problem} error=${error} />` : null}
    ${value?.length ? html`<div class="scroll-x" tabindex="0" role="region" aria-label="Newest deliveries"><table><thead><tr><th scope="col">Alarm</th><th scope="col">To</th><th scope="col">State</th><th scope="col" class="number">Tries</th><th scope="col">Error</th></tr></thead>
      <tbody>${value.map((one, n) => html`<tr key=${n}><td><a href=${toWhy(one)}>${one.device}</a></td><td>${one.target}</td><td>${one.state === "failed" ? html`<b class="bad">failed</b>` : one.state}</td><td class="number">${one.tries}</td><td class="wrap muted">${one.error}</td></tr>`)}</tbody></table></div>` : value ? html`<${Empty}>Nothing was sent. Rules name webhooks and mailboxes.<//>` : null}
  <//>`;
}
