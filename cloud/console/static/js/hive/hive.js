/** The hive as a part of the page: canvas, labels of groups, what the pointer or the keys point at. */

import { ago, count, times } from "../format.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../html.js";
import { go, toDevice } from "../router.js";
import { Shape, LABELS } from "../parts/shape.js";
import { beat, inIncident, incidents, now_s, onRows, order, rows } from "../state/fleet.js";
import { filter, matcher, setFilter } from "../state/filter.js";
import { STATUSES } from "../state/rows.js";
import { theme } from "../theme.js";
import { cell, hit, step } from "./layout.js";
import { HiveView } from "./view.js";

/** What there is to say of a row. @param {number} n */
function about(n) {
  const status = STATUSES[rows.status[n] ?? 4] ?? "ok";
  const seen = rows.seen[n];
  return {
    name: rows.names[n] ?? "",
    group: rows.groups[rows.group[n] ?? 0]?.name ?? "",
    status,
    ratio: times(rows.ratio[n]),
    seen: ago(seen === undefined || Number.isNaN(seen) ? null : seen, now_s.peek()),
    release: rows.release[n] ? `release ${rows.release[n]}` : "no release",
  };
}

/** Open alarms of each group. */
function alarming() {
  const found = new Map();
  for (let n = 0; n < rows.size; n++) if (rows.status[n] === 0) found.set(rows.group[n], (found.get(rows.group[n]) ?? 0) + 1);
  return new Map([...found].map(([index, n]) => [rows.groups[index]?.name, n]));
}

/** @param {{ view: HiveView, measured: number }} props  measured: another number after each layout, or nothing would be drawn anew */
function Labels({ view }) {
  void [beat.value, order.value];
  const alarms = alarming();
  const worst = new Map([...incidents.value].reverse().map((one) => [one.group, one]));
  const chosen = filter.value.group;
  return view.layout.blocks.map((block) => {
    const incident = worst.get(block.name);
    const n = alarms.get(block.name) ?? 0;
    const beside = view.layout.left > 0;
    const text = incident ? `${incident.devices} alike: ${incident.channel}` : n ? `${count(n)} in alarm` : "";
    return html`<button type="button" key=${block.name} class=${`hive-label ${beside ? "beside" : "above"}`}
      aria-pressed=${chosen === block.name} title=${incident ? incident.text : block.name}
      style=${{ top: `${block.labelTop}px` }} onClick=${() => setFilter({ group: chosen === block.name ? "" : block.name })}>
      <span class="hive-name">${block.name}</span>
      <span class="hive-count">${count(block.size)}${n ? html` <span class="hive-alarms"><${Shape} status="alarm" /> <span>${beside && incident ? text : count(n)}</span></span>` : null}</span>
    </button>`;
  });
}

/** @param {{ view: HiveView, n: number, width: number }} props */
function Tip({ view, n, width }) {
  void [beat.value, order.value];
  const at = cell(view.layout, n);
  if (!at) return null;
  const one = about(n);
  const left = Math.min(Math.max(0, at.x - 90), width - 200);
  const below = at.y < 90;
  const top = below ? at.y + view.layout.pitch + 8 : at.y - 8;
  const side = `${view.layout.pitch + 4}px`;
  return html`
    <div class="hive-cursor" style=${{ transform: `translate(${at.x - 2}px, ${at.y - 2}px)`, width: side, height: side }}></div>
    <div class=${`hive-tip ${below ? "" : "up"}`} aria-hidden="true" style=${{ left: `${left}px`, top: `${top}px` }}>
      <b><${Shape} status=${one.status} /> ${one.name}</b>
      <span>${LABELS[one.status]}, ${one.ratio} of its threshold</span>
      <span class="muted">${one.release}, heard ${one.seen}</span>
    </div>`;
}

/** @param {{ fill: boolean }} props  fill: the whole fleet fits into the height there is */
export function Hive({ fill }) {
  const frame = useRef(/** @type {HTMLDivElement | null} */ (null));
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const [view, setView] = useState(/** @type {HiveView | null} */ (null));
  const [size, setSize] = useState({ width: 0, height: 0 });
  const [at, setAt] = useState(-1);
  const [said, setSaid] = useState("");
  const [measured, setMeasured] = useState(0);
  const passes = useMemo(() => matcher(filter.value), [filter.value]);
  const [marked, look] = [inIncident.value, theme.value];

  useLayoutEffect(() => {
    const box = /** @type {HTMLDivElement} */ (frame.current);
    const made = new HiveView(/** @type {HTMLCanvasElement} */ (canvas.current), rows);
    /** @type {any} */ (canvas.current).hive = made;
    setView(made);
    const watcher = new ResizeObserver(() => setSize({ width: box.clientWidth, height: box.clientHeight }));
    watcher.observe(box);
    return () => watcher.disconnect();
  }, []);

  useLayoutEffect(() => {
    if (!view || !size.width) return;
    view.passes = passes;
    view.marked = marked;
    view.measure(size.width, fill ? size.height : 0, fill ? 5 : 8);
    view.drawAll();
    setMeasured((n) => n + 1); // labels stand where the layout has put their blocks
    setAt((n) => (n < rows.size ? n : -1));
    // Only what changes the drawing of every cell.
  }, [view, size.width, fill ? size.height : 0, passes, marked, look, order.value]);

  useEffect(() => (view ? onRows((changed) => view.draw(changed)) : undefined), [view]);

  /** @param {PointerEvent} event */
  const point = (event) => {
    if (!view || !canvas.current) return;
    const box = canvas.current.getBoundingClientRect();
    setAt(hit(view.layout, event.clientX - box.left, event.clientY - box.top));
  };
  const open = () => at >= 0 && go(toDevice(rows.names[at] ?? ""));
  /** @param {KeyboardEvent} event */
  const key = (event) => {
    if (!view) return;
    if (event.key === "Enter" && at >= 0) {
      event.preventDefault();
      open();
    } else if (/^(Arrow|Home$|End$)/.test(event.key)) {
      event.preventDefault();
      const next = step(view.layout, at, event.key, rows.size);
      const one = about(next);
      setAt(next);
      setSaid(`${one.name}, ${one.group}: ${LABELS[one.status]}, ${one.ratio} of its threshold, heard ${one.seen}`);
      const place = cell(view.layout, next);
      if (place && frame.current && fill) frame.current.scrollTop = Math.min(frame.current.scrollTop, Math.max(0, place.y - 40)) || frame.current.scrollTop;
    }
  };
  return html`<div class=${`hive ${fill ? "fill" : ""}`} ref=${frame}>
    <div class="hive-inner" style=${{ height: `${view?.layout.height ?? 0}px` }}>
      <canvas ref=${canvas} tabindex="0" role="application" aria-roledescription="hive" aria-describedby="hive-help"
        aria-label=${`${count(rows.size)} devices, one cell each`} onPointerMove=${point} onPointerLeave=${() => setAt(-1)} onClick=${open} onKeyDown=${key}></canvas>
      ${view ? html`<${Labels} view=${view} measured=${measured} /> ${at >= 0 && at < rows.size ? html`<${Tip} view=${view} n=${at} width=${size.width} />` : null}` : null}
    </div>
    <p id="hive-help" class="hidden">Arrow keys move from device to device, Enter opens one. The table (key 2) has the same devices as text.</p>
    <p class="hidden" role="status">${said}</p>
  </div>`;
}
