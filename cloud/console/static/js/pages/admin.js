/** Accounts and audit: who may do what, and who did it. */

import { del, get, patch, post, rows as rowsOf, url, words } from "../api.js";
import { stamp } from "../format.js";
import { html, useState } from "../html.js";
import { Empty, Panel, Problem, useAsk, Waiting } from "../parts/bits.js";
import { Confirm } from "../parts/dialog.js";
import { toast } from "../parts/toast.js";
import { may, me } from "../session.js";

/** @typedef {import("../types").Account} Account */
/** @typedef {import("../types").Audit} Audit */

export function Admin() {
  const admin = may("admin");
  return html`<div class="page-head"><div><h1>${admin ? "Accounts and audit" : "Account"}</h1></div></div>
    <div class="split">
      <div class="stack">${admin ? html`<${Accounts} /><${AuditLog} />` : html`<section class="panel"><${Empty}>Only an admin sees accounts and the audit log.<//></section>`}</div>
      <div class="stack">${admin ? html`<${NewAccount} />` : null}${me.value?.accounts ? html`<${Password} />` : null}</div>
    </div>`;
}

/** Grows when an account was added. @type {{ run: () => void }} */
const again = { run: () => {} };

/** @param {() => Promise<unknown>} change @param {string} said */
async function attempt(change, said) {
  try {
    await change();
    toast(said);
  } catch (error) {
    toast(words(error), { bad: true });
  }
  again.run();
}

function Accounts() {
  const list = useAsk(async () => rowsOf(/** @type {import("../types").Page<Account>} */ (await get("/api/accounts"))), []);
  const [gone, setGone] = useState("");
  again.run = list.again;
  const path = (/** @type {string} */ name) => `/api/accounts/${encodeURIComponent(name)}`;
  return html`<${Panel} title="Accounts">
    ${list.error ? html`<${Problem} error=${list.error} />` : list.value === null ? html`<${Waiting} />` : null}
    ${list.value?.length === 0 ? html`<${Empty}>There are no accounts: the console answers on this machine only, and everybody here is an admin. The first account has to be an admin.<//>` : null}
    ${list.value?.length ? html`<div class="scroll-x" tabindex="0" role="region" aria-label="All accounts"><table><thead><tr><th scope="col">Name</th><th scope="col">Role</th><th scope="col">Login</th><th scope="col">Since</th><th scope="col"><span class="hidden">Actions</span></th></tr></thead>
      <tbody>${list.value.map((one) => html`<tr key=${one.name}><td><b>${one.name}</b>${one.disabled ? html` <span class="tag">disabled</span>` : null}</td>
        <td><select aria-label=${`Role of ${one.name}`} value=${one.role} onChange=${(/** @type {any} */ event) => attempt(() => patch(path(one.name), { role: event.target.value }), `${one.name} is ${event.target.value} now`)}>${["viewer", "operator", "admin"].map((role) => html`<option key=${role} value=${role}>${role}</option>`)}</select></td>
        <td>${one.oidc ? "identity provider" : "password"}</td><td class="muted">${stamp(one.created_s)}</td>
        <td class="number"><button type="button" onClick=${() => attempt(() => patch(path(one.name), { disabled: !one.disabled }), `${one.name} was ${one.disabled ? "enabled" : "disabled"}`)}>${one.disabled ? "Enable" : "Disable"}</button> <button type="button" class="danger" onClick=${() => setGone(one.name)}>Delete</button></td></tr>`)}</tbody></table></div>` : null}
    ${gone ? html`<${Confirm} title=${`Delete ${gone}`} text=${`${gone} cannot log in any more. What ${gone} did stays in the audit log.`} action="Delete" run=${async () => (await del(path(gone)), list.again())} close=${() => setGone("")} />` : null}
  <//>`;
}

function NewAccount() {
  /** @param {SubmitEvent} event */
  const submit = async (event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.target);
    const said = new FormData(form);
    const [name, password] = [String(said.get("name")).trim(), String(said.get("password"))];
    await attempt(async () => {
      await post("/api/accounts", { name, role: said.get("role"), ...(password ? { password } : {}) });
      form.reset();
    }, `${name} may log in now`);
  };
  return html`<${Panel} title="Add an account"><form onSubmit=${submit}>
    <label class="field"><span>Name</span><input name="name" required maxlength="64" autocomplete="off" autocapitalize="none" spellcheck="false" /></label>
    <label class="field"><span>Role</span><select name="role">${["viewer", "operator", "admin"].map((role) => html`<option key=${role} value=${role}>${role}</option>`)}</select></label>
    <label class="field"><span>Password <small class="muted">empty: identity provider only</small></span><input name="password" type="password" autocomplete="new-password" /></label>
    <div class="buttons"><button type="submit">Add</button></div></form><//>`;
}

function Password() {
  /** @param {SubmitEvent} event */
  const submit = async (event) => {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.target);
    const said = new FormData(form);
    await attempt(async () => {
      await post("/api/me/password", { old: said.get("old"), new: said.get("new") });
      form.reset();
    }, "Your password was changed");
  };
  return html`<${Panel} title="Your password"><form onSubmit=${submit}>
    <input class="hidden" name="username" autocomplete="username" tabindex="-1" aria-hidden="true" value=${me.value?.name ?? ""} readonly />
    <label class="field"><span>Old</span><input name="old" type="password" required autocomplete="current-password" /></label>
    <label class="field"><span>New</span><input name="new" type="password" required autocomplete="new-password" /></label>
    <div class="buttons"><button type="submit">Change</button></div></form><//>`;
}

function AuditLog() {
  const [afters, setAfters] = useState(/** @type {string[]} */ ([]));
  const after = afters.at(-1) ?? null;
  const { value, error } = useAsk(() => /** @type {Promise<import("../types").Page<Audit>>} */ (get(url("/api/audit", { limit: 50, after }))), [after]);
  const list = value ? rowsOf(value) : [];
  return html`<${Panel} title="Audit log">
    ${error ? html`<${Problem} error=${error} />` : value === null ? html`<${Waiting} />` : null}
    ${list.length ? html`<div class="scroll-x" tabindex="0" role="region" aria-label="Newest changes"><table><thead><tr><th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th><th scope="col">Of</th><th scope="col">Detail</th></tr></thead>
      <tbody>${list.map((one, n) => html`<tr key=${one.id ?? n}><td class="muted">${stamp(one.time_s)}</td><td>${one.actor}</td><td>${one.action}</td><td>${one.target}</td><td class="wrap muted">${one.detail}</td></tr>`)}</tbody></table></div>` : value ? html`<${Empty}>Nothing was changed yet.<//>` : null}
    <div class="buttons">${afters.length ? html`<button type="button" onClick=${() => setAfters(afters.slice(0, -1))}>Newer</button>` : null}${value?.next ? html`<button type="button" onClick=${() => setAfters([...afters, String(value.next)])}>Older</button>` : null}</div>
  <//>`;
}
