/** Starts the console: who is here, the fleet, the pages. */

import { get, whenSignedOut, words } from "./api.js";
import { html, render, signal, useEffect, useState } from "./html.js";
import { bind } from "./keys.js";
import { unfollow } from "./live/live.js";
import { Problem, Waiting } from "./parts/bits.js";
import { Help } from "./parts/dialog.js";
import { GLOBAL_KEYS, Shell } from "./parts/shell.js";
import { Toast } from "./parts/toast.js";
import { Fleet } from "./pages/fleet.js";
import { Login } from "./pages/login.js";
import { go, route } from "./router.js";
import { enter, wasHere } from "./session.js";
import { begin } from "./state/fleet.js";

/** @typedef {(props: any) => unknown} View */

/** Pages that come when they are asked for; all of them in an idle moment after the first. @type {Record<string, () => Promise<View>>} */
const LATER = {
  inbox: async () => (await import("./pages/inbox.js")).Inbox,
  why: async () => (await import("./pages/why.js")).Why,
  device: async () => (await import("./pages/device.js")).DevicePage,
  rollouts: async () => (await import("./pages/rollouts.js")).Rollouts,
  learning: async () => (await import("./pages/learning.js")).Learning,
  system: async () => (await import("./pages/system.js")).SystemPage,
  admin: async () => (await import("./pages/admin.js")).Admin,
};
/** @type {Record<string, View>} */
const here = { fleet: Fleet, login: Login };
const trouble = signal("");

/** @param {{ page: string }} props */
function PageView({ page }) {
  const [, setCame] = useState("");
  const [error, setError] = useState(/** @type {unknown} */ (null));
  useEffect(() => {
    if (here[page] || !LATER[page]) return;
    LATER[page]().then((view) => ((here[page] = view), setCame(page)), setError);
  }, [page]);
  const { device, alarm_id, run } = route.value;
  if (here[page]) return html`<${here[page]} key=${`${page} ${device ?? ""} ${alarm_id ?? ""}`} device=${device} alarm_id=${alarm_id} run=${run} />`;
  if (error) return html`<${Problem} error=${error} />`;
  return LATER[page] ? html`<h1 class="loading">${route.value.title}</h1><${Waiting} lines=${8} />` : html`<h1>There is no such page</h1><p><a href="/">To the fleet</a></p>`;
}

function App() {
  return html`<${Shell}>${trouble.value ? html`<p class="problem" role="alert">${trouble.value}</p>` : null}<${PageView} page=${route.value.page} /><//>
    <${Toast} /><${Help} />`;
}

whenSignedOut(() => {
  unfollow();
  if (route.peek().page !== "login") location.assign(`/login?to=${encodeURIComponent(location.pathname + location.search)}`);
});

async function start() {
  // Both at once where somebody was logged in before; the snapshot is the longest wait.
  let early = wasHere() && route.peek().page !== "login" ? get("/api/fleet") : undefined;
  early?.catch(() => {}); // looked at below
  render(html`<${App} />`, /** @type {HTMLElement} */ (document.getElementById("app")));
  bind(GLOBAL_KEYS);
  for (;;) {
    try {
      const me = await enter();
      trouble.value = "";
      if (!me.name) return go(`/login${location.pathname === "/" || location.pathname === "/login" ? location.search : `?to=${encodeURIComponent(location.pathname)}`}`, { replace: true });
      if (route.peek().page === "login") go("/", { replace: true });
      await begin(/** @type {any} */ (early));
      break;
    } catch (error) {
      if (/** @type {any} */ (error).status === 401) return; // on its way to the login
      trouble.value = words(error);
      early = undefined;
      await new Promise((resolve) => setTimeout(resolve, 3000));
    }
  }
  const idle = /** @type {(run: () => void) => void} */ (window.requestIdleCallback ?? ((run) => setTimeout(run, 1500)));
  idle(() => Object.entries(LATER).forEach(([page, load]) => load().then((view) => (here[page] ??= view), () => {})));
}

// A page out of the back-forward cache has an old fleet and no stream.
addEventListener("pageshow", (event) => event.persisted && location.reload());
void start();
