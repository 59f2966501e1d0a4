/** Rollouts: is it safe to widen? */

import { get, post, rows as rowsOf } from "../api.js";
import { bytes, count, many, short, stamp } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { Empty, Panel, Problem, useAsk, Waiting } from "../parts/bits.js";
import { Confirm } from "../parts/dialog.js";
import { toast } from "../parts/toast.js";
import { may } from "../session.js";
import { beat, groups, order, rows } from "../state/fleet.js";

/** @typedef {import("../types").Release} Release */
/** @typedef {import("../types").LearningStep} Step */

/** Of the devices on a release now: how many are in alarm. Live, by the fleet's rows. */
function byRelease() {
  /** @type {Map<string, { devices: number, alarm: number, watch: number }>} */
  const found = new Map();
  for (let n = 0; n < rows.size; n++) {
    const key = `${rows.groups[rows.group[n] ?? 0]?.name} ${rows.release[n]}`;
    const one = found.get(key) ?? { devices: 0, alarm: 0, watch: 0 };
    one.devices += 1;
    if (rows.status[n] === 0) one.alarm += 1;
    else if (rows.status[n] === 1) one.watch += 1;
    found.set(key, one);
  }
  return found;
}

/** Every ten seconds. */
function useTick() {
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && setTurn((n) => n + 1), 10_000);
    return () => clearInterval(timer);
  }, []);
  return turn;
}

export function Rollouts() {
  const turn = useTick();
  const { value, error, again } = useAsk(async () => rowsOf(/** @type {import("../types").Page<Release>} */ (await get("/api/releases"))), [turn]);
  const steps = useAsk(async () => rowsOf(/** @type {import("../types").Page<Step>} */ (await get("/api/learning?limit=60"))), [turn]);
  const [wanting, setWanting] = useState(/** @type {Release | null} */ (null));
  void [beat.value, order.value];
  const live = byRelease();
  /** @type {Map<string, Release[]>} */
  const byGroup = new Map();
  for (const one of value ?? []) byGroup.set(one.group, [...(byGroup.get(one.group) ?? []), one]);
  const waiting = (value ?? []).reduce((sum, one) => sum + one.waiting, 0);
  return html`
    <div class="page-head"><div><h1>${value === null ? "Rollouts" : waiting ? `${many(waiting, "device")} still to take a release` : "Every device runs what is wanted of it"}</h1>
      <p class="muted">A release is wanted of a group or of some devices first; each device checks it, tries it beside the old one and goes back by itself when it is worse.</p></div></div>
    ${error ? html`<${Problem} error=${error} />` : null}
    <div class="split">
      <div class="stack">
        ${value === null && !error ? html`<section class="panel"><${Waiting} lines=${6} /></section>` : null}
        ${value?.length === 0 ? html`<section class="panel"><${Empty}>No release was published yet. Training makes the first one: see Learning.<//></section>` : null}
        ${[...byGroup].map(([group, list]) => html`<${Group} key=${group} group=${group} list=${list} live=${live} want=${setWanting} />`)}
      </div>
      <${Panel} title="Steps"><ol class="steps-list" aria-label="Newest first">
        ${(steps.value ?? []).map((one, n) => html`<li key=${one.id ?? `${one.time_s} ${n}`}><b>${one.kind}</b> <span>${one.device || one.group}${one.release ? `, release ${one.release}` : ""}</span><span class="muted">${one.detail}</span><time class="muted">${stamp(one.time_s)}</time></li>`)}
      </ol>${steps.error ? html`<${Problem} error=${steps.error} />` : steps.value?.length === 0 ? html`<${Empty}>Nothing has happened yet.<//>` : null}<//>
    </div>
    ${wanting ? html`<${Want} release=${wanting} close=${() => setWanting(null)} done=${again} />` : null}`;
}

/** @param {{ group: string, list: Release[], live: Map<string, { devices: number, alarm: number, watch: number }>, want: (one: Release) => void }} props */
function Group({ group, list, live, want }) {
  const size = groups.value.find((one) => one.name === group)?.devices ?? 0;
  const sorted = [...list].sort((a, b) => b.number - a.number);
  return html`<${Panel} title=${group} aside=${html`<span class="muted">${many(size, "device")}</span>`}>
    <div class="scroll-x" tabindex="0" role="region" aria-label=${`Releases of ${group}`}><table class="releases"><thead><tr><th scope="col">Release</th><th scope="col">Wanted and running</th><th scope="col" class="number">In alarm</th><th scope="col" class="made">Made</th>${may("admin") ? html`<th scope="col"><span class="hidden">Action</span></th>` : null}</tr></thead>
    <tbody>${sorted.map((one) => {
      const now = live.get(`${group} ${one.number}`);
      return html`<tr key=${one.number}>
        <td><b>${one.number}</b> <code title=${one.digest}>${short(one.digest)}</code><br /><span class="muted">${one.note || bytes(one.size_bytes)}</span></td>
        <td class="progress-cell"><${Progress} wanted=${one.wanted} running=${one.running} size=${Math.max(size, one.wanted, one.running, 1)} /></td>
        <td class="number">${now?.devices ? html`${count(now.alarm)} <span class="muted">of ${count(now.devices)}</span>` : "–"}</td>
        <td class="muted made">${stamp(one.created_s)}</td>
        ${may("admin") ? html`<td class="number"><button type="button" onClick=${() => want(one)}>Want it</button></td>` : null}
      </tr>`;
    })}</tbody></table></div>
  <//>`;
}

/** @param {{ wanted: number, running: number, size: number }} props */
const Progress = ({ wanted, running, size }) => html`<span class="progress" aria-hidden="true"><span class="wanted" style=${{ width: `${(100 * wanted) / size}%` }}></span><span class="running" style=${{ width: `${(100 * running) / size}%` }}></span></span>
  <span class="progress-text">${count(running)} run it, ${count(wanted)} wanted</span>`;

/** @param {{ release: Release, close: () => void, done: () => void }} props */
function Want({ release, close, done }) {
  const [to, setTo] = useState("");
  const devices = to.split(/[\s,]+/).filter(Boolean);
  const run = async () => {
    const answer = /** @type {{ devices: string[] }} */ (await post(`/api/releases/${encodeURIComponent(release.group)}/${release.number}/want`, devices.length ? { to: devices } : {}));
    toast(`Release ${release.number} is wanted of ${many(answer.devices.length, "device")}`);
    done();
  };
  return html`<${Confirm} title=${`Release ${release.number} of ${release.group}`} action=${devices.length ? `Want it of ${many(devices.length, "device")}` : "Want it of the whole group"} run=${run} close=${close}
    text="Devices take it when they are not flying and their battery allows it." extra=${html`<label class="field"><span>Only these devices <small class="muted">empty: the whole group</small></span><textarea rows="3" spellcheck="false" value=${to} onInput=${(/** @type {any} */ event) => setTo(event.target.value)}></textarea></label>`} />`;
}
