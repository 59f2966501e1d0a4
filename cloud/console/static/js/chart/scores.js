/** A device's scores against its threshold: 1 is the threshold, whatever the release, so releases can be compared. */

import { clock, count, span, stamp, times } from "../format.js";
import { html, useMemo, useState } from "../html.js";
import { token } from "../theme.js";
import { axis, PlotBox, TIME } from "./plot.js";

/** @typedef {import("../types").Scores} Scores */
/** @typedef {import("../../vendor/uplot.js").Plot} Plot */

/**
 * Columns for the chart: time, greatest, p99, median (each over its threshold), and the greatest where it is above.
 * @param {Scores} scores
 * @returns {(number | null)[][]}
 */
export function columns(scores) {
  /** @param {number[]} values */
  const over = (values) => values.map((value, n) => ((scores.threshold[n] ?? 0) > 0 ? value / /** @type {number} */ (scores.threshold[n]) : null));
  const greatest = over(scores.max);
  return [scores.t, greatest, over(scores.p99), over(scores.p50), greatest.map((value) => (value !== null && value >= 1 ? value : null))];
}

/** Where another release begins. @param {Scores} scores @returns {[number, number][]} time, release */
export function releases(scores) {
  /** @type {[number, number][]} */
  const found = [];
  scores.release.forEach((release, n) => {
    if (n > 0 && release !== scores.release[n - 1]) found.push([/** @type {number} */ (scores.t[n]), release]);
  });
  return found;
}

/** Alarms behind the lines, releases and the threshold before them. @param {Scores} scores */
function marks(scores) {
  const font = `600 ${11 * devicePixelRatio}px Inter, system-ui, sans-serif`;
  return {
    drawClear: [
      (/** @type {Plot} */ self) => {
        const { ctx, bbox } = self;
        ctx.save();
        for (const [begin, end] of scores.alarms) {
          const left = Math.max(bbox.left, self.valToPos(begin, "x", true));
          const right = Math.min(bbox.left + bbox.width, self.valToPos(end ?? scores.to_s, "x", true));
          if (right < bbox.left || left > bbox.left + bbox.width) continue;
          ctx.fillStyle = token("alarm-wash");
          ctx.fillRect(left, bbox.top, Math.max(right - left, 2 * devicePixelRatio), bbox.height);
          const size = 5 * devicePixelRatio;
          ctx.fillStyle = token("alarm");
          ctx.beginPath();
          ctx.moveTo(left, bbox.top - 1.6 * size);
          ctx.lineTo(left + size, bbox.top);
          ctx.lineTo(left - size, bbox.top);
          ctx.fill();
        }
        ctx.restore();
      },
    ],
    draw: [
      (/** @type {Plot} */ self) => {
        const { ctx, bbox } = self;
        ctx.save();
        ctx.font = font;
        ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
        ctx.lineWidth = 1.5 * devicePixelRatio;
        const y = self.valToPos(1, "y", true);
        ctx.strokeStyle = ctx.fillStyle = token("alarm");
        ctx.beginPath();
        ctx.moveTo(bbox.left, y);
        ctx.lineTo(bbox.left + bbox.width, y);
        ctx.stroke();
        // Inside the plot and above its line: at the axis it would lie over the numbers.
        ctx.textAlign = "left";
        ctx.fillText("threshold", bbox.left + 8 * devicePixelRatio, y - 6 * devicePixelRatio);
        ctx.strokeStyle = ctx.fillStyle = token("updating");
        for (const [at, release] of releases(scores)) {
          const x = self.valToPos(at, "x", true);
          ctx.beginPath();
          ctx.moveTo(x, bbox.top);
          ctx.lineTo(x, bbox.top + bbox.height);
          ctx.stroke();
          ctx.textAlign = x > bbox.left + bbox.width - 80 * devicePixelRatio ? "right" : "left";
          ctx.fillText(`release ${release}`, x + (ctx.textAlign === "left" ? 6 : -6) * devicePixelRatio, bbox.top + 14 * devicePixelRatio);
        }
        ctx.restore();
      },
    ],
  };
}

/** @param {{ scores: Scores }} props */
export function ScoreChart({ scores }) {
  const data = useMemo(() => columns(scores), [scores]);
  const [at, setAt] = useState(/** @type {number | null} */ (null));
  const highest = (data[1] ?? []).reduce((/** @type {number} */ top, value) => Math.max(top, value ?? 0), 0);
  const options = () => ({
    padding: [14, 16, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { x: { time: true, range: () => [scores.from_s, scores.to_s] }, y: { range: (/** @type {Plot} */ _, /** @type {number} */ _low, /** @type {number} */ high) => [0, Math.max(1.4, (high || 0) * 1.1)] } },
    axes: [axis({ values: TIME, space: 70 }), axis({ incrs: [0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000], values: (/** @type {Plot} */ _, /** @type {number[]} */ ticks) => ticks.map((tick) => `${tick % 1 ? tick.toFixed(1) : tick}×`), size: 44 })],
    series: [
      {},
      { stroke: token("band-line"), width: 1, points: { show: false } },
      { show: false },
      { stroke: token("accent"), width: 1.5, points: { show: false } },
      { stroke: token("alarm"), width: 2, points: { show: data[0] !== undefined && data[0].length < 40, size: 4, fill: token("alarm") } },
    ],
    bands: [{ series: [1, 3], fill: token("band") }],
    hooks: marks(scores),
  });
  const seen = at ?? scores.t.length - 1;
  const [t, top, p99, p50] = data.map((column) => column[seen]);
  const label = `Score against threshold from ${stamp(scores.from_s)} to ${stamp(scores.to_s)}: greatest ${times(highest)} of the threshold, ${count(scores.alarms.length)} alarms`;
  return html`<div class="chart">
    ${scores.t.length
      ? html`<p class="readout" aria-hidden="true">
          <span><b>${at === null ? "newest" : scores.resolution === "hour" ? stamp(t) : clock(t)}</b></span>
          <span><i class="swatch accent"></i>median <b>${times(p50)}</b></span><span>p99 <b>${times(p99)}</b></span><span><i class="swatch band"></i>greatest <b>${times(top)}</b></span>
          <span class="muted">a point is ${span(scores.step_s)}</span></p>`
      : html`<p class="readout muted">No period was reported in this time.</p>`}
    <${PlotBox} options=${options} data=${data} height=${280} label=${label} onCursor=${setAt} version=${`${scores.from_s} ${scores.to_s} ${scores.alarms.length} ${scores.release.at(-1)}`} />
    <details class="as-text"><summary>The newest periods as a table</summary>
      <div class="scroll-x" tabindex="0" role="region" aria-label="Newest periods"><table><thead><tr><th scope="col">End</th><th scope="col">Median</th><th scope="col">p99</th><th scope="col">Greatest</th><th scope="col">Release</th></tr></thead>
      <tbody>${scores.t.slice(-12).map((end, n, all) => {
        const row = scores.t.length - all.length + n;
        return html`<tr key=${end}><td>${stamp(end)}</td><td>${times(data[3]?.[row])}</td><td>${times(data[2]?.[row])}</td><td>${times(data[1]?.[row])}</td><td>${scores.release[row]}</td></tr>`;
      })}</tbody></table></div>
    </details>
  </div>`;
}
