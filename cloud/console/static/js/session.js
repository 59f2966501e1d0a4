/** Who is here, and what they may do. */

import { get, post, setCsrf } from "./api.js";
import { computed, signal } from "./html.js";

/** @typedef {import("./types").Me} Me */
/** @typedef {import("./types").Role} Role */

const RANK = { viewer: 1, operator: 2, admin: 3 };
const MARK = "covey-session"; // says only that somebody was logged in here, so the first requests go out together

/** @type {import("../vendor/signals.js").Signal<Me | null>} */
export const me = signal(null);

/** @param {Me} answer */
function welcome(answer) {
  setCsrf(answer.csrf);
  me.value = answer;
  if (answer.name) localStorage.setItem(MARK, "1");
  else localStorage.removeItem(MARK);
  return answer;
}

export const wasHere = () => localStorage.getItem(MARK) === "1";
export const enter = async () => welcome(await get("/api/me"));
/** @param {string} name @param {string} password */
export async function login(name, password) {
  if (!me.peek()) await enter(); // a password filled in at once may be quicker than the token that has to go with it
  return welcome(await post("/api/login", { name, password }));
}

export async function logout() {
  await post("/api/logout");
  localStorage.removeItem(MARK);
}

/** Whether the one who is here has at least this role. @param {Role} role */
export const may = (role) => RANK[me.value?.role ?? "viewer"] >= RANK[role];
export const loggedIn = computed(() => Boolean(me.value?.name));
