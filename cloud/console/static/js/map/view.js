/** The map's canvas: land, devices (alarms on top), names of groups where they find room. */

import { palette, shape, level } from "../hive/shapes.js";
import { token } from "../theme.js";
import { bar, fit, toX, toY, zoom } from "./projection.js";

/** @typedef {import("../state/rows.js").Rows} Rows */

/** The land as rings of (x, y), loaded once and only by a map. @returns {Promise<[number, number][][]>} */
async function loadLand() {
  const [answer] = await Promise.all([fetch(new URL("../../vendor/land-50m.json", import.meta.url)), import("../../vendor/topojson-client.js")]);
  const world = await answer.json();
  const { topojson } = /** @type {any} */ (globalThis);
  const land = topojson.feature(world, world.objects.land);
  /** @type {number[][][]} */
  const polygons = land.features.flatMap((/** @type {any} */ one) => (one.geometry.type === "Polygon" ? one.geometry.coordinates : one.geometry.coordinates.flat()));
  return polygons.map((ring) => ring.map(([lon = 0, lat = 0]) => [toX(lon), toY(lat)]));
}
/** @type {Promise<[number, number][][]> | null} */
let land = null;

export class MapView {
  /** @param {HTMLCanvasElement} canvas @param {Rows} rows */
  constructor(canvas, rows) {
    this.canvas = canvas;
    this.rows = rows;
    this.ctx = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    this.width = 0;
    this.height = 0;
    this.scale = 1;
    /** @type {import("./projection.js").Camera | null} */
    this.camera = null;
    /** @type {[number, number][][]} */
    this.rings = [];
    /** @type {(n: number) => boolean} */
    this.passes = () => true;
    this.waiting = false;
    land ??= loadLand();
    land.then((rings) => ((this.rings = rings), this.soon()), () => {}); // devices are shown without it, too
  }

  /** @param {number} width @param {number} height */
  resize(width, height) {
    [this.width, this.height, this.scale] = [width, height, Math.min(3, devicePixelRatio || 1)];
    [this.canvas.width, this.canvas.height] = [Math.round(width * this.scale), Math.round(height * this.scale)];
    this.soon();
  }

  places() {
    /** @type {[number, number][]} */
    const found = [];
    for (let n = 0; n < this.rows.size; n++) {
      const lat = /** @type {number} */ (this.rows.lat[n]);
      if (!Number.isNaN(lat) && this.passes(n)) found.push([toX(/** @type {number} */ (this.rows.lon[n])), toY(lat)]);
    }
    return found;
  }

  fit() {
    this.camera = fit(this.places(), this.width, this.height);
    this.soon();
  }

