/** Dark or light: the system's wish, until somebody says otherwise here. Canvases read their colours from the same tokens. */

import { signal } from "./html.js";

const wish = matchMedia("(prefers-color-scheme: light)");
const said = () => document.documentElement.dataset.theme;

/** "dark" | "light", as shown now. */
export const theme = signal(said() || (wish.matches ? "light" : "dark"));

wish.addEventListener("change", () => {
  if (!said()) theme.value = wish.matches ? "light" : "dark";
});

export function toggleTheme() {
  const next = theme.peek() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("covey-theme", next);
  theme.value = next;
}

/** A colour of css/tokens.css, in force now. @param {string} name */
export const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
