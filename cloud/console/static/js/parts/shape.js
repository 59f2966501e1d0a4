/** A status as a shape, in the page. The hive draws the same ones on its canvas. */

import { html } from "../html.js";

/** @type {Record<string, string>} */
export const LABELS = { alarm: "Alarm", watch: "Watch", silent: "Silent", updating: "Updating", ok: "OK" };

/** @type {Record<string, unknown>} */
const PATHS = {
  alarm: html`<path d="M6 1 11.5 11H.5Z" />`,
  watch: html`<path d="M6 .5 11.5 6 6 11.5.5 6Z" />`,
  silent: html`<rect x="1.5" y="1.5" width="9" height="9" fill="none" stroke="currentColor" stroke-width="1.5" />`,
  updating: html`<path d="M4.5.5h3V5h4L6 11.5.5 5h4Z" />`,
  ok: html`<rect x="1" y="1" width="10" height="10" rx="1" />`,
};

/** @param {{ status: string, label?: boolean }} props */
export function Shape({ status, label = false }) {
  return html`<svg class=${`shape ${status}`} viewBox="0 0 12 12" width="12" height="12" fill="currentColor"
    role=${label ? "img" : undefined} aria-label=${label ? LABELS[status] : undefined} aria-hidden=${label ? undefined : "true"}>${PATHS[status] ?? PATHS.ok}</svg>`;
}