  /** @param {number} factor @param {number} [x] @param {number} [y] */
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    if (this.camera) this.camera = zoom(this.camera, factor, x, y, this.width, this.height);
    this.soon();
  }

  /** @param {number} dx @param {number} dy */
  pan(dx, dy) {
    if (!this.camera) return;
    this.camera = { ...this.camera, x: this.camera.x - dx / this.camera.scale, y: this.camera.y - dy / this.camera.scale };
    this.soon();
  }

  soon() {
    if (this.waiting || !this.width) return;
    this.waiting = true;
    requestAnimationFrame(() => ((this.waiting = false), this.draw()));
  }

  draw() {
    this.camera ??= fit(this.places(), this.width, this.height);
    const { ctx, camera } = this;
    const px = (/** @type {number} */ x) => (x - camera.x) * camera.scale + this.width / 2;
    const py = (/** @type {number} */ y) => (y - camera.y) * camera.scale + this.height / 2;
    ctx.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    ctx.fillStyle = token("water");
    ctx.fillRect(0, 0, this.width, this.height);
    ctx.beginPath();
    for (const ring of this.rings) ring.forEach(([x, y], n) => (n ? ctx.lineTo(px(x), py(y)) : ctx.moveTo(px(x), py(y))));
    ctx.fillStyle = token("land");
    ctx.fill("evenodd");
    ctx.strokeStyle = token("coast");
    ctx.lineWidth = 1;
    ctx.stroke();
    this.drawDevices(px, py);
  }

  /** @param {(x: number) => number} px @param {(y: number) => number} py */
  drawDevices(px, py) {
    const { ctx, rows } = this;
    const colours = palette();
    /** @type {Map<number, { x: number, y: number, top: number, n: number }>} */
    const middles = new Map();
    for (const status of [4, 2, 3, 1, 0]) {
      const size = status === 4 ? 4 : status === 0 ? 11 : 8;
      ctx.globalAlpha = status === 4 ? 0.75 : 1;
      for (let n = 0; n < rows.size; n++) {
        if (rows.status[n] !== status || Number.isNaN(rows.lat[n])) continue;
        const [x, y] = [px(toX(/** @type {number} */ (rows.lon[n]))), py(toY(/** @type {number} */ (rows.lat[n])))];
        const group = /** @type {number} */ (rows.group[n]);
        const middle = middles.get(group) ?? { x: 0, y: 0, top: Infinity, n: 0 };
        middles.set(group, { x: middle.x + x, y: middle.y + y, top: Math.min(middle.top, y), n: middle.n + 1 });
        if (!this.passes(n) || x < -12 || y < -12 || x > this.width + 12 || y > this.height + 12) continue;
        shape(ctx, status, x - size / 2, y - size / 2, size, colours, status === 4 ? Math.max(2, level(/** @type {number} */ (rows.ratio[n]))) : 0);
      }
    }
    ctx.globalAlpha = 1;
    this.drawNames(middles);
    this.drawBar();
  }

  /** The largest groups first; a name that finds no room is left out. @param {Map<number, { x: number, y: number, top: number, n: number }>} middles */
  drawNames(middles) {
    const { ctx } = this;
    ctx.font = "600 13px Inter, system-ui, sans-serif";
    ctx.textAlign = "center";
    ctx.lineWidth = 3;
    ctx.strokeStyle = token("water");
    ctx.fillStyle = token("ink");
    /** @type {[number, number, number][]} */
    const taken = [];
    for (const [group, sum] of [...middles].sort((a, b) => b[1].n - a[1].n)) {
      const name = this.rows.groups[group]?.name ?? "";
      const half = ctx.measureText(name).width / 2 + 6;
      const [x, above] = [sum.x / sum.n, sum.top - 10];
      const y = [above, above - 18, sum.y / sum.n, sum.y / sum.n + 40].find((at) => taken.every(([tx, ty, th]) => Math.abs(ty - at) > 18 || Math.abs(tx - x) > th + half));
      if (y === undefined) continue;
      taken.push([x, y, half]);
      ctx.strokeText(name, x, y);
      ctx.fillText(name, x, y);
    }
  }

  drawBar() {
    const { ctx } = this;
    const { km, px } = bar(/** @type {import("./projection.js").Camera} */ (this.camera), 160);
    const [x, y] = [16, this.height - 18];
    ctx.fillStyle = token("muted");
    ctx.fillRect(x, y, px, 2);
    ctx.textAlign = "left";
    ctx.font = "500 12px Inter, system-ui, sans-serif";
    ctx.fillText(km >= 1 ? `${km} km` : `${km * 1000} m`, x, y - 6);
  }

  /** The device drawn nearest to a place of the picture, within reach. @param {number} x @param {number} y */
  hit(x, y) {
    if (!this.camera) return -1;
    let [best, nearest] = [-1, 12 ** 2];
    for (let n = 0; n < this.rows.size; n++) {
      if (Number.isNaN(this.rows.lat[n]) || !this.passes(n)) continue;
      const dx = (toX(/** @type {number} */ (this.rows.lon[n])) - this.camera.x) * this.camera.scale + this.width / 2 - x;
      const dy = (toY(/** @type {number} */ (this.rows.lat[n])) - this.camera.y) * this.camera.scale + this.height / 2 - y;
      const far = dx * dx + dy * dy + (this.rows.status[n] ?? 4); // between equals the worse status
      if (far < nearest) [best, nearest] = [n, far];
    }
    return best;
  }
}
