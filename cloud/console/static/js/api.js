/** Talks to the API (docs/api.md): JSON in and out, the CSRF token on every change, errors as ApiError. */

/** @typedef {import("./types").Me} Me */

export class ApiError extends Error {
  /**
   * @param {number} status  0 where nothing answered
   * @param {string} code
   * @param {string} message
   * @param {number} retryAfter_s
   */
  constructor(status, code, message, retryAfter_s = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter_s = retryAfter_s;
  }
}

let csrf = "";
/** @type {() => void} */
let onSignedOut = () => {};

/** @param {string} token */
export const setCsrf = (token) => void (csrf = token);

/** What to do when a session has ended. @param {() => void} then */
export const whenSignedOut = (then) => void (onSignedOut = then);

/**
 * @template T
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<T>}
 */
async function call(method, path, body) {
  /** @type {Record<string, string>} */
  const headers = { accept: "application/json" };
  if (method !== "GET") headers["x-csrf-token"] = csrf;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store" });
  } catch {
    throw new ApiError(0, "unreachable", "the console does not answer: is it running, and is this machine connected?");
  }
  const text = await answer.text();
  /** @type {any} */
  let value = null;
  try {
    value = text ? JSON.parse(text) : null;
  } catch {
    value = { error: `JSON expected, ${answer.headers.get("content-type")} received`, code: "not_json" };
    if (answer.ok) throw new ApiError(answer.status, value.code, value.error);
  }
  if (answer.ok) return value;
  if (answer.status === 401 && value?.code === "login_needed") onSignedOut();
  throw new ApiError(
    answer.status,
    value?.code ?? "error",
    value?.error ?? `${answer.status} ${answer.statusText}`,
    Number(answer.headers.get("retry-after") ?? 0),
  );
}

/** @template T @param {string} path @returns {Promise<T>} */
export const get = (path) => call("GET", path);
/** @template T @param {string} path @param {unknown} [body] @returns {Promise<T>} */
export const post = (path, body = {}) => call("POST", path, body);
/** @template T @param {string} path @param {unknown} body @returns {Promise<T>} */
export const patch = (path, body) => call("PATCH", path, body);
/** @template T @param {string} path @param {unknown} [body] @returns {Promise<T>} */
export const del = (path, body) => call("DELETE", path, body);

/**
 * A path with its query; what is empty is left out.
 * @param {string} path
 * @param {Record<string, string | number | boolean | null | undefined>} query
 */
export function url(path, query) {
  const said = Object.entries(query).filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false);
  return said.length ? `${path}?${new URLSearchParams(said.map(([name, value]) => [name, String(value)]))}` : path;
}

/** @param {string} device */
export const devicePath = (device) => `/api/devices/${encodeURIComponent(device)}`;

/** @param {import("./types").AlarmKey} key */
export const alarmPath = (key) => `/api/alarms/${encodeURIComponent(key.device)}/${encodeURIComponent(key.alarm_id)}`;

/**
 * The rows of a list's page, under whatever name the list gives them.
 * @template T
 * @param {import("./types").Page<T>} page
 * @returns {T[]}
 */
export function rows(page) {
  if (Array.isArray(page)) return page;
  const found = Object.values(page).find((value) => Array.isArray(value));
  return Array.isArray(found) ? found : [];
}

/** What to tell a person about a failure. @param {unknown} error */
export function words(error) {
  if (!(error instanceof ApiError)) return String(error);
  if (error.status === 429 && error.retryAfter_s) return `${error.message}; try again in ${error.retryAfter_s} s`;
  if (error.code === "csrf") return `${error.message}; load the page again`;
  return error.message;
}
