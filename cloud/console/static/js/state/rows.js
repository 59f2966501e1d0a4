/**
 * The devices as columns: what the hive draws, the table sorts and the map places. Pure; no signals, no DOM.
 *
 * A row's number is its cell: devices are ordered by group, then by name, as the server sends them. A changed device
 * keeps its row; one that comes, leaves or moves makes a new order (`take` says so).
 */

/** @typedef {import("../types").Status} Status */
/** @typedef {import("../types").DeviceRow} DeviceRow */
/** @typedef {import("../types").Group} Group */

/** @type {Status[]} The order is that of the counts, and of what is drawn on top. */
export const STATUSES = ["alarm", "watch", "silent", "updating", "ok"];
const NUMBER = /** @type {Record<Status, number>} */ (Object.fromEntries(STATUSES.map((name, n) => [name, n])));

export class Rows {
  constructor() {
    /** @type {Group[]} */
    this.groups = [];
    /** @type {string[]} */
    this.names = [];
    /** @type {Map<string, number>} */
    this.row = new Map();
    this.group = new Uint16Array(0);
    this.status = new Uint8Array(0);
    this.ratio = new Float32Array(0); // NaN: no period yet
    this.release = new Int32Array(0);
    this.seen = new Float64Array(0); // NaN: never
    this.lat = new Float32Array(0); // NaN: opted out
    this.lon = new Float32Array(0);
  }

  get size() {
    return this.names.length;
  }

  /** @param {number} n */
  resize(n) {
    this.group = new Uint16Array(n);
    this.status = new Uint8Array(n);
    this.ratio = new Float32Array(n);
    this.release = new Int32Array(n);
    this.seen = new Float64Array(n);
    this.lat = new Float32Array(n);
    this.lon = new Float32Array(n);
  }

  /** Everything anew. @param {Group[]} groups @param {DeviceRow[]} devices */
  load(groups, devices) {
    this.groups = groups;
    this.resize(devices.length);
    this.names = devices.map((one) => one[0]);
    this.row = new Map(this.names.map((name, n) => [name, n]));
    devices.forEach((one, n) => this.put(n, one));
  }

  /** @param {number} n @param {DeviceRow} one */
  put(n, one) {
    this.group[n] = one[1];
    this.status[n] = NUMBER[one[2]] ?? 4;
    this.ratio[n] = one[3] ?? NaN;
    this.release[n] = one[4];
    this.seen[n] = one[5] ?? NaN;
    this.lat[n] = one[6] ?? NaN;
    this.lon[n] = one[7] ?? NaN;
  }

  /** A row as the server sends it. @param {number} n @returns {DeviceRow} */
  get(n) {
    /** @param {number} value */
    const some = (value) => (Number.isNaN(value) ? null : value);
    return [
      /** @type {string} */ (this.names[n]),
      this.group[n],
      STATUSES[this.status[n]],
      some(this.ratio[n]),
      this.release[n],
      some(this.seen[n]),
      some(this.lat[n]),
      some(this.lon[n]),
    ];
  }

  /** Groups in the order of their cells, with as many devices as there are rows. @returns {Group[]} */
  blocks() {
    /** @type {Group[]} */
    const found = [];
    let before = -1;
    for (const index of this.group) {
      if (index !== before) found.push({ name: this.groups[index]?.name ?? "", devices: 0 });
      /** @type {Group} */ (found[found.length - 1]).devices += 1;
      before = index;
    }
    return found;
  }

  /**
   * Takes over what changed.
   * @param {import("../types").Delta} delta
   * @returns {number[] | null} rows to draw anew, or null when the order is another
   */
  take(delta) {
    const groups = delta.groups ?? this.groups;
    const devices = delta.devices ?? [];
    const regrouped = delta.groups !== undefined && !sameNames(groups, this.groups);
    const moved = devices.some((one) => {
      const n = this.row.get(one[0]);
      return n === undefined || groups[one[1]]?.name !== this.groups[this.group[n]]?.name;
    });
    if (!regrouped && !moved && !delta.gone?.some((name) => this.row.has(name))) {
      this.groups = groups;
      return devices.map((one) => {
        const n = /** @type {number} */ (this.row.get(one[0]));
        this.put(n, one);
        return n;
      });
    }
    this.reorder(groups, devices, new Set(delta.gone));
    return null;
  }

  /** @param {Group[]} groups @param {DeviceRow[]} devices @param {Set<string>} gone */
  reorder(groups, devices, gone) {
    const index = new Map(groups.map((group, n) => [group.name, n]));
    const said = new Set(devices.map((one) => one[0]));
    /** @type {DeviceRow[]} */
    const all = devices.filter((one) => !gone.has(one[0]));
    for (let n = 0; n < this.size; n++) {
      const one = this.get(n);
      if (gone.has(one[0]) || said.has(one[0])) continue;
      // Unchanged devices speak of the old list of groups.
      const now = index.get(this.groups[one[1]]?.name ?? "");
      if (now === undefined) continue;
      one[1] = now;
      all.push(one);
    }
    all.sort((a, b) => a[1] - b[1] || (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0)); // as the server does

    this.load(groups, all);
  }
}

/** @param {Group[]} a @param {Group[]} b */
const sameNames = (a, b) => a.length === b.length && a.every((group, n) => group.name === b[n]?.name);
