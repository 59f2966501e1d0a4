/** uPlot as a part of the page: loaded when the first chart stands, sized by its box, coloured by the theme. */

import { html, useEffect, useLayoutEffect, useRef, useState } from "../html.js";
import { theme, token } from "../theme.js";

/** @typedef {import("../../vendor/uplot.js").Plot} Plot */
/** @typedef {import("../../vendor/uplot.js").Options} Options */

/** @type {Promise<typeof import("../../vendor/uplot.js")> | null} */
let library = null;
const load = () => (library ??= import("../../vendor/uplot.js"));

/** Local time by the 24 h clock; the day where it changes. @type {(string | number | null)[][]} */
export const TIME = [
  [86400 * 300, "{YYYY}", null, null, null, null, null, null, 1],
  [86400, "{D} {MMM}", null, null, null, null, null, null, 1],
  [3600, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
  [60, "{HH}:{mm}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{D} {MMM}", null, "\n{D} {MMM}", null, null, null, 1],
];

/** An axis in the page's type and colours. @param {Record<string, unknown>} more */
export function axis(more = {}) {
  const quiet = { stroke: token("grid"), width: 1 };
  return { stroke: token("muted"), font: "12px Inter, system-ui, sans-serif", grid: quiet, ticks: { show: false }, gap: 6, ...more };
}

/**
 * @param {{ options: () => Omit<Options, "width" | "height">, data: (number | null)[][], height: number, label: string, onCursor?: (index: number | null) => void, version?: string }} props
 *   options: made anew with the theme and with `version`, which is what they depend on
 */
export function PlotBox({ options, data, height, label, onCursor, version = "" }) {
  const box = useRef(/** @type {HTMLDivElement | null} */ (null));
  const plot = useRef(/** @type {Plot | null} */ (null));
  const latest = useRef(data);
  latest.current = data;
  const [failed, setFailed] = useState("");
  const look = theme.value;

  useLayoutEffect(() => {
    const place = /** @type {HTMLDivElement} */ (box.current);
    let gone = false;
    load().then(
      ({ default: UPlot }) => {
        if (gone) return;
        const made = options();
        const hooks = /** @type {Record<string, unknown[]>} */ (made.hooks ?? {});
        const cursor = (/** @type {Plot} */ self) => onCursor?.(self.cursor.left !== undefined && self.cursor.left >= 0 ? (self.cursor.idx ?? null) : null);
        plot.current = new UPlot(
          { ...made, width: place.clientWidth, height, legend: { show: false }, hooks: { ...hooks, setCursor: [cursor] } },
          latest.current,
          place,
        );
      },
      () => setFailed("The chart could not be loaded."),
    );
    const watcher = new ResizeObserver(() => plot.current?.setSize({ width: place.clientWidth, height }));
    watcher.observe(place);
    return () => {
      gone = true;
      watcher.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [look, version, height]);
  useEffect(() => plot.current?.setData(data), [data]);
  return html`<div class="plot" role="img" aria-label=${label} ref=${box} style=${{ height: `${height}px` }}>${failed ? html`<p class="problem">${failed}</p>` : null}</div>`;
}
