/** The SharedWorker: one stream for all tabs of this browser (six connections a host on HTTP/1.1). */

import { Source } from "./source.js";

/** @type {Set<MessagePort>} */
const ports = new Set();
const source = new Source((message) => {
  for (const port of ports) port.postMessage(message);
});

/** @type {any} */ (self).onconnect = (/** @type {MessageEvent} */ event) => {
  const port = event.ports[0];
  ports.add(port);
  port.onmessage = ({ data }) => {
    if (data.type === "start") source.start(data.cursor);
    else if (data.type === "retry") source.retry();
    else if (data.type === "stop") source.stop();
    else if (data.type === "bye") {
      ports.delete(port);
      if (ports.size === 0) source.stop();
    }
  };
  port.postMessage(source.standing());
};
