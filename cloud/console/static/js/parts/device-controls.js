/** What people change of a device: group, labels, parameters, commands, retiring, erasing; each by role. */

import { del, devicePath, patch, post, words } from "../api.js";
import { clock } from "../format.js";
import { html, useState } from "../html.js";
import { go } from "../router.js";
import { may } from "../session.js";
import { groups } from "../state/fleet.js";
import { Panel } from "./bits.js";
import { Confirm } from "./dialog.js";
import { toast } from "./toast.js";

/** @typedef {import("../types").Device} Device */

/**
 * "site=north, owner=kim" as labels.
 * @param {string} text
 * @returns {Record<string, string>}
 */
export function parseLabels(text) {
  const pairs = text.split(/[,\n]/).map((one) => one.trim()).filter(Boolean);
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf("=");
      if (at < 1) throw new Error(`name=value expected, "${pair}" given`);
      return [pair.slice(0, at).trim(), pair.slice(at + 1).trim()];
    }),
  );
}

/** @param {{ device: Device, changed: (now: Device | null) => void }} props */
export function Controls({ device, changed }) {
  const [asking, setAsking] = useState("");
  const [error, setError] = useState("");
  if (!may("operator")) return null;
  const path = devicePath(device.device);
  /** @param {SubmitEvent} event */
  const save = async (event) => {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    const interval = String(form.get("interval")).trim();
    try {
      const labels = parseLabels(String(form.get("labels")));
      const wanted = {
        group: String(form.get("group")).trim() || device.group,
        labels,
        parameters: { summary_interval_s: interval === "" ? null : Number(interval) },
      };
      // The API changes the labels that it is told; one that goes is told as null.
      /** @type {Record<string, unknown>} */
      const change = {};
      if (wanted.group !== device.group) change.group = wanted.group;
      if (JSON.stringify(wanted.labels) !== JSON.stringify(device.labels)) change.labels = { ...Object.fromEntries(Object.keys(device.labels).map((name) => [name, null])), ...wanted.labels };
      if (wanted.parameters.summary_interval_s !== (device.parameters.summary_interval_s ?? null)) change.parameters = wanted.parameters;
      if (!Object.keys(change).length) return toast("Nothing was changed");
      changed(await patch(path, change));
      setError("");
      toast(`Saved ${device.device}`);
    } catch (failure) {
      setError(failure instanceof Error && failure.constructor === Error ? failure.message : words(failure));
    }
  };
  /** @param {"ping" | "summarise"} kind */
  const command = async (kind) => {
    try {
      const sent = /** @type {{ id: string, expires_s: number }} */ (await post(`${path}/commands`, { kind }));
      toast(`Sent ${kind} to ${device.device}; it expires at ${clock(sent.expires_s)}`);
    } catch (failure) {
      toast(words(failure), { bad: true });
    }
  };
  const retire = async () => changed(await patch(path, { state: device.state === "retired" ? "active" : "retired" }));
  const erase = async () => {
    await del(path, { confirm: device.device });
    toast(`Erased all data of ${device.device}`);
    go("/");
  };
  const labels = Object.entries(device.labels).map((pair) => pair.join("=")).join(", ");
  return html`<${Panel} title="Change">
    <form class="controls" key=${`${device.group} ${labels} ${device.parameters.summary_interval_s}`} onSubmit=${save}>
      <label class="field"><span>Group</span><input name="group" list="groups" defaultValue=${device.group} maxlength="64" autocomplete="off" spellcheck="false" /></label>
      <datalist id="groups">${groups.value.map((one) => html`<option key=${one.name} value=${one.name}></option>`)}</datalist>
      <label class="field"><span>Labels <small class="muted">name=value, name=value</small></span><input name="labels" defaultValue=${labels} autocomplete="off" spellcheck="false" /></label>
      <label class="field"><span>Summary every <small class="muted">seconds; empty: its own</small></span><input name="interval" type="number" min="0.1" max="86400" step="any" defaultValue=${device.parameters.summary_interval_s ?? ""} /></label>
      ${error ? html`<p class="problem" role="alert">${error}</p>` : null}
      <div class="buttons"><button type="submit">Save</button>
        <button type="button" onClick=${() => command("ping")}>Ping</button>
        <button type="button" onClick=${() => command("summarise")}>Ask for a summary</button>
        <button type="button" onClick=${() => setAsking("retire")}>${device.state === "retired" ? "Take back into the fleet" : "Retire"}</button>
        ${may("admin") ? html`<button type="button" class="danger" onClick=${() => setAsking("erase")}>Erase its data</button>` : null}</div>
    </form>
    ${asking === "retire"
      ? html`<${Confirm} title=${device.state === "retired" ? "Take back" : "Retire"} text=${device.state === "retired" ? `${device.device} counts in the fleet again.` : `${device.device} leaves the fleet's counts and its rollouts; its data stays.`} action=${device.state === "retired" ? "Take back" : "Retire"} run=${retire} close=${() => setAsking("")} />`
      : null}
    ${asking === "erase"
      ? html`<${Confirm} title="Erase all its data" text=${`Events, summaries, alarms and verdicts of ${device.device} are deleted, with a receipt. This cannot be taken back.`} action="Erase" phrase=${device.device} run=${erase} close=${() => setAsking("")} />`
      : null}
  <//>`;
}
