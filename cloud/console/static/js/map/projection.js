/** Web Mercator and what fits into a picture. Pure. Unit of x and y: the world's width is 1. */

/** @typedef {{ x: number, y: number, scale: number }} Camera  x, y: what is in the middle; scale: pixels a world */

const LIMIT = 85.0511; // where Mercator's square ends

/** @param {number} lon */
export const toX = (lon) => (lon + 180) / 360;
/** @param {number} lat */
export function toY(lat) {
  const s = Math.sin((Math.max(-LIMIT, Math.min(LIMIT, lat)) * Math.PI) / 180);
  return 0.5 - Math.log((1 + s) / (1 - s)) / (4 * Math.PI);
}
/** @param {number} y */
export const toLat = (y) => (Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI;

/**
 * Shows all points, with room around them; the whole world where there are none.
 * @param {[number, number][]} points  x, y
 * @param {number} width
 * @param {number} height
 * @returns {Camera}
 */
export function fit(points, width, height) {
  if (!points.length) return { x: 0.5, y: 0.4, scale: Math.max(width, 200) };
  let [left, right, top, bottom] = [1, 0, 1, 0];
  for (const [x, y] of points) [left, right, top, bottom] = [Math.min(left, x), Math.max(right, x), Math.min(top, y), Math.max(bottom, y)];
  const room = 0.82; // of the picture
  const most = 40_000_000 / 500; // a world in pixels at which 500 m are a pixel: closer says nothing
  const scale = Math.min((width * room) / Math.max(right - left, 1e-9), (height * room) / Math.max(bottom - top, 1e-9), most);
  return { x: (left + right) / 2, y: (top + bottom) / 2, scale };
}

/** Zooms about a point of the picture, which stays where it is. @param {Camera} camera @param {number} factor @param {number} px @param {number} py @param {number} width @param {number} height @returns {Camera} */
export function zoom(camera, factor, px, py, width, height) {
  const scale = Math.max(150, Math.min(4e7, camera.scale * factor));
  const [dx, dy] = [px - width / 2, py - height / 2];
  return { x: camera.x + dx / camera.scale - dx / scale, y: camera.y + dy / camera.scale - dy / scale, scale };
}

/** A round length for the scale bar, in km, and its pixels. @param {Camera} camera @param {number} most  pixels */
export function bar(camera, most) {
  const metersAPixel = (40_075_016.7 * Math.cos((toLat(camera.y) * Math.PI) / 180)) / camera.scale;
  const km = (most * metersAPixel) / 1000;
  const power = 10 ** Math.floor(Math.log10(km));
  const round = [5, 2, 1].find((one) => one * power <= km) ?? 1;
  return { km: round * power, px: (round * power * 1000) / metersAPixel };
}
