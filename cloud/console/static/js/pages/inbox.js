/** Inbox: what needs my verdict? */

import { alarmPath, get, rows as rowsOf, url } from "../api.js";
import { ago, count, many, percent, span, times } from "../format.js";
import { html, useEffect, useMemo, useRef, useState } from "../html.js";
import { useKeys } from "../keys.js";
import { Bars, Empty, Key, Note, Problem, useAsk, Waiting } from "../parts/bits.js";
import { Shape } from "../parts/shape.js";
import { go, toDevice, toWhy } from "../router.js";
import { may } from "../session.js";
import { counts, groups, incidents, newAlarms, now_s } from "../state/fleet.js";
import { lines, withLooked } from "../state/inbox.js";
import { judge, judged, undo } from "../state/verdicts.js";
import { toast } from "../parts/toast.js";

/** @typedef {import("../types").Alarm} Alarm */
/** @typedef {import("../types").AlarmWhole} AlarmWhole */
/** @typedef {import("../state/inbox.js").Line} Line */

const PAGE = 200;
/** @type {[string, string, string[]][]} name, title, choices */
const FILTERS = [["show", "Show", ["unjudged", "open", "all"]], ["level", "Level", ["high", "low"]], ["kind", "Kind", ["anomaly", "sensor"]]];

/** The pages read so far, and anew when something moved; at most once a second. @param {Record<string, string>} wanted */
function useAlarms(wanted) {
  const [list, setList] = useState(/** @type {{ rows: Alarm[], of: string } | null} */ (null));
  const [next, setNext] = useState(/** @type {string | null} */ (null));
  const [error, setError] = useState(/** @type {unknown} */ (null));
  const [pages, setPages] = useState(1);
  const read_at = useRef(0);
  const query = { ...wanted, show: null, unjudged: wanted.show === "unjudged", open: wanted.show === "open" };
  const moved = `${counts.value.inbox} ${counts.value.seen} ${newAlarms.value[0]?.alarm_id ?? ""} ${judged.value}`;
  const asked = JSON.stringify(query);
  useEffect(() => setPages(1), [asked]);
  useEffect(() => {
    let still = true;
    const read = async () => {
      read_at.current = Date.now();
      /** @type {Alarm[]} */
      let found = [];
      /** @type {string | null} */
      let after = null;
      for (let n = 0; n < pages; n++) {
        /** @type {import("../types").Page<Alarm>} */
        const page = await get(url("/api/alarms", { ...query, limit: PAGE, after }));
        found = found.concat(rowsOf(page));
        after = page.next;
        if (!after) break;
      }
      if (still) setList({ rows: found, of: asked }), setNext(after), setError(null);
    };
    const timer = setTimeout(() => read().catch((failure) => still && setError(failure)), Math.max(0, read_at.current + 1000 - Date.now()));
    return () => ((still = false), clearTimeout(timer));
  }, [asked, moved, pages]);
  return { list: list?.rows ?? null, of: list?.of ?? "", error, more: next ? () => setPages((n) => n + 1) : null };
}

