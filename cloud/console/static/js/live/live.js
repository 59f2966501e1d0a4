/**
 * A tab's end of the live stream. It holds back what arrives until the tab has its snapshot, drops what the snapshot
 * already has, and hands the rest on once per animation frame.
 *
 * Who holds the stream: a SharedWorker; where there is none, the tab that has the lock, which tells the others over
 * a BroadcastChannel; where there is neither, each tab for itself.
 */

import { Source } from "./source.js";

/** @typedef {import("../types").LiveMessage} LiveMessage */

/** @type {{ post: (message: { type: string, cursor?: number }) => void } | null} */
let holder = null;
/** @type {number | null} */
let from = null;
/** @type {LiveMessage[]} */
let waiting = [];
let scheduled = false;
/** @type {(messages: LiveMessage[]) => void} */
let deliver = () => {};

function flush() {
  if (!scheduled) return; // the other of the two was earlier
  scheduled = false;
  const [messages] = [waiting, (waiting = [])];
  deliver(messages.filter((one) => !("id" in one) || one.type === "snapshot" || one.id > /** @type {number} */ (from)));
}

/** @param {LiveMessage} message */
function arrived(message) {
  waiting.push(message);
  if (from === null || scheduled) return;
  scheduled = true;
  // A tab that nobody sees gets no frames, nor does a window that others cover; neither may hoard or be late with an alarm.
  setTimeout(flush, document.hidden ? 250 : 500);
  if (!document.hidden) requestAnimationFrame(flush);
}

function byWorker() {
  const worker = new SharedWorker(new URL("./worker.js", import.meta.url), { type: "module", name: "covey" });
  worker.port.onmessage = ({ data }) => arrived(data);
  addEventListener("pagehide", () => worker.port.postMessage({ type: "bye" }));
  return { post: (/** @type {object} */ message) => worker.port.postMessage(message) };
}

function byLock() {
  const channel = new BroadcastChannel("covey");
  /** @type {Source | null} */
  let source = null;
  let cursor = 0;
  /** @param {{ type: string, cursor?: number }} message */
  const obey = (message) => {
    if (message.type === "start") source?.start(message.cursor ?? cursor);
    else if (message.type === "retry") source?.retry();
    else if (message.type === "stop") source?.stop();
  };
  channel.onmessage = ({ data }) => ("to" in data ? obey(data.message) : arrived(data));
  void navigator.locks.request("covey", async () => {
    source = new Source((message) => {
      channel.postMessage(message);
      arrived(message);
    });
    if (from !== null) source.start(from);
    await new Promise(() => {}); // until this tab goes
  });
  return {
    post: (/** @type {{ type: string, cursor?: number }} */ message) => {
      cursor = message.cursor ?? cursor;
      obey(message);
      channel.postMessage({ to: "holder", message });
    },
  };
}

function alone() {
  const source = new Source(arrived);
  return {
    post: (/** @type {{ type: string, cursor?: number }} */ message) =>
      message.type === "start" ? source.start(message.cursor ?? 0) : message.type === "stop" ? source.stop() : source.retry(),
  };
}

/** Listen before the snapshot is asked for, so that nothing falls between. @param {typeof deliver} to */
export function listen(to) {
  deliver = to;
  if (holder) return;
  if (typeof SharedWorker === "function") holder = byWorker();
  else if ("locks" in navigator && typeof BroadcastChannel === "function") holder = byLock();
  else holder = alone();
  addEventListener("online", () => holder?.post({ type: "retry" }));
  document.addEventListener("visibilitychange", () => !document.hidden && holder?.post({ type: "retry" }));
}

/** The snapshot is in place: hand on what is newer. @param {number} cursor */
export function follow(cursor) {
  from = cursor;
  holder?.post({ type: "start", cursor });
  if (!waiting.length || scheduled) return;
  scheduled = true;
  flush();
}

/** The session has ended. */
export function unfollow() {
  from = null;
  waiting = [];
  holder?.post({ type: "stop" });
}
