/**
 * The one stream of a browser: connects, reads, reconnects with growing, jittered pauses, and says how it stands.
 *
 * It reads with fetch instead of EventSource, which hides the comments that keep a connection awake (so a dead one would
 * look alive), hides a 401, and leaves a worker no say in when to try again. Runs in a SharedWorker or in a page.
 */

import { parser } from "./sse.js";

/** @typedef {import("../types").LiveMessage} LiveMessage */
/** @typedef {import("../types").Linkage} Linkage */

const SILENT_MS = 40_000; // two and a half of the server's comment lines (15 s)
const FIRST_PAUSE_MS = 500;
const LAST_PAUSE_MS = 15_000;

export class Source {
  /** @param {(message: LiveMessage) => void} tell */
  constructor(tell) {
    this.tell = tell;
    /** @type {number | null} */
    this.cursor = null;
    /** @type {Linkage} */
    this.state = "connecting";
    this.since_s = Date.now() / 1000;
    this.heard_s = 0;
    this.failures = 0;
    /** @type {AbortController | null} */
    this.abort = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }

  /** Begin behind a snapshot; a stream that runs goes on where it is. @param {number} cursor */
  start(cursor) {
    if (this.cursor === null) this.cursor = cursor;
    if (!this.abort && this.timer === undefined) void this.connect();
  }

  /** Try now instead of later (the machine is back on the network, somebody logged in). */
  retry() {
    if (this.cursor === null || this.state === "live") return;
    clearTimeout(this.timer);
    this.timer = undefined;
    this.failures = 0;
    this.abort?.abort();
    if (!this.abort) void this.connect();
  }

  /** For good: another session begins, or the last page has gone. */
  stop() {
    clearTimeout(this.timer);
    this.timer = undefined;
    const [abort] = [this.abort, (this.cursor = null)];
    abort?.abort();
    this.turn("signed-out");
  }

  /** How it stands, for a page that has just come. @returns {LiveMessage} */
  standing() {
    return { type: "state", state: this.state, since_s: this.since_s, heard_s: this.heard_s, cursor: this.cursor };
  }

  /** @param {Linkage} state */
  turn(state) {
    if (state !== this.state) this.since_s = Date.now() / 1000;
    this.state = state;
    this.tell(this.standing());
  }

  async connect() {
    const abort = (this.abort = new AbortController());
    const { signal } = abort;
    let watchdog = setTimeout(() => abort.abort(), SILENT_MS);
    let status = 0;
    try {
      const answer = await fetch(`/api/stream?cursor=${this.cursor}`, {
        headers: { accept: "text/event-stream", "last-event-id": String(this.cursor) },
        cache: "no-store",
        signal,
      });
      status = answer.status;
      if (answer.ok && answer.body) {
        const feed = parser((event) => this.take(event));
        const decoder = new TextDecoder();
        for (const reader = answer.body.getReader(); ; ) {
          const { done, value } = await reader.read();
          if (done) break;
          clearTimeout(watchdog);
          watchdog = setTimeout(() => abort.abort(), SILENT_MS);
          this.heard_s = Date.now() / 1000;
          feed(decoder.decode(value, { stream: true }));
        }
      }
    } catch {
      // Ended from either side, or never reached: all the same to what follows.
    }
    clearTimeout(watchdog);
    this.abort = null;
    if (this.cursor === null) return; // stopped meanwhile
    if (status === 401) {
      this.turn("signed-out");
      return;
    }
    this.turn("reconnecting");
    const pause = Math.min(LAST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(this.failures, 10));
    this.failures += 1;
    this.timer = setTimeout(() => {
      this.timer = undefined;
      void this.connect();
    }, pause * (0.5 + Math.random() / 2));
  }

  /** @param {import("./sse.js").Event} event */
  take(event) {
    const data = JSON.parse(event.data);
    if (event.event === "hello") {
      this.failures = 0;
      this.turn("live");
    } else if (event.event === "fleet" || event.event === "snapshot") {
      const id = Number(event.id || data.cursor);
      this.cursor = id;
      this.tell({ type: event.event, id, data });
    } else if (event.event === "learning") {
      this.tell({ type: "learning", data });
    }
  }
}
