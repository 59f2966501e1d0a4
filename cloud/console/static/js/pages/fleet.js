/** Fleet: is anything wrong, and where? */

import { count } from "../format.js";
import { Hive } from "../hive/hive.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { useKeys } from "../keys.js";
import { WorldMap } from "../map/map.js";
import { Counts } from "../parts/counts.js";
import { Key } from "../parts/bits.js";
import { Needs } from "../parts/needs.js";
import { may } from "../session.js";
import { AddDevice } from "../parts/add-device.js";
import { headline, loaded, rows } from "../state/fleet.js";
import { filter, filtered, matching, readFilter, setFilter } from "../state/filter.js";
import { Table } from "../table/table.js";

const VIEWS = ["Hive", "Table", "Map"];
const roomy = matchMedia("(min-width: 900px) and (min-height: 560px)");

export function Fleet() {
  const [view, setView] = useState(Math.max(0, VIEWS.indexOf(new URLSearchParams(location.search).get("view") ?? "Hive")));
  const [fill, setFill] = useState(roomy.matches);
  const [adding, setAdding] = useState(false);
  const search = useRef(/** @type {HTMLInputElement | null} */ (null));
  useEffect(() => {
    readFilter(location.search);
    const changed = () => setFill(roomy.matches);
    roomy.addEventListener("change", changed);
    return () => roomy.removeEventListener("change", changed);
  }, []);
  /** @param {number} n */
  const show = (n) => {
    setView(n);
    const query = new URLSearchParams(location.search);
    if (n) query.set("view", VIEWS[n] ?? "");
    else query.delete("view");
    history.replaceState(history.state, "", query.size ? `/?${query}` : "/");
  };
  const clear = () => setFilter({ status: "", group: "", q: "" });
  useKeys({ 1: () => show(0), 2: () => show(1), 3: () => show(2), "/": () => search.current?.focus(), Escape: clear });

  const { text, detail } = headline.value;
  return html`
    <div class="fleet-head">
      <div class="headline" role="status" aria-live="polite" aria-atomic="true">
        <h1>${loaded.value ? text || "The fleet is quiet" : "Reading the fleet"}</h1>
        <p class="muted">${loaded.value ? detail || `${count(rows.size)} devices` : " "}</p>
      </div>
      <${Counts} />
    </div>
    <div class="fleet-body">
      <section class="panel fleet-view" aria-label="Devices">
        <div class="toolbar">
          <div class="tabs" role="group" aria-label="View">
            ${VIEWS.map((name, n) => html`<button type="button" key=${name} aria-pressed=${view === n} onClick=${() => show(n)}>${name} <${Key}>${n + 1}<//></button>`)}
          </div>
          <div class="toolbar-end">
            ${filtered.value ? html`<button type="button" class="plain chip" onClick=${clear}>${count(matching.value)} fit${filter.value.group ? ` in ${filter.value.group}` : ""}<span aria-hidden="true"> ✕</span><span class="hidden">, clear the filter</span></button>` : null}
            ${may("operator") ? html`<button type="button" class="wide-only" onClick=${() => setAdding(true)}>Add device</button>` : null}
            <label class="search"><span class="hidden">Filter devices or groups</span>
              <input ref=${search} type="search" placeholder="Filter devices or groups" autocomplete="off" spellcheck="false" value=${filter.value.q}
                onInput=${(/** @type {any} */ event) => setFilter({ q: event.target.value })}
                onKeyDown=${(/** @type {any} */ event) => event.key === "Escape" && (event.target.blur(), setFilter({ q: "" }))} /><${Key}>/<//></label>
          </div>
        </div>
        ${!loaded.value ? html`<div class="hive fill" aria-busy="true"></div>` : view === 0 ? html`<${Hive} fill=${fill} />` : view === 1 ? html`<${Table} />` : html`<${WorldMap} />`}
      </section>
      <${Needs} />
    </div>
    ${adding ? html`<${AddDevice} close=${() => setAdding(false)} />` : null}`;
}
