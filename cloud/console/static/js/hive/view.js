/**
 * The hive's canvas: one fixed cell a device. Every look a cell can have is drawn once (sprites); a change is one copy.
 *
 * Only changed cells are drawn anew; all of them when size, theme, filter, incidents or order are others.
 */

import { cell, layout } from "./layout.js";
import { LEVELS, level, palette, shape } from "./shapes.js";

/** @typedef {import("../state/rows.js").Rows} Rows */
/** @typedef {import("./layout.js").Layout} Layout */

const LOOKS = 4 + LEVELS; // four statuses, and the steps of ok
const QUIET = 4; // index of ok

export class HiveView {
  /** @param {HTMLCanvasElement} canvas @param {Rows} rows */
  constructor(canvas, rows) {
    this.canvas = canvas;
    this.rows = rows;
    this.ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    this.sprites = document.createElement("canvas");
    this.scale = 1;
    /** @type {Layout} */
    this.layout = layout([], 0, 0);
    /** @type {(n: number) => boolean} */
    this.passes = () => true;
    /** @type {Set<string>} */
    this.marked = new Set();
    this.drawn = 0; // cells since the start: tests and the benchmark read it
  }

  /** @param {number} width @param {number} height @param {number} smallest @returns {Layout} */
  measure(width, height, smallest) {
    this.scale = Math.min(3, devicePixelRatio || 1);
    this.layout = layout(this.rows.blocks(), width, height, smallest, this.scale);
    // To whole pixels of the screen, or neighbours would bleed into each other.
    const [w, h] = [Math.round(width * this.scale), Math.round(this.layout.height * this.scale)];
    if (this.canvas.width !== w || this.canvas.height !== h) [this.canvas.width, this.canvas.height] = [w, h];
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${this.layout.height}px`;
    this.colour();
    return this.layout;
  }

  /** Draws every look once, in the colours in force: plain, marked as part of an incident, and dimmed by the filter. */
  colour() {
    const colours = palette();
    const size = Math.ceil(this.layout.pitch * this.scale);
    this.side = size;
    [this.sprites.width, this.sprites.height] = [size * LOOKS, size * 3];
    const ctx = /** @type {CanvasRenderingContext2D} */ (this.sprites.getContext("2d"));
    const gap = Math.max(1, Math.round(size / 8));
    for (let variant = 0; variant < 3; variant++) {
      for (let look = 0; look < LOOKS; look++) {
        const [x, y] = [look * size, variant * size];
        ctx.globalAlpha = 1;
        ctx.fillStyle = colours.panel;
        ctx.fillRect(x, y, size, size);
        if (variant === 1) {
          ctx.globalAlpha = 0.32;
          ctx.fillStyle = colours.alarm;
          ctx.fillRect(x, y, size, size);
        }
        ctx.globalAlpha = variant === 2 ? 0.16 : 1;
        const inset = variant === 1 ? gap : gap / 2;
        shape(ctx, Math.min(look, QUIET), x + inset, y + inset, size - 2 * inset, colours, Math.max(0, look - QUIET));
      }
    }
    this.background = colours.panel;
  }

  drawAll() {
    this.ctx.fillStyle = this.background ?? "";
    this.ctx.fillRect(0, 0, this.canvas.width, this.canvas.height);
    for (let n = 0; n < this.rows.size; n++) this.drawOne(n);
  }

  /** @param {number[]} changed */
  draw(changed) {
    for (const n of changed) this.drawOne(n);
  }

  /** @param {number} n */
  drawOne(n) {
    const at = cell(this.layout, n);
    if (!at) return;
    const side = this.side ?? 1;
    const status = /** @type {number} */ (this.rows.status[n]);
    const look = status === QUIET ? QUIET + level(/** @type {number} */ (this.rows.ratio[n])) : status;
    const marked = status === 0 && this.marked.has(/** @type {string} */ (this.rows.names[n]));
    const variant = !this.passes(n) ? 2 : marked ? 1 : 0;
    this.ctx.drawImage(this.sprites, look * side, variant * side, side, side, Math.round(at.x * this.scale), Math.round(at.y * this.scale), side, side);
    this.drawn += 1;
  }
}
