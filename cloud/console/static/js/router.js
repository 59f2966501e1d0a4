/** Addresses to pages, links without loading anew, and where the focus goes. */

import { signal } from "./html.js";

/** @typedef {{ page: string, title: string, device?: string, alarm_id?: string, run?: string }} Route */

/** What an address means. Pure. @param {string} path @returns {Route} */
export function parse(path) {
  const parts = path.split("/").filter(Boolean).map(decodeURIComponent);
  const [first = "", second = "", ...more] = parts;
  if (first === "") return { page: "fleet", title: "Fleet" };
  if (first === "why" && more.length) return { page: "why", title: `Why ${second}`, device: second, alarm_id: more.join("/") };
  if (first === "devices" && second) return { page: "device", title: second, device: second };
  if (first === "learning") return second ? { page: "learning", title: `Run ${second}`, run: second } : { page: "learning", title: "Learning" };
  const titles = { inbox: "Inbox", rollouts: "Rollouts", system: "System", login: "Log in", admin: "Accounts" };
  const title = titles[/** @type {keyof typeof titles} */ (first)];
  return title && !second ? { page: first, title } : { page: "missing", title: "No such page" };
}

/** @param {string} device */
export const toDevice = (device) => `/devices/${encodeURIComponent(device)}`;
/** @param {import("./types").AlarmKey} key */
export const toWhy = (key) => `/why/${encodeURIComponent(key.device)}/${encodeURIComponent(key.alarm_id)}`;

export const route = signal(parse(location.pathname));

function arrive() {
  route.value = parse(location.pathname);
  document.title = `${route.value.title} · covey`;
}

/** @param {string} path @param {{ replace?: boolean }} [options] */
export function go(path, { replace = false } = {}) {
  if (path === location.pathname + location.search) return;
  if (replace) history.replaceState(null, "", path);
  else history.pushState(null, "", path);
  arrive();
  scrollTo(0, 0);
  // A reader of the screen begins where the page begins; nothing is drawn around it.
  requestAnimationFrame(() => /** @type {HTMLElement | null} */ (document.querySelector("main"))?.focus({ preventScroll: true }));
}

addEventListener("popstate", arrive);
document.addEventListener("click", (event) => {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const link = /** @type {HTMLElement} */ (event.target).closest?.("a[href]");
  if (!(link instanceof HTMLAnchorElement) || link.origin !== location.origin || link.target || link.hasAttribute("download")) return;
  if (link.pathname.startsWith("/api/") || link.getAttribute("href")?.startsWith("#")) return;
  event.preventDefault();
  go(link.pathname + link.search);
});
arrive();
