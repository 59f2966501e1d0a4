/** Small things that every page uses: panels, keys on buttons, bars, what to show while there is nothing. */

import { words } from "../api.js";
import { percent } from "../format.js";
import { html, useEffect, useState } from "../html.js";

/** @typedef {import("../../vendor/preact.js").Child} Child */

/** @param {{ title: string, aside?: Child, children?: Child, class?: string }} props */
export function Panel({ title, aside = null, children, class: extra = "" }) {
  return html`<section class=${`panel ${extra}`} aria-label=${title}>
    <header class="panel-head"><h2>${title}</h2>${aside}</header>
    ${children}
  </section>`;
}

/** @param {{ children?: Child }} props */
export const Key = ({ children }) => html`<kbd aria-hidden="true">${children}</kbd>`;

/** What a figure is, over the figure. @param {{ facts: [string, Child][] }} props */
export const Facts = ({ facts }) =>
  html`<dl class="facts">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

/** Shares of a score, greatest first; the first one is the cause. @param {{ shares: import("../types").Share[], most?: number }} props */
export function Bars({ shares, most = 8 }) {
  if (!shares.length) return html`<p class="muted">No channel was named.</p>`;
  const greatest = shares[0]?.share || 1;
  return html`<ul class="bars">
    ${shares.slice(0, most).map(
      ({ channel, share }, n) => html`<li key=${channel}>
        <span class="bar-name">${channel}</span>
        <span class="bar-track" aria-hidden="true"><span class=${`bar ${n === 0 ? "first" : ""}`} style=${{ width: `${(100 * share) / greatest}%` }}></span></span>
        <span class="bar-share">${percent(share)}</span>
      </li>`,
    )}
  </ul>`;
}

/** A sentence with `commands` in it. @param {{ text: string }} props */
export const Said = ({ text }) => html`${text.split("`").map((part, n) => (n % 2 ? html`<code>${part}</code>` : part))}`;

/** @param {{ error: unknown }} props */
export const Problem = ({ error }) => html`<p class="problem" role="alert">${words(error)}</p>`;

/** @param {{ children?: Child }} props */
export const Empty = ({ children }) => html`<p class="empty">${children}</p>`;

/** Holds the place of what is on its way, so that nothing jumps. @param {{ lines?: number }} props */
export const Waiting = ({ lines = 4 }) =>
  html`<div class="placeholder" role="status" aria-label="loading">${Array.from({ length: lines }, (_, n) => html`<span key=${n}></span>`)}</div>`;

/**
 * Asks once, and anew whenever an input changes; what was there stays until the answer comes.
 * @template T
 * @param {() => Promise<T>} ask
 * @param {unknown[]} inputs
 * @returns {{ value: T | null, error: unknown, again: () => void, set: (value: T) => void }}
 */
export function useAsk(ask, inputs) {
  const [state, setState] = useState(/** @type {{ value: T | null, error: unknown }} */ ({ value: null, error: null }));
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    let wanted = true;
    ask().then(
      (value) => wanted && setState({ value, error: null }),
      (error) => wanted && setState((before) => ({ ...before, error })),
    );
    return () => void (wanted = false);
  }, [...inputs, turn]);
  return { ...state, again: () => setTurn((n) => n + 1), set: (value) => setState({ value, error: null }) };
}

/** What to say beside a verdict; it goes into the alarm's history and to whoever trains on verdicts. @param {{ note: string, setNote: (note: string) => void }} props */
export function Note({ note, setNote }) {
  return html`<label class="note"><span>Note</span>
    <input value=${note} maxlength="256" placeholder="why, for the record" autocomplete="off" onInput=${(/** @type {any} */ event) => setNote(event.target.value)}
      onKeyDown=${(/** @type {any} */ event) => (event.key === "Enter" || event.key === "Escape") && event.target.blur()} /></label>`;
}
