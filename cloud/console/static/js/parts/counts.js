/** The five counts; each is a filter. */

import { count } from "../format.js";
import { html } from "../html.js";
import { counts } from "../state/fleet.js";
import { filter, setFilter } from "../state/filter.js";
import { STATUSES } from "../state/rows.js";
import { LABELS, Shape } from "./shape.js";

const MEANS = {
  alarm: "an alarm is open",
  watch: "near its threshold, drifting, or an alarm nobody judged",
  silent: "offline or not heard of",
  updating: "a release is on its way",
  ok: "nothing to see",
};

export function Counts() {
  const chosen = filter.value.status;
  return html`<div class="counts" role="group" aria-label="Filter by status">
    ${STATUSES.map(
      (status) => html`<button type="button" key=${status} class="count" aria-pressed=${chosen === status} title=${`${LABELS[status]}: ${MEANS[status]}`}
        onClick=${() => setFilter({ status: chosen === status ? "" : status })}>
        <span class="count-figure"><${Shape} status=${status} /> <b>${count(counts.value[status])}</b></span>
        <span class="count-name">${LABELS[status]}</span>
      </button>`,
    )}
  </div>`;
}
