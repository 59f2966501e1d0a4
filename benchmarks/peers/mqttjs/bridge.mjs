/**
 * MQTT to Kafka with mqtt.js and kafkajs, as somebody who knows both would write it in an afternoon; a peer of covey's
 * gateway in benchmarks/bench_gateway.py.
 *
 * It carries the payload byte for byte, keyed by one level of the MQTT topic, and keeps the order of every key: one
 * sendBatch at a time, in the order of receipt. It has no limits, no dead letters and no metrics.
 *
 * Acknowledging after delivery. mqtt.js hands out the next packet only when the one before it was called back, and
 * writes the PUBACK in that callback (also with customHandleAcks): waiting there for Kafka means one message in flight.
 * So `--ack delivery` calls back with an error, which mqtt.js takes as "no PUBACK" and goes on, and writes the PUBACKs of
 * a batch itself, in order of receipt and in one write, once Kafka has the batch. `--ack arrival` is mqtt.js as it comes.
 */

import { parseArgs } from 'node:util';

import { CompressionTypes, Kafka, Partitioners, logLevel } from 'kafkajs';
import mqtt from 'mqtt';

const RECEIVE_MAXIMUM = 2000; // messages in flight; the broker holds back the rest (MQTT 5, 3.1.2.11.3)
const SESSION_EXPIRY_S = 3600;
const LINGER_MS = 4; // from the first message of a batch
const BATCH_MESSAGES = 1000; // a full batch does not linger
const BATCH_BYTES = 900_000; // Kafka takes 1,048,588 by default, and all of a batch may fall to one partition
const RECORD_BYTES = 70; // at most, beside key and value
const RETRY_MS = 500;
const ALL_REPLICAS = -1;
const HELD = new Error('the PUBACK follows the delivery'); // never thrown: its stack would cost as much as a message

const options = {
  mqtt: { type: 'string' },
  kafka: { type: 'string' },
  filter: { type: 'string' },
  topic: { type: 'string' },
  'key-level': { type: 'string' },
  'client-id': { type: 'string' },
  ack: { type: 'string', default: 'delivery' },
};

function readArguments() {
  const { values } = parseArgs({ options });
  const missing = Object.keys(options).filter((name) => values[name] === undefined);
  if (missing.length > 0) throw new Error(`missing: ${missing.map((name) => `--${name}`).join(' ')}`);
  if (!['arrival', 'delivery'].includes(values.ack)) throw new Error(`--ack: arrival or delivery expected, got ${values.ack}`);
  if (!/^\d+$/.test(values['key-level'])) throw new Error(`--key-level: a number from 0 expected, got ${values['key-level']}`);
  return { ...values, keyLevel: Number(values['key-level']), clientId: values['client-id'] };
}

/** PUBACKs with reason 0, which MQTT 5 lets us leave out: 4 bytes each (3.4.2.1). */
function pubacks(messageIds) {
  const bytes = Buffer.allocUnsafe(4 * messageIds.length);
  messageIds.forEach((messageId, index) => {
    bytes.writeUInt16BE(0x4002, 4 * index);
    bytes.writeUInt16BE(messageId, 4 * index + 2);
  });
  return bytes;
}

/** Collects messages for a few ms and sends them, one batch after the other. */
class Batcher {
  #pending = [];
  #timer = null;
  #sending = false;
  #waiting = null;

  constructor(producer, topic, delivered) {
    this.producer = producer;
    this.topic = topic;
    this.delivered = delivered; // called with a batch's entries once Kafka has them all
  }

