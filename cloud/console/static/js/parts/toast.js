/** One line at the bottom that says what happened, with a way back. The newest replaces the one before. */

import { html, signal } from "../html.js";
import { bind } from "../keys.js";

/** @typedef {{ label: string, key: string, run: () => unknown }} Action */
/** @type {import("../../vendor/signals.js").Signal<{ text: string, bad: boolean, action?: Action } | null>} */
const shown = signal(null);
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;

/** @param {string} text @param {{ bad?: boolean, action?: Action }} [options] */
export function toast(text, { bad = false, action } = {}) {
  clearTimeout(timer);
  shown.value = { text, bad, action };
  timer = setTimeout(() => (shown.value = null), bad || action ? 10_000 : 5000);
}

bind({ Escape: () => void (shown.value = null) });

export function Toast() {
  const one = shown.value;
  return html`<div class="toast-place" role="status" aria-live="polite">
    ${one
      ? html`<div class=${`toast ${one.bad ? "bad" : ""}`}>
          <span>${one.text}</span>
          ${one.action
            ? html`<button type="button" class="plain" onClick=${() => one.action?.run()}>${one.action.label} <kbd>${one.action.key}</kbd></button>`
            : null}
        </div>`
      : null}
  </div>`;
}
