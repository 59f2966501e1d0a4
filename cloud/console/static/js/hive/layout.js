/** Where each device's cell lies. Pure: sizes in, places out, in CSS pixels. */

/** @typedef {{ name: string, first: number, size: number, top: number, rows: number, labelTop: number }} Block */
/** @typedef {{ pitch: number, columns: number, left: number, height: number, blocks: Block[] }} Layout */

const LARGEST = 22;
const GUTTER = 142; // the groups' labels, beside their cells
const LABEL_ABOVE = 24; // on narrow screens above them
const LABEL_BESIDE = 32; // two lines
const GAP = 8;
const WIDEST_GAP = 28;

/**
 * The largest cells with which the whole fleet fits into the height; the smallest allowed where none do.
 *
 * Cells are whole pixels of the screen, so what is left of the height goes between the groups.
 * @param {{ name: string, devices: number }[]} groups
 * @param {number} width
 * @param {number} height  0: as high as it gets
 * @param {number} smallest
 * @param {number} [scale]  pixels of the screen a CSS pixel
 * @returns {Layout}
 */
export function layout(groups, width, height, smallest = 6, scale = 1) {
  const beside = width >= 560;
  const sizes = groups.filter((group) => group.devices > 0);
  if (height <= 0) return place(sizes, width, Math.max(smallest, 8), beside, GAP);
  let pitch = LARGEST;
  while (pitch > smallest && place(sizes, width, pitch, beside, GAP).height > height) pitch -= 1 / Math.max(1, Math.round(scale));
  const found = place(sizes, width, Math.max(pitch, smallest), beside, GAP);
  const spare = Math.floor((height - found.height) / Math.max(1, sizes.length - 1));
  return spare > 0 && sizes.length > 1 ? place(sizes, width, found.pitch, beside, Math.min(WIDEST_GAP, GAP + spare)) : found;
}

/** @param {{ name: string, devices: number }[]} groups @param {number} width @param {number} pitch @param {boolean} beside @param {number} gap @returns {Layout} */
function place(groups, width, pitch, beside, gap) {
  const left = beside ? GUTTER : 0;
  const columns = Math.max(1, Math.floor((width - left) / pitch));
  /** @type {Block[]} */
  const blocks = [];
  let [first, y] = [0, 0];
  for (const { name, devices } of groups) {
    const rows = Math.ceil(devices / columns);
    const top = beside ? y : y + LABEL_ABOVE;
    blocks.push({ name, first, size: devices, top, rows, labelTop: y });
    first += devices;
    y = Math.max(top + rows * pitch, beside ? y + LABEL_BESIDE : 0) + gap;
  }
  return { pitch, columns, left, height: Math.max(0, y - gap), blocks };
}

/** The block a row belongs to. @param {Layout} one @param {number} n @returns {Block | undefined} */
export function blockOf(one, n) {
  let [low, high] = [0, one.blocks.length - 1];
  while (low <= high) {
    const middle = (low + high) >> 1;
    const block = /** @type {Block} */ (one.blocks[middle]);
    if (n < block.first) high = middle - 1;
    else if (n >= block.first + block.size) low = middle + 1;
    else return block;
  }
  return undefined;
}

/** Upper left corner of a row's cell. @param {Layout} one @param {number} n @returns {{ x: number, y: number } | null} */
export function cell(one, n) {
  const block = blockOf(one, n);
  if (!block) return null;
  const at = n - block.first;
  return { x: one.left + (at % one.columns) * one.pitch, y: block.top + Math.floor(at / one.columns) * one.pitch };
}

/** The row whose cell is there, or -1. @param {Layout} one @param {number} x @param {number} y */
export function hit(one, x, y) {
  const column = Math.floor((x - one.left) / one.pitch);
  if (column < 0 || column >= one.columns) return -1;
  const block = one.blocks.find((b) => y >= b.top && y < b.top + b.rows * one.pitch);
  if (!block) return -1;
  const at = Math.floor((y - block.top) / one.pitch) * one.columns + column;
  return at < block.size ? block.first + at : -1;
}

/** One step by an arrow key; stays where there is nothing. @param {Layout} one @param {number} n @param {string} key @param {number} size */
export function step(one, n, key, size) {
  if (n < 0) return size ? 0 : -1;
  if (key === "ArrowLeft") return Math.max(0, n - 1);
  if (key === "ArrowRight") return Math.min(size - 1, n + 1);
  if (key === "Home") return 0;
  if (key === "End") return size - 1;
  const block = blockOf(one, n);
  if (!block) return n;
  const column = (n - block.first) % one.columns;
  const down = key === "ArrowDown";
  const within = n + (down ? one.columns : -one.columns);
  if (within >= block.first && within < block.first + block.size) return within;
  const other = one.blocks[one.blocks.indexOf(block) + (down ? 1 : -1)];
  if (!other) return n;
  const row = down ? 0 : Math.floor((other.size - 1) / one.columns);
  return Math.min(other.first + other.size - 1, other.first + row * one.columns + column);
}
