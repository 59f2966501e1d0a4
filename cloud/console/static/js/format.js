/** Numbers, times and names as people read them. Pure. */

const grouped = new Intl.NumberFormat("en-US");

/** 9761 -> "9,761". @param {number | null | undefined} n */
export const count = (n) => (n === null || n === undefined ? "–" : grouped.format(n));

/** 2.09 -> "2.09×"; a dash where there is none. @param {number | null | undefined} ratio */
export const times = (ratio) => (ratio === null || ratio === undefined || !Number.isFinite(ratio) ? "–" : `${ratio.toFixed(2)}×`);

/** .56 -> "56 %"; what is not all or nothing is never called so: .9953 -> "99.5 %". @param {number} share */
export function percent(share) {
  if (share > 0 && share < 0.005) return "<1 %";
  return share > 0.99 && share < 1 ? `${(Math.floor(share * 1000) / 10).toFixed(1)} %` : `${Math.round(share * 100)} %`;
}

/**
 * Seconds as the one or two units that matter: 3 -> "3 s", 5400 -> "1 h 30 min".
 * @param {number} s
 */
export function span(s) {
  const whole = Math.max(0, Math.round(s));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/** A delay between two steps: .004 -> "+4 ms". @param {number} s */
export const delay = (s) => (Math.abs(s) < 1 ? `+${Math.round(s * 1000)} ms` : s < 60 ? `+${s.toFixed(1)} s` : `+${span(s)}`);

/** @param {number | null | undefined} at_s @param {number} now_s */
export const ago = (at_s, now_s) => (at_s === null || at_s === undefined ? "never" : `${span(now_s - at_s)} ago`);

/** @param {number} n */
const two = (n) => String(n).padStart(2, "0");

/** Local time of day, "15:20:33". @param {number | null | undefined} at_s */
export function clock(at_s) {
  if (at_s === null || at_s === undefined) return "–";
  const at = new Date(at_s * 1000);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** Local date and time, "2026-11-23 15:20". @param {number | null | undefined} at_s */
export function stamp(at_s) {
  if (at_s === null || at_s === undefined) return "–";
  const at = new Date(at_s * 1000);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
}

/** 1234567 -> "1.2 MB" (powers of 1000). @param {number | null | undefined} n */
export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let [size, unit] = [n, 0];
  while (size >= 1000 && unit < units.length - 1) [size, unit] = [size / 1000, unit + 1];
  return `${unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
}

/** First digits of a digest. @param {string} digest */
export const short = (digest) => (digest.length > 16 ? `${digest.slice(0, 8)}…${digest.slice(-6)}` : digest);

/** "1 device", "2 devices". @param {number} n @param {string} one */
export const many = (n, one) => `${count(n)} ${one}${n === 1 ? "" : "s"}`;
