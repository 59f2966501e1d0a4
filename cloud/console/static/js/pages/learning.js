/** Learning: is the fleet improving? */

import { get, post, rows as rowsOf } from "../api.js";
import { RoundChart } from "../chart/rounds.js";
import { ago, bytes, count, many, span } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { Empty, Facts, Panel, Problem, useAsk, Waiting } from "../parts/bits.js";
import { Confirm } from "../parts/dialog.js";
import { toast } from "../parts/toast.js";
import { may } from "../session.js";
import { learningNews, now_s } from "../state/fleet.js";

/** @typedef {import("../types").Run} Run */
/** @typedef {import("../types").RunWhole} RunWhole */

/** @param {{ run?: string | undefined }} props */
export function Learning({ run }) {
  const news = learningNews.value;
  const moved = news ? `${news.run} ${news.kind} ${news.round}` : "";
  const [turn, setTurn] = useState(0);
  const { value, error } = useAsk(async () => rowsOf(/** @type {import("../types").Page<Run>} */ (await get("/api/runs"))), [moved, turn]);
  const [asking, setAsking] = useState(false);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && setTurn((n) => n + 1), 15_000);
    return () => clearInterval(timer);
  }, []);
  const shown = value?.find((one) => one.run === run) ?? value?.[0];
  const running = value?.find((one) => one.state === "running");
  const start = async () => {
    await post("/api/runs");
    toast("Training was asked to start");
    setTurn((n) => n + 1);
  };
  return html`
    <div class="page-head"><div><h1>${value === null ? "Learning" : sentence(value)}</h1>
      <p class="muted">Devices learn on their own windows, which never leave them; a round puts together what they learned.</p></div>
      ${may("admin") ? html`<div class="buttons"><button type="button" class="primary" disabled=${Boolean(running)} onClick=${() => setAsking(true)}>${running ? "A run is under way" : "Start training"}</button></div>` : null}</div>
    ${error ? html`<${Problem} error=${error} />` : null}
    <div class="split learning">
      ${shown ? html`<${RunView} key=${shown.run} run=${shown} moved=${moved} />` : html`<section class="panel">${value === null && !error ? html`<${Waiting} lines=${6} />` : html`<${Empty}>No run yet.<//>`}</section>`}
      <${Panel} title="Runs"><ul class="runs">${(value ?? []).map((one) => html`<li key=${one.run}><a href=${`/learning/${encodeURIComponent(one.run)}`} aria-current=${one.run === shown?.run ? "true" : undefined}>
        <span class=${`run-state ${one.state}`}>${one.state}</span><span class="need-what"><b>${one.family}</b><span>${one.engine}, ${many(one.clients, "device")}</span></span><span class="need-figure"><b>${one.rounds}/${one.wanted}</b><span>${ago(one.started_s, now_s.value)}</span></span></a></li>`)}</ul><//>
    </div>
    ${asking ? html`<${Confirm} title="Start training" text="A run starts as the configuration says: devices that are charged and idle take part, and a release is published only when every gate agrees." action="Start" run=${start} close=${() => setAsking(false)} />` : null}`;
}

/** @param {Run[]} runs */
function sentence(runs) {
  const [first] = runs;
  if (!first) return "Nothing has been learned yet";
  if (first.state === "running") return `Round ${first.rounds} of ${first.wanted} with ${many(first.clients, "device")}`;
  return first.state === "released" ? "The last run made a release" : `The last run failed${first.detail ? `: ${first.detail}` : ""}`;
}

/** @param {{ run: Run, moved: string }} props */
function RunView({ run, moved }) {
  const { value, error } = useAsk(() => /** @type {Promise<RunWhole>} */ (get(`/api/runs/${encodeURIComponent(run.run)}`)), [run.run, run.rounds, run.state, moved]);
  if (!value) return html`<section class="panel">${error ? html`<${Problem} error=${error} />` : html`<${Waiting} lines=${8} />`}</section>`;
  const { lines } = value;
  const up = lines.reduce((sum, line) => sum + line.bytes_up, 0);
  return html`<div class="stack">
    <${Panel} title=${`Run ${value.run}`} aside=${html`<span class=${`run-state ${value.state}`}>${value.state}</span>`}>
      <div class="figures"><${Facts} facts=${[["Family", value.family], ["Engine", value.engine], ["Rounds", `${value.rounds} of ${value.wanted}`], ["Devices", count(value.clients)], ["From devices", bytes(up)], ["Took", value.ended_s ? span(value.ended_s - value.started_s) : `${span(now_s.value - value.started_s)} so far`]]} /></div>
      ${value.detail ? html`<p class=${value.state === "failed" ? "problem" : "muted"}>${value.detail}</p>` : null}
      ${lines.length ? html`<div class="charts">
        ${lines.some((line) => line.loss !== null) ? html`<${RoundChart} lines=${lines} title="Loss" pick=${(/** @type {import("../types").Round} */ line) => line.loss} format=${(/** @type {number} */ v) => v.toPrecision(3)} colour="accent" />` : null}
        <${RoundChart} lines=${lines} title="Devices" pick=${(/** @type {import("../types").Round} */ line) => line.clients} format=${(/** @type {number} */ v) => count(Math.round(v))} colour="updating" fromZero />
      </div>` : null}
    <//>
    <${Panel} title="Rounds">${lines.length ? html`<div class="scroll-x" tabindex="0" role="region" aria-label="Rounds"><table><thead><tr>${["Round", "Devices", "Refused", "Missing", "Windows", "Up", "Down", "Seconds", "Loss"].map((one) => html`<th key=${one} scope="col" class="number">${one}</th>`)}</tr></thead>
      <tbody>${[...lines].reverse().map((line) => html`<tr key=${line.round}>${[count(line.round), count(line.clients), count(line.refused), count(line.missing), count(line.windows), bytes(line.bytes_up), bytes(line.bytes_down), line.seconds.toFixed(1), line.loss === null ? "–" : line.loss.toPrecision(4)].map((cell, n) => html`<td key=${n} class="number">${cell}</td>`)}</tr>`)}</tbody></table></div>` : html`<${Empty}>The first round is under way.<//>`}<//>
    ${Object.keys(value.gates).length ? html`<${Panel} title="Gates"><${Facts} facts=${Object.entries(value.gates).map(([name, figure]) => [name, typeof figure === "number" ? figure.toPrecision(4) : String(figure)])} /><//>` : null}
    ${value.devices.length ? html`<${Panel} title="Devices of the last round"><ul class="plain-list columns">${value.devices.map((one) => html`<li key=${one.device}><a href=${`/devices/${encodeURIComponent(one.device)}`}>${one.device}</a> ${one.state}${one.detail ? html` <span class="muted">${one.detail}</span>` : null}</li>`)}</ul><//>` : null}
  </div>`;
}
