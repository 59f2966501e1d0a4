/** Dialogs on the browser's own <dialog>: focus is held inside and comes back, Esc closes. */

import { html, useEffect, useRef, useState } from "../html.js";
import { words } from "../api.js";
import { HELP } from "../keys.js";
import { helpOpen } from "./shell.js";

/** @param {{ title: string, close: () => void, children?: import("../../vendor/preact.js").Child, class?: string }} props */
export function Dialog({ title, close, children, class: extra = "" }) {
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(() => {
    const before = document.activeElement;
    box.current?.showModal();
    return () => before instanceof HTMLElement && before.focus();
  }, []);
  return html`<dialog ref=${box} class=${`dialog ${extra}`} aria-label=${title} onClose=${close}
    onClick=${(/** @type {MouseEvent} */ event) => event.target === box.current && close()}>
    <div class="dialog-body"><header><h2>${title}</h2><button type="button" class="icon" aria-label="Close" onClick=${close}>✕</button></header>${children}</div>
  </dialog>`;
}

/**
 * Asks before something that others notice; with `phrase` it has to be typed.
 * @param {{ title: string, text: string, action: string, phrase?: string, extra?: import("../../vendor/preact.js").Child, run: () => Promise<unknown>, close: () => void }} props
 */
export function Confirm({ title, text, action, phrase = "", extra = null, run, close }) {
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState("");
  /** @param {Event} event */
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await run();
      close();
    } catch (failure) {
      setError(words(failure));
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${title} close=${close}>
    <form onSubmit=${submit}>
      <p>${text}</p>
      ${extra}
      ${phrase
        ? html`<label class="field"><span>Type <code>${phrase}</code> to go on</span>
            <input name="phrase" autocomplete="off" spellcheck="false" value=${typed} onInput=${(/** @type {any} */ e) => setTyped(e.target.value)} /></label>`
        : null}
      ${error ? html`<p class="problem" role="alert">${error}</p>` : null}
      <div class="buttons"><button type="button" onClick=${close}>Cancel</button>
        <button type="submit" class="primary" disabled=${busy || (phrase !== "" && typed !== phrase)}>${action}</button></div>
    </form>
  <//>`;
}

export function Help() {
  if (!helpOpen.value) return null;
  return html`<${Dialog} title="Keys" class="help" close=${() => (helpOpen.value = false)}>
    <div class="help-columns">
      ${HELP.map(
        ([title, keys]) => html`<section key=${title}><h3>${title}</h3><dl>
          ${/** @type {string[][]} */ (keys).map(([key = "", what]) => html`<div key=${key}><dt>${key.split(" ").map((one) => html`<kbd>${one}</kbd> `)}</dt><dd>${what}</dd></div>`)}
        </dl></section>`,
      )}
    </div>
  <//>`;
}
