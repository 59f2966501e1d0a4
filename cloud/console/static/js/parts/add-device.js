/** Adds a device before it has said anything. */

import { post, words } from "../api.js";
import { html, useState } from "../html.js";
import { go, toDevice } from "../router.js";
import { groups } from "../state/fleet.js";
import { Dialog } from "./dialog.js";

/** @param {{ close: () => void }} props */
export function AddDevice({ close }) {
  const [error, setError] = useState("");
  /** @param {SubmitEvent} event */
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    const device = String(form.get("device")).trim();
    const group = String(form.get("group")).trim();
    try {
      await post("/api/devices", { device, ...(group ? { group } : {}) });
      close();
      go(toDevice(device));
    } catch (failure) {
      setError(words(failure));
    }
  };
  return html`<${Dialog} title="Add a device" close=${close}>
    <form onSubmit=${submit}>
      <label class="field"><span>Name</span><input name="device" required maxlength="64" autocomplete="off" spellcheck="false" /></label>
      <label class="field"><span>Group</span><input name="group" list="groups" maxlength="64" autocomplete="off" placeholder="default" /></label>
      <datalist id="groups">${groups.value.map((one) => html`<option key=${one.name} value=${one.name}></option>`)}</datalist>
      ${error ? html`<p class="problem" role="alert">${error}</p>` : null}
      <div class="buttons"><button type="button" onClick=${close}>Cancel</button><button type="submit" class="primary">Add</button></div>
    </form>
  <//>`;
}