  add(entry) {
    this.#pending.push(entry);
    if (this.#sending) return; // goes out after the batch before it
    if (this.#pending.length >= BATCH_MESSAGES) {
      clearTimeout(this.#timer);
      this.#send();
    } else if (this.#timer === null) {
      this.#timer = setTimeout(() => this.#send(), LINGER_MS);
    }
  }

  /** Calls back at once while there is room, else after the next batch. */
  whenRoom(callback) {
    if (this.#pending.length < RECEIVE_MAXIMUM) callback();
    else this.#waiting = callback;
  }

  async #send() {
    this.#timer = null;
    this.#sending = true;
    while (this.#pending.length > 0) {
      const batch = this.#pending.splice(0, this.#fitting());
      await this.#deliver(batch.map(({ key, payload }) => ({ key, value: payload })));
      this.delivered(batch);
      const resume = this.#waiting;
      this.#waiting = null;
      resume?.();
    }
    this.#sending = false;
  }

  /** How many of the oldest messages make one batch: at least one, bounded in number and in bytes. */
  #fitting() {
    let bytes = 0;
    const limit = Math.min(this.#pending.length, BATCH_MESSAGES);
    for (let index = 0; index < limit; index += 1) {
      bytes += this.#pending[index].payload.length + RECORD_BYTES;
      if (bytes > BATCH_BYTES) return Math.max(index, 1);
    }
    return limit;
  }

  async #deliver(messages) {
    for (;;) {
      try {
        await this.producer.sendBatch({
          topicMessages: [{ topic: this.topic, messages }],
          acks: ALL_REPLICAS,
          compression: CompressionTypes.None,
        });
        return;
      } catch (error) {
        if (error.type === 'MESSAGE_TOO_LARGE' && messages.length === 1) {
          console.error(`bridge: Kafka: dropped ${messages[0].value.length} bytes of ${messages[0].key}: ${error.message}`);
          return;
        }
        console.error(`bridge: Kafka: ${error.message}; the same batch again`);
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }
}

async function main() {
  const args = readArguments();
  const kafka = new Kafka({ clientId: args.clientId, brokers: [args.kafka], logLevel: logLevel.ERROR });
  // The partitions of the Java client; idempotent retries for ever.
  const producer = kafka.producer({
    idempotent: true,
    maxInFlightRequests: 1,
    createPartitioner: Partitioners.DefaultPartitioner,
    allowAutoTopicCreation: false,
  });
  await producer.connect();

  const client = mqtt.connect(`mqtt://${args.mqtt}`, {
    protocolVersion: 5,
    clientId: args.clientId,
    clean: false,
    resubscribe: false, // the session keeps the subscription, and every connect subscribes anyway
    reconnectPeriod: 500,
    properties: { receiveMaximum: RECEIVE_MAXIMUM, sessionExpiryInterval: SESSION_EXPIRY_S },
    manualConnect: true,
  });

  const batcher = new Batcher(producer, args.topic, (batch) => {
    if (args.ack !== 'delivery' || !client.connected) return;
    // Packet ids end with their connection: the broker sends again what an old one did not acknowledge.
    const messageIds = batch.filter(({ stream, messageId }) => messageId && stream === client.stream).map(({ messageId }) => messageId);
    if (messageIds.length > 0) client.stream.write(pubacks(messageIds));
  });

  const levels = new Map(); // keys by MQTT topic
  client.handleMessage = (packet, callback) => {
    let key = levels.get(packet.topic);
    if (key === undefined) {
      key = packet.topic.split('/')[args.keyLevel] ?? '';
      levels.set(packet.topic, key);
    }
    batcher.add({ key, payload: packet.payload, messageId: packet.messageId, stream: client.stream });
    if (args.ack === 'delivery' && packet.qos === 1) callback(HELD); // Receive Maximum bounds what is pending
    else batcher.whenRoom(callback);
  };
  let ready = false;
  client.on('connect', () => {
    client.subscribe(args.filter, { qos: 1 }, (error, granted) => {
      if (error || granted.some(({ qos }) => qos !== 1)) {
        console.error(`bridge: ${args.filter}: not subscribed: ${error?.message ?? 'refused'}`);
        process.exit(1);
      }
      if (!ready) console.log('ready');
      ready = true;
    });
  });
  client.on('error', (error) => console.error(`bridge: MQTT: ${error.message}`));
  client.connect();
}

main().catch((error) => {
  console.error(`bridge: ${error.message}`);
  process.exit(1);
});
