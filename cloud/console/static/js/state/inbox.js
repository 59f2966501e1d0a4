/** The inbox's lines: alarms as the API lists them, those of an open incident as one line. Pure. */

/** @typedef {import("../types").Alarm} Alarm */
/** @typedef {import("../types").AlarmKey} AlarmKey */
/** @typedef {import("../types").Incident} Incident */
/** @typedef {{ id: string, incident: Incident | null, alarms: Alarm[], keys: AlarmKey[], child: boolean, gone?: boolean }} Line */

/** @param {AlarmKey} one */
export const idOf = (one) => `${one.device} ${one.alarm_id}`;

/**
 * The lines with the one that was looked at last at its place, where it is no longer among them: what is looked at stays until one moves on.
 * `gone`: somebody else has judged all of it, so there is nothing to judge.
 * @param {Line[]} all
 * @param {Line | null} looked
 * @param {number} place
 * @param {Alarm[] | null} unjudged  all that need a verdict; null: not all of them are known
 * @returns {Line[]}
 */
export function withLooked(all, looked, place, unjudged) {
  if (!looked || all.some((line) => line.id === looked.id)) return all;
  const listed = new Set((unjudged ?? []).map(idOf));
  const line = { ...looked, gone: unjudged !== null && !looked.keys.some((key) => listed.has(idOf(key))) };
  return [...all.slice(0, place), line, ...all.slice(place)];
}

/**
 * Incidents first, as one line each; opened, their alarms follow them.
 * @param {Alarm[]} alarms  newest first
 * @param {Incident[]} incidents
 * @param {Set<string>} opened  incidents' ids
 * @returns {Line[]}
 */
export function lines(alarms, incidents, opened) {
  const of = new Map(incidents.flatMap((one) => one.alarms.map(([device, alarm_id]) => [idOf({ device, alarm_id }), one])));
  /** @type {Map<string, Line>} */
  const heads = new Map();
  /** @type {Line[]} */
  const found = [];
  for (const alarm of alarms) {
    const incident = of.get(idOf(alarm)) ?? null;
    if (!incident) {
      found.push({ id: idOf(alarm), incident: null, alarms: [alarm], keys: [alarm], child: false });
      continue;
    }
    const head = heads.get(incident.id);
    if (head) {
      head.alarms.push(alarm);
      continue;
    }
    const keys = incident.alarms.map(([device, alarm_id]) => ({ device, alarm_id }));
    const line = { id: incident.id, incident, alarms: [alarm], keys, child: false };
    heads.set(incident.id, line);
    found.push(line);
  }
  found.sort((a, b) => Number(b.incident !== null) - Number(a.incident !== null));
  return found.flatMap((line) =>
    line.incident && opened.has(line.incident.id)
      ? [line, ...line.alarms.map((alarm) => ({ id: idOf(alarm), incident: null, alarms: [alarm], keys: [alarm], child: true }))]
      : [line],
  );
}
