/** The one place that binds Preact, htm and signals: every view imports from here. */

import htm from "../vendor/htm.js";
import { h } from "../vendor/preact.js";

export { h, render } from "../vendor/preact.js";
export { useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/hooks.js";
export { batch, computed, effect, signal } from "../vendor/signals.js";

export const html = htm.bind(h);
