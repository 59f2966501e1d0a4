/** The map as a part of the page: drag, wheel, pinch, buttons and keys. Positions only of devices that tell them. */

import { count, times } from "../format.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../html.js";
import { go, toDevice } from "../router.js";
import { LABELS } from "../parts/shape.js";
import { beat, order, rows } from "../state/fleet.js";
import { filter, matcher } from "../state/filter.js";
import { STATUSES } from "../state/rows.js";
import { theme } from "../theme.js";
import { MapView } from "./view.js";

export function WorldMap() {
  const frame = useRef(/** @type {HTMLDivElement | null} */ (null));
  const canvas = useRef(/** @type {HTMLCanvasElement | null} */ (null));
  const held = useRef(/** @type {Map<number, [number, number]>} */ (new Map()));
  const moved = useRef(0);
  const [view, setView] = useState(/** @type {MapView | null} */ (null));
  const [at, setAt] = useState(-1);
  const [filtering, turn, look] = [filter.value, order.value, theme.value];

  useLayoutEffect(() => {
    const [box, sheet] = [/** @type {HTMLDivElement} */ (frame.current), /** @type {HTMLCanvasElement} */ (canvas.current)];
    const made = new MapView(sheet, rows);
    setView(made);
    const watcher = new ResizeObserver(() => made.resize(box.clientWidth, box.clientHeight));
    watcher.observe(box);
    const wheel = (/** @type {WheelEvent} */ event) => {
      event.preventDefault();
      made.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    };
    sheet.addEventListener("wheel", wheel, { passive: false });
    return () => (watcher.disconnect(), sheet.removeEventListener("wheel", wheel));
  }, []);
  useEffect(() => {
    if (!view) return;
    view.passes = matcher(filtering);
    view.soon();
  }, [view, filtering, turn, look, beat.value]);

  const handlers = {
    onPointerDown: (/** @type {PointerEvent} */ event) => {
      canvas.current?.setPointerCapture(event.pointerId);
      held.current.set(event.pointerId, [event.clientX, event.clientY]);
      moved.current = 0;
    },
    onPointerMove: (/** @type {PointerEvent} */ event) => {
      const before = held.current.get(event.pointerId);
      if (!view) return;
      if (!before) return setAt(view.hit(event.offsetX, event.offsetY));
      const others = [...held.current].filter(([id]) => id !== event.pointerId);
      const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
      const other = others[0]?.[1];
      if (other) {
        const far = (/** @type {number} */ x, /** @type {number} */ y) => Math.hypot(x - other[0], y - other[1]) || 1;
        view.zoom(far(event.clientX, event.clientY) / far(before[0], before[1]));
      } else view.pan(dx, dy);
      moved.current += Math.abs(dx) + Math.abs(dy);
      held.current.set(event.pointerId, [event.clientX, event.clientY]);
    },
    onPointerUp: (/** @type {PointerEvent} */ event) => {
      held.current.delete(event.pointerId);
      const n = view && moved.current < 5 ? view.hit(event.offsetX, event.offsetY) : -1;
      if (n >= 0) go(toDevice(rows.names[n] ?? ""));
    },
    onPointerCancel: (/** @type {PointerEvent} */ event) => void held.current.delete(event.pointerId),
    onKeyDown: (/** @type {KeyboardEvent} */ event) => {
      const step = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.key];
      if (step) view?.pan(step[0] ?? 0, step[1] ?? 0);
      else if (event.key === "+" || event.key === "=") view?.zoom(1.5);
      else if (event.key === "-") view?.zoom(1 / 1.5);
      else return;
      event.preventDefault();
    },
  };
  let placed = 0;
  for (let n = 0; n < rows.size; n++) if (!Number.isNaN(rows.lat[n])) placed += 1;
  const status = STATUSES[rows.status[at] ?? 4] ?? "ok";
  return html`<div class="map" ref=${frame}>
    <canvas ref=${canvas} tabindex="0" role="application" aria-roledescription="map" aria-label=${`Map with ${count(placed)} devices; arrow keys move it, plus and minus zoom. The table has the same devices as text.`} ...${handlers}></canvas>
    <div class="map-buttons">
      <button type="button" aria-label="Zoom in" onClick=${() => view?.zoom(1.5)}>+</button>
      <button type="button" aria-label="Zoom out" onClick=${() => view?.zoom(1 / 1.5)}>−</button>
      <button type="button" aria-label="Show all devices" onClick=${() => view?.fit()}>⌂</button>
    </div>
    <p class="map-note">${at >= 0 && at < rows.size ? html`<b>${rows.names[at]}</b> ${LABELS[status]}, ${times(rows.ratio[at])}` : placed < rows.size ? `${count(rows.size - placed)} devices tell no position` : ""}</p>
  </div>`;
}