export function Inbox() {
  const [wanted, setWanted] = useState(/** @type {Record<string, string>} */ ({ show: "unjudged", level: "", kind: "", group: "", channel: "" }));
  const { list, of, error, more } = useAlarms(wanted);
  const [opened, setOpened] = useState(/** @type {Set<string>} */ (new Set()));
  const [chosen, setChosen] = useState("");
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  const listed = useMemo(() => lines(list ?? [], incidents.value, opened), [list, incidents.value, opened]);
  // What is looked at stays where it is, also when somebody else has judged it: the next one must not slide under the hand that judges.
  const looked = useRef(/** @type {{ line: Line, of: string } | null} */ (null));
  const place = useRef(0);
  const mine = useRef(""); // what was judged here may go
  const last = looked.current;
  // Only a whole list of what needs a verdict tells that one needs none: of others, alarms leave because they end, or for newer ones.
  const unjudged = wanted.show === "unjudged" && !more ? list : null;
  const all = withLooked(listed, last?.of === of && last.line.id === chosen && chosen !== mine.current ? last.line : null, place.current, unjudged);
  const found = all.findIndex((one) => one.id === chosen);
  // What was judged here leaves the list; the choice stays at its place instead of jumping to the top.
  if (found >= 0) place.current = found;
  const at = found >= 0 ? found : Math.min(place.current, all.length - 1);
  const line = all[at];
  looked.current = line && chosen === line.id ? { line, of } : null;
  // What is shown is chosen: an alarm that arrives above it must not slide under the hand that judges.
  useEffect(() => { if (line) setChosen(line.id); }, [line?.id, chosen]);
  // A note belongs to its line; forgotten in the same moment as the choice moves, not in a later effect that would take new letters with it.
  const [held, setHeld] = useState({ id: "", text: "" });
  const note = held.id === line?.id ? held.text : "";
  const setNote = (/** @type {string} */ text) => setHeld({ id: line?.id ?? "", text });
  useEffect(() => box.current?.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest" }), [line?.id]);

  /** @param {number} n */
  const move = (n) => setChosen(all[Math.max(0, Math.min(all.length - 1, n))]?.id ?? "");
  /** @param {"confirmed" | "rejected" | "acknowledged"} verdict */
  const say = async (verdict) => {
    if (!line || !may("operator")) return;
    if (line.gone) return toast("It needs no verdict any more: move on to the next one");
    const following = all.slice(at + 1).find((one) => !(line.incident && one.child)) ?? all[at - 1];
    if (await judge(line.keys, verdict, note)) (mine.current = verdict === "acknowledged" ? "" : line.id), setNote(""), verdict !== "acknowledged" && setChosen(following?.id ?? "");
  };
  const toggle = (/** @type {string} */ id) => setOpened((before) => (before.has(id) ? new Set([...before].filter((one) => one !== id)) : new Set([...before, id])));
  const why = () => line?.alarms[0] && go(toWhy(line.alarms[0]));
  useKeys({
    j: () => move(at + 1), k: () => move(at - 1), ArrowDown: () => move(at + 1), ArrowUp: () => move(at - 1), n: () => move(at + 1),
    c: () => void say("confirmed"), x: () => void say("rejected"), a: () => void say("acknowledged"), u: () => void undo(), w: why, Enter: why,
    e: () => line?.incident && toggle(line.id),
  });
  const set = (/** @type {string} */ name) => (/** @type {any} */ event) => setWanted((before) => ({ ...before, [name]: event.target.value }));
  return html`
    <div class="page-head"><div><h1>Inbox</h1>
      <p class="muted"><span role="status">${many(counts.value.inbox, "alarm")} ${counts.value.inbox === 1 ? "needs" : "need"} a verdict${counts.value.seen ? `, ${count(counts.value.seen)} of them acknowledged` : ""}.</span>
        <span class="wide-only"> <${Key}>j<//> <${Key}>k<//> move, <${Key}>c<//> confirm, <${Key}>x<//> reject, <${Key}>w<//> why, <${Key}>u<//> undo</span></p></div>
      <form class="filters" aria-label="Filter alarms" onSubmit=${(/** @type {Event} */ event) => event.preventDefault()}>
        ${FILTERS.map(([name, title, choices]) => html`<label key=${name}><span>${title}</span><select value=${wanted[name]} onChange=${set(name)}>
          ${name === "show" ? null : html`<option value="">any</option>`}${choices.map((one) => html`<option key=${one} value=${one}>${one === "unjudged" ? "without verdict" : one}</option>`)}</select></label>`)}
        <label><span>Group</span><select value=${wanted.group} onChange=${set("group")}><option value="">any</option>${groups.value.map((one) => html`<option key=${one.name} value=${one.name}>${one.name}</option>`)}</select></label>
        <label><span>Channel</span><input value=${wanted.channel} onChange=${set("channel")} placeholder="any" autocomplete="off" spellcheck="false" /></label>
      </form></div>
    ${error ? html`<${Problem} error=${error} />` : null}
    <div class="split">
      <section class="panel list" aria-label="Alarms" ref=${box}>
        ${list === null ? html`<${Waiting} lines=${8} />` : all.length === 0 ? html`<${Empty}>Nothing here. ${wanted.show === "unjudged" ? "Every alarm has its verdict." : "No alarm fits the filter."}<//>` : null}
        <ul class="alarms">
          ${all.map((one, n) => html`<${LineView} key=${one.id} line=${one} current=${n === at} opened=${opened.has(one.id)} choose=${() => setChosen(one.id)} toggle=${() => toggle(one.id)} />`)}
        </ul>
        ${more ? html`<button type="button" class="more" onClick=${more}>Older alarms</button>` : null}
      </section>
      ${line ? html`<${Aside} key=${line.id} line=${line} say=${say} note=${note} setNote=${setNote} />` : html`<aside class="panel aside"></aside>`}
    </div>`;
}

/** @param {{ line: Line, current: boolean, opened: boolean, choose: () => void, toggle: () => void }} props */
function LineView({ line, current, opened, choose, toggle }) {
  const [alarm] = line.alarms;
  if (!alarm) return null;
  const { incident } = line;
  const ended = !incident && alarm.state === "end";
  const state = line.gone ? "judged meanwhile" : alarm.verdict || (alarm.acknowledged_s ? "acknowledged" : ended ? "ended" : "open");
  const title = incident ? `${incident.devices} devices alike` : alarm.device;
  return html`<li class=${`alarm-line ${incident ? "incident" : ""} ${line.child ? "child" : ""}`} aria-current=${current ? "true" : undefined}>
    <button type="button" class="alarm-pick" onClick=${choose} onDblClick=${() => go(toWhy(alarm))}>
      <${Shape} status=${ended ? "watch" : "alarm"} label />
      <span class="need-what"><b>${title}</b><span>${alarm.group}, ${alarm.top_channel}${alarm.kind === "sensor" ? ", sensor" : ""}</span></span>
      <span class="tags">${alarm.level ? html`<span class=${`tag ${alarm.level}`}>${alarm.level}</span>` : null}<span class="tag">${incident && !line.gone ? `within ${span(incident.last_s - incident.begin_s)}` : state}</span></span>
      <span class="need-figure"><b>${!incident ? times(alarm.ratio) : incident.lift === null ? "new" : `${incident.lift.toFixed(1)}× usual`}</b><span>${ago(incident ? incident.last_s : (alarm.begin_s ?? alarm.received_s), now_s.value)}</span></span>
    </button>
    ${incident ? html`<button type="button" class="icon" aria-expanded=${opened} aria-label=${`${opened ? "Hide" : "Show"} its ${incident.devices} alarms`} onClick=${toggle}>${opened ? "−" : "+"}</button>` : null}
  </li>`;
}

/** @param {{ line: Line, say: (verdict: "confirmed" | "rejected" | "acknowledged") => void, note: string, setNote: (note: string) => void }} props */
function Aside({ line, say, note, setNote }) {
  const alarm = /** @type {Alarm} */ (line.alarms[0]);
  const { incident } = line;
  const { value, error } = useAsk(() => /** @type {Promise<AlarmWhole>} */ (get(alarmPath(alarm))), [alarm.device, alarm.alarm_id, alarm.acknowledged_s, alarm.verdict, judged.value, line.gone]);
  const now = line.gone && value ? value : alarm;
  return html`<aside class="panel aside" aria-label="The chosen alarm">
    <header class="panel-head"><h2>${incident ? incident.group : alarm.device}</h2>${incident ? null : html`<a href=${toDevice(alarm.device)}>Device</a>`}</header>
    <p class="cause">${incident ? incident.text : (value?.why.cause ?? `${alarm.top_channel} at ${times(alarm.ratio)}`)}</p>
    ${incident ? html`<p class="muted">${percent(incident.share)} of the group, ${incident.lift === null ? "which is too young to tell what is usual" : `${incident.lift.toFixed(1)} times its usual rate`}. The newest: <a href=${toDevice(alarm.device)}>${alarm.device}</a></p>` : value?.why.peers ? html`<p class="muted">${value.why.peers}</p>` : null}
    ${error ? html`<${Problem} error=${error} />` : value ? html`<${Bars} shares=${value.attribution} most=${7} />` : html`<${Waiting} lines=${7} />`}
    ${may("operator") && !line.gone ? html`<${Note} note=${note} setNote=${setNote} />` : null}
    <div class="buttons">
      ${may("operator") && !line.gone
        ? html`<button type="button" class="primary" onClick=${() => say("confirmed")}>Confirm${incident ? ` ${line.keys.length}` : ""} <${Key}>c<//></button>
            <button type="button" onClick=${() => say("rejected")}>Reject <${Key}>x<//></button>
            <button type="button" onClick=${() => say("acknowledged")}>Acknowledge <${Key}>a<//></button>`
        : null}
      <a class="button" href=${toWhy(alarm)}>Why <${Key}>w<//></a>
    </div>
    ${now.verdict || now.acknowledged_s ? html`<p class="muted" role="status">${now.verdict || "acknowledged"} by ${now.verdict ? now.verdict_by : now.acknowledged_by}</p>` : null}
  </aside>`;
}
