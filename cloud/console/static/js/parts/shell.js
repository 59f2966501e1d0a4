/** What stands around every page: navigation, how live it is, who is here, and what is insecure. */

import { count, span } from "../format.js";
import { html, signal, useState } from "../html.js";
import { go, route } from "../router.js";
import { loggedIn, logout, may, me } from "../session.js";
import { counts, linkage, now_s, skew_s } from "../state/fleet.js";
import { theme, toggleTheme } from "../theme.js";
import { Said } from "./bits.js";

/** @type {[string, string, string, string][]} page, address, name, icon */
const PAGES = [
  ["fleet", "/", "Fleet", "M2 2h5v5H2zM9 2h5v5H9zM2 9h5v5H2zM9 9h5v5H9z"],
  ["inbox", "/inbox", "Inbox", "M2 9 4 2h8l2 7v5H2zm0 0h3.5l1 2h3l1-2H14"],
  ["rollouts", "/rollouts", "Rollouts", "M8 2v9m-4-4 4 4 4-4M2 14h12"],
  ["learning", "/learning", "Learning", "M2 13 6 8l3 3 5-8m-4 0h4v4"],
  ["system", "/system", "System", "M2 3h12v4H2zM2 9h12v4H2zM4.5 5h.01M4.5 11h.01"],
];

/** Pages where a list is filtered by the key `/`. */
export const helpOpen = signal(false);

function Nav() {
  const now = route.value.page;
  const inbox = counts.value.inbox;
  return html`<nav class="nav" aria-label="Pages">
    ${PAGES.map(([page, path, name, icon]) => {
      const here = now === page || (page === "inbox" && now === "why") || (page === "fleet" && now === "device");
      return html`<a key=${page} href=${path} aria-current=${here ? "page" : undefined}>
        <svg viewBox="0 0 16 16" width="16" height="16" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round" aria-hidden="true"><path d=${icon} /></svg>
        <span>${name}</span>
        ${page === "inbox" && inbox ? html` <span class="badge" aria-label=${`${count(inbox)} need a verdict`}>${inbox > 999 ? "999+" : inbox}</span>` : null}
      </a>`;
    })}
  </nav>`;
}

/** Says what is true: live, trying, or since when nothing has been heard. */
export function LiveMark() {
  const { state, since_s, heard_s } = linkage.value;
  const here_s = now_s.value - skew_s.value;
  const stale_s = here_s - (heard_s || since_s);
  let [look, text] = ["wait", "connecting"];
  if (state === "live") [look, text] = ["live", "live"];
  else if (state === "reconnecting" && stale_s < 10) text = "reconnecting";
  else if (state === "reconnecting") [look, text] = ["stale", `stale since ${span(stale_s)}`];
  else if (state === "signed-out") [look, text] = ["stale", "signed out"];
  return html`<span class=${`live-mark ${look}`} title=${look === "stale" ? "What you see is old: the console does not answer" : "Changes arrive as they are stored"}>
    <i aria-hidden="true"></i><span>${text}</span>
  </span>`;
}

function Who() {
  const [open, setOpen] = useState(false);
  const one = me.value;
  if (!one?.name) return null;
  if (!one.accounts) return html`<span class="who muted" title="There are no accounts: everybody on this machine is an admin">local admin</span>`;
  return html`<div class="who" onKeyDown=${(/** @type {KeyboardEvent} */ event) => event.key === "Escape" && setOpen(false)}>
    <button type="button" class="plain" aria-expanded=${open} aria-haspopup="true" onClick=${() => setOpen(!open)}>${one.name} <span class="muted">${one.role}</span></button>
    ${open
      ? html`<div class="menu">
          ${may("admin") ? html`<a href="/admin" onClick=${() => setOpen(false)}>Accounts and audit</a>` : null}
          <a href="/admin?password" onClick=${() => setOpen(false)}>Change password</a>
          <button type="button" onClick=${() => logout().finally(() => location.assign("/login"))}>Log out</button>
        </div>`
      : null}
  </div>`;
}

/** @param {{ children?: import("../../vendor/preact.js").Child }} props */
export function Shell({ children }) {
  const notices = me.value?.notices ?? [];
  return html`
    <a class="skip" href="#main">Skip to the page</a>
    <header class="top">
      <a class="brand" href="/" aria-label="covey, fleet">
        <svg viewBox="0 0 24 16" width="24" height="16" aria-hidden="true" fill="currentColor"><path d="M1 10 5 6l4 4-4 1zM8 5l4-4 4 4-4 1zM15 12l4-4 4 4-4 1z" /></svg>
        <span>covey</span>
      </a>
      ${loggedIn.value ? html`<${Nav} />` : html`<span class="nav"></span>`}
      <div class="top-end">
        ${loggedIn.value ? html`<${LiveMark} />` : null}
        <${Who} />
        <button type="button" class="icon" aria-label=${`Use the ${theme.value === "dark" ? "light" : "dark"} theme`} onClick=${toggleTheme}>
          <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><circle cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" stroke-width="1.5" /><path d="M8 2a6 6 0 0 1 0 12Z" fill="currentColor" /></svg>
        </button>
        <button type="button" class="icon wide-only" aria-label="Keys" onClick=${() => (helpOpen.value = true)}>?</button>
      </div>
    </header>
    ${notices.length ? html`<${Notices} notices=${notices} />` : null}
    <main id="main" tabindex="-1" class=${`page page-${route.value.page}`}>${children}</main>`;
}

/** @param {{ notices: string[] }} props */
function Notices({ notices }) {
  const mark = notices.join("\n");
  const [gone, setGone] = useState(sessionStorage.getItem("covey-notices") === mark);
  if (gone) return null;
  return html`<aside class="notices" aria-label="Notices">
    <p><${Said} text=${notices[0]} />${notices.length > 1 ? html` <a href="/system">and ${notices.length - 1} more</a>` : null}</p>
    <button type="button" class="plain" onClick=${() => (sessionStorage.setItem("covey-notices", mark), setGone(true))}>Hide</button>
  </aside>`;
}

/** Keys that work on every page. */
export const GLOBAL_KEYS = {
  "g f": () => go("/"),
  "g a": () => go("/inbox"),
  "g r": () => go("/rollouts"),
  "g l": () => go("/learning"),
  "g s": () => go("/system"),
  t: toggleTheme,
  "?": () => void (helpOpen.value = !helpOpen.value),
};
