/** The five shapes of a status, on a canvas: square, diamond, hollow square, arrow, triangle. Hive and map share them. */

import { STATUSES } from "../state/rows.js";
import { token } from "../theme.js";

/** Steps of a quiet device's blue: how near its score came to the threshold. */
export const LEVELS = 5;

/** @param {number} ratio */
export const level = (ratio) => (ratio > 0 ? Math.min(LEVELS - 1, Math.floor(ratio * 1.25 * LEVELS * 0.8)) : 0);

/** @typedef {{ panel: string, alarm: string, watch: string, silent: string, updating: string, ok: string[] }} Palette */

/** The colours in force. @returns {Palette} */
export function palette() {
  return {
    panel: token("panel"),
    alarm: token("alarm"),
    watch: token("watch"),
    silent: token("silent"),
    updating: token("updating"),
    ok: Array.from({ length: LEVELS }, (_, n) => token(`ok-${n}`)),
  };
}

/**
 * @param {CanvasRenderingContext2D} ctx
 * @param {number} status  index into STATUSES
 * @param {number} x
 * @param {number} y
 * @param {number} size
 * @param {Palette} colours
 * @param {number} [step]  of a quiet device's blue
 */
export function shape(ctx, status, x, y, size, colours, step = 0) {
  const name = STATUSES[status] ?? "ok";
  const [middle, low] = [x + size / 2, y + size];
  ctx.beginPath();
  if (name === "ok") {
    ctx.fillStyle = /** @type {string} */ (colours.ok[step]);
    ctx.fillRect(x, y, size, size);
    return;
  }
  if (name === "silent") {
    const line = Math.max(1, size / 7);
    ctx.strokeStyle = colours.silent;
    ctx.lineWidth = line;
    ctx.strokeRect(x + line, y + line, size - 2 * line, size - 2 * line);
    return;
  }
  ctx.fillStyle = colours[name];
  if (name === "alarm") {
    ctx.moveTo(middle, y);
    ctx.lineTo(x + size, low);
    ctx.lineTo(x, low);
  } else if (name === "watch") {
    ctx.moveTo(middle, y);
    ctx.lineTo(x + size, y + size / 2);
    ctx.lineTo(middle, low);
    ctx.lineTo(x, y + size / 2);
  } else {
    // An arrow down: a release on its way to the device. A triangle alone would look like an alarm turned over.
    const stem = size * 0.3;
    ctx.rect(middle - stem / 2, y, stem, size * 0.55);
    ctx.moveTo(x, y + size * 0.45);
    ctx.lineTo(x + size, y + size * 0.45);
    ctx.lineTo(middle, low);
  }
  ctx.closePath();
  ctx.fill();
}
