/** What the rounds of a run did: loss, and how many devices took part. */

import { count } from "../format.js";
import { html, useMemo } from "../html.js";
import { token } from "../theme.js";
import { axis, PlotBox } from "./plot.js";

/** @typedef {import("../types").Round} Round */
/** @typedef {import("../../vendor/uplot.js").Plot} Plot */

/**
 * @param {{ lines: Round[], title: string, pick: (line: Round) => number | null, format: (value: number) => string, colour: string, fromZero?: boolean }} props
 */
export function RoundChart({ lines, title, pick, format, colour, fromZero = false }) {
  const data = useMemo(() => [lines.map((line) => line.round), lines.map(pick)], [lines]);
  const options = () => ({
    padding: [10, 14, 0, 0],
    cursor: { y: false, drag: { x: false, y: false } },
    scales: {
      x: { time: false, range: (/** @type {Plot} */ _, /** @type {number} */ low, /** @type {number} */ high) => [Math.min(low, 1), Math.max(high, 5)] },
      y: { range: (/** @type {Plot} */ _, /** @type {number} */ low, /** @type {number} */ high) => (fromZero ? [0, Math.max(1, high * 1.15)] : [low - (high - low || 1) * 0.15, high + (high - low || 1) * 0.15]) },
    },
    axes: [axis({ incrs: [1, 2, 5, 10, 20, 50, 100], values: (/** @type {Plot} */ _, /** @type {number[]} */ ticks) => ticks.map((tick) => `${tick}`) }), axis({ size: 56, values: (/** @type {Plot} */ _, /** @type {number[]} */ ticks) => ticks.map(format) })],
    series: [{}, { stroke: token(colour), width: 2, points: { show: true, size: 6, fill: token(colour) } }],
  });
  const last = data[1]?.at(-1);
  return html`<figure class="round-chart"><figcaption>${title} <b>${last === null || last === undefined ? "–" : format(last)}</b></figcaption>
    <${PlotBox} options=${options} data=${data} height=${150} label=${`${title} over ${count(lines.length)} rounds, now ${last ?? "unknown"}`} />
  </figure>`;
}
