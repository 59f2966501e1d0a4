/** The fleet as a table: the hive's equal in text. Only the rows in sight are in the page. */

import { ago, count, times } from "../format.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../html.js";
import { go, toDevice } from "../router.js";
import { LABELS, Shape } from "../parts/shape.js";
import { beat, now_s, order, rows } from "../state/fleet.js";
import { filter, matcher } from "../state/filter.js";
import { STATUSES } from "../state/rows.js";

const ROW_PX = 36;
const SPARE = 8; // rows beyond the edges

/** @typedef {"device" | "group" | "status" | "ratio" | "release" | "seen"} Column */
/** @type {[Column, string][]} */
const COLUMNS = [["device", "Device"], ["group", "Group"], ["status", "Status"], ["ratio", "Score"], ["release", "Release"], ["seen", "Heard"]];

/** Rows that pass, in order. @param {(n: number) => boolean} passes @param {Column} by @param {number} sign @returns {number[]} */
function sorted(passes, by, sign) {
  const found = [];
  for (let n = 0; n < rows.size; n++) if (passes(n)) found.push(n);
  if (by === "group") return sign > 0 ? found : found.reverse();
  if (by === "device") return found.sort((a, b) => sign * ((rows.names[a] ?? "") < (rows.names[b] ?? "") ? -1 : 1));
  const column = rows[by];
  /** @param {number} n */
  const value = (n) => (Number.isNaN(column[n]) ? -1 : /** @type {number} */ (column[n]));
  // Equal ones keep the hive's order, so rows do not dance.
  return found.sort((a, b) => sign * (value(a) - value(b)) || a - b);
}

export function Table() {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const [by, setBy] = useState(/** @type {Column} */ ("ratio"));
  const [sign, setSign] = useState(-1);
  const [list, setList] = useState(/** @type {number[]} */ ([]));
  const [scroll, setScroll] = useState({ top: 0, height: 600 });
  const held = useRef(false);

  useLayoutEffect(() => {
    setList(sorted(matcher(filter.value), by, sign));
  }, [by, sign, filter.value, order.value]);
  // New scores sort anew, but not under a pointer or while somebody reads by keyboard.
  useEffect(() => {
    const timer = setInterval(() => !held.current && setList(sorted(matcher(filter.peek()), by, sign)), 2000);
    return () => clearInterval(timer);
  }, [by, sign]);
  useEffect(() => {
    const frame = /** @type {HTMLDivElement} */ (box.current);
    const watcher = new ResizeObserver(() => setScroll((before) => ({ ...before, height: frame.clientHeight })));
    watcher.observe(frame);
    return () => watcher.disconnect();
  }, []);

  void beat.value;
  const first = Math.max(0, Math.floor(scroll.top / ROW_PX) - SPARE);
  const shown = list.slice(first, first + Math.ceil(scroll.height / ROW_PX) + 2 * SPARE);
  const after = Math.max(0, list.length - first - shown.length);
  return html`<div class="table-box" ref=${box} tabindex="0" role="region" aria-label="Devices, scrollable"
    onScroll=${() => box.current && setScroll({ top: box.current.scrollTop, height: box.current.clientHeight })}
    onPointerEnter=${() => (held.current = true)} onPointerLeave=${() => (held.current = false)}
    onFocusIn=${() => (held.current = true)} onFocusOut=${() => (held.current = false)}>
    <table class="devices" aria-rowcount=${list.length + 1}>
      <caption class="hidden">${count(list.length)} devices</caption>
      <thead><tr aria-rowindex="1">
        ${COLUMNS.map(
          ([name, title]) => html`<th key=${name} scope="col" class=${`col-${name}`} aria-sort=${by === name ? (sign > 0 ? "ascending" : "descending") : "none"}>
            <button type="button" onClick=${() => (by === name ? setSign(-sign) : (setBy(name), setSign(name === "ratio" || name === "seen" ? -1 : 1)))}>
              ${title}<span aria-hidden="true">${by === name ? (sign > 0 ? " ↑" : " ↓") : ""}</span></button></th>`,
        )}
      </tr></thead>
      <tbody>
        ${first ? html`<tr key="before" aria-hidden="true" class="spacer" style=${{ height: `${first * ROW_PX}px` }}><td></td></tr>` : null}
        ${shown.map((n, at) => html`<${Row} key=${rows.names[n]} n=${n} index=${first + at + 2} />`)}
        ${after ? html`<tr key="after" aria-hidden="true" class="spacer" style=${{ height: `${after * ROW_PX}px` }}><td></td></tr>` : null}
      </tbody>
    </table>
    ${list.length ? null : html`<p class="empty">No device fits the filter.</p>`}
  </div>`;
}

/** @param {{ n: number, index: number }} props */
function Row({ n, index }) {
  const name = rows.names[n] ?? "";
  const status = STATUSES[rows.status[n] ?? 4] ?? "ok";
  const ratio = rows.ratio[n] ?? NaN;
  const seen = rows.seen[n] ?? NaN;
  return html`<tr aria-rowindex=${index} onClick=${() => go(toDevice(name))}>
    <td class="col-device"><a href=${toDevice(name)}>${name}</a></td>
    <td class="col-group">${rows.groups[rows.group[n] ?? 0]?.name}</td>
    <td class="col-status"><${Shape} status=${status} /> ${LABELS[status]}</td>
    <td class="col-ratio"><span class="meter" aria-hidden="true"><span class=${ratio >= 1 ? "over" : ""} style=${{ width: `${Math.min(100, 50 * (ratio || 0))}%` }}></span></span> ${times(ratio)}</td>
    <td class="col-release">${rows.release[n] || "–"}</td>
    <td class="col-seen">${ago(Number.isNaN(seen) ? null : seen, now_s.value)}</td>
  </tr>`;
}
