/** Login: by name and password, or at the identity provider. */

import { words } from "../api.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { login, me } from "../session.js";

export function Login() {
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const name = useRef(/** @type {HTMLInputElement | null} */ (null));
  useEffect(() => name.current?.focus(), []);
  /** @param {SubmitEvent} event */
  const submit = async (event) => {
    event.preventDefault();
    const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
    setBusy(true);
    try {
      await login(String(form.get("name")), String(form.get("password")));
      // From here on with the new session: nothing of the old one is left in this page.
      const to = new URLSearchParams(location.search).get("to") ?? "/";
      location.assign(to.startsWith("/") && !to.startsWith("//") ? to : "/");
    } catch (failure) {
      setError(words(failure));
      setBusy(false);
    }
  };
  return html`<div class="login panel">
    <h1>Log in</h1>
    <form onSubmit=${submit}>
      <label class="field"><span>Name</span><input ref=${name} name="name" autocomplete="username" autocapitalize="none" spellcheck="false" required /></label>
      <label class="field"><span>Password</span><input name="password" type="password" autocomplete="current-password" required /></label>
      <p class="problem" role="alert">${error}</p>
      <button type="submit" class="primary" disabled=${busy}>Log in</button>
    </form>
    ${me.value?.oidc ? html`<p class="or"><span>or</span></p><a class="button" href="/api/login/oidc">Log in at your organisation</a>` : null}
  </div>`;
}
