// The shapes of docs/api.md, for the type checker; nothing here runs.

export type Status = "alarm" | "watch" | "silent" | "updating" | "ok";
export type Role = "viewer" | "operator" | "admin";
export type Verdict = "acknowledged" | "confirmed" | "rejected" | "undone";
export type AlarmKey = { device: string; alarm_id: string };

export interface Me {
  name: string | null;
  role: Role | null;
  csrf: string;
  accounts: boolean;
  oidc: boolean;
  version: string;
  notices: string[];
}

export interface Headline { text: string; detail: string; group: string | null }
/** seen: those of the inbox that somebody has acknowledged */
export type Counts = Record<Status | "inbox" | "seen", number>;
export interface Group { name: string; devices: number }
/** device, group's index, status, ratio, release, seen_s, lat, lon */
export type DeviceRow = [string, number, Status, number | null, number, number | null, number | null, number | null];

export interface Incident {
  id: string;
  group: string;
  channel: string;
  devices: number;
  share: number;
  /** null: too young to tell */
  lift: number | null;
  begin_s: number;
  last_s: number;
  alarms: [string, string][];
  text: string;
}

export interface NewAlarm extends AlarmKey {
  group: string;
  channel: string;
  ratio: number;
  begin_s: number;
  state: "begin" | "end";
  /** who acknowledged it, or "" */
  seen_by: string;
}

export interface Snapshot {
  cursor: number;
  now_s: number;
  headline: Headline;
  counts: Counts;
  groups: Group[];
  devices: DeviceRow[];
  incidents: Incident[];
  alarms: NewAlarm[];
}
export type Delta = Partial<Omit<Snapshot, "cursor">> & { gone?: string[] };
export interface LearningNews { run: string; kind: string; round: number }

export interface Period {
  end_s: number;
  period_s: number;
  p50: number;
  max: number;
  threshold: number;
  drift_psi: number | null;
  drift_channel: string;
}

export interface Reported {
  release: number;
  digest: string;
  runtime: string;
  provider?: string;
  calibration?: string;
  slot?: string;
  state?: string;
  target?: number;
  reason?: string;
}

export interface Health {
  memory_bytes?: number;
  cpu_s?: number;
  outbox_rows?: number;
  outbox_bytes?: number;
  temperature_c?: number | null;
  battery_v?: number | null;
  dropped?: { outbox: string; first: number; last: number }[];
}

export interface Device {
  device: string;
  group: string;
  labels: Record<string, string>;
  state: "active" | "retired";
  status: Status;
  online: boolean | null;
  first_seen_s: number | null;
  last_seen_s: number | null;
  release: number;
  desired: number | null;
  desired_revision: number | null;
  windows: number;
  alarmed_windows: number;
  alarms: number;
  open_alarms: number;
  flights: number;
  reported: Reported | null;
  health: Health | null;
  position: { lat_deg: number; lon_deg: number; alt_m: number } | null;
  parameters: { summary_interval_s?: number | null };
  period: Period | null;
  uplink_bytes_per_min: number | null;
  last_alarm: Alarm | null;
}

export interface Scores {
  from_s: number;
  to_s: number;
  step_s: number;
  resolution: "period" | "hour";
  t: number[];
  p50: number[];
  p99: number[];
  max: number[];
  threshold: number[];
  release: number[];
  alarms: [number, number | null, string][];
}

export interface Alarm extends AlarmKey {
  group: string;
  state: "begin" | "end";
  kind: "anomaly" | "sensor";
  detail: string;
  begin_s: number | null;
  end_s: number | null;
  received_s: number;
  top_channel: string;
  score: number;
  peak_score: number;
  threshold: number;
  ratio: number | null;
  confidence: number;
  windows: number;
  release: number;
  runtime: string;
  flight: string;
  level: "high" | "low" | null;
  rule: string;
  peers: number | null;
  peers_alarming: number | null;
  lift: number | null;
  acknowledged_s: number | null;
  acknowledged_by: string;
  verdict: "" | "confirmed" | "rejected";
  verdict_s: number | null;
  verdict_by: string;
}

export interface Share { channel: string; share: number }
export interface Context {
  peers?: number;
  peers_alarming?: number;
  peers_same_channel?: number;
  lift?: number;
  alarms_24h?: number;
  alarms_7d?: number;
  confirmed_30d?: number;
  rejected_30d?: number;
  drift_psi?: number;
  release_age_s?: number;
  model?: { name: string; digest: string; value: number } | null;
  stale?: boolean;
}
export interface Step {
  what: string;
  title: string;
  text: string;
  detail: string;
  digest: string;
  at_s: number | null;
  delay_s: number | null;
  state: "checked" | "told" | "waiting" | "failed";
}
export interface AlarmWhole extends Alarm {
  attribution: Share[];
  context: Context | null;
  verdicts: { verdict: Verdict; by: string; time_s: number; note: string }[];
  deliveries: { target: string; state: string; tries: number; done_s: number | null; error: string }[];
  why: { cause: string; peers: string; checks: string; command: string; event: string; steps: Step[] };
}

export interface Release {
  group: string;
  number: number;
  digest: string;
  size_bytes: number;
  created_s: number;
  note: string;
  wide?: boolean;
  wanted: number;
  running: number;
  waiting: number;
}
export interface LearningStep {
  id?: number;
  time_s: number;
  kind: string;
  group: string;
  device: string;
  release: number;
  digest: string;
  detail: string;
}
export interface Run {
  run: string;
  family: string;
  engine: string;
  state: "running" | "released" | "failed";
  started_s: number;
  ended_s: number | null;
  rounds: number;
  wanted: number;
  clients: number;
  loss: number | null;
  detail: string;
}
export interface Round {
  round: number;
  clients: number;
  refused: number;
  missing: number;
  windows: number;
  bytes_up: number;
  bytes_down: number;
  seconds: number;
  loss: number | null;
}
export interface RunWhole extends Run {
  lines: Round[];
  gates: Record<string, number>;
  devices: { device: string; state: string; detail: string }[];
}

export interface Stage {
  stage: string;
  instance: string;
  seen_s: number;
  partitions: number;
  lag: number;
  rate: number;
  wanted: number;
  detail: string;
  stale: boolean;
}
export interface System {
  losing: boolean;
  late: boolean;
  text: string;
  counts: Record<string, unknown>;
  stages: Stage[];
  dead_letters: Record<string, number>;
  deliveries: { waiting: number; delivered: number; failed: number };
  store: { kind: string; size_bytes: number | null };
  embedded: Record<string, string>;
}

export type DeadLetter = Record<string, unknown> & { reason: string; detail: string; topic: string; received_s: number; size_bytes: number };
export type Delivery = Record<string, unknown> & AlarmKey & { target: string; state: string; tries: number; made_s: number; done_s: number | null; error: string };
export interface Account { name: string; role: Role; disabled: boolean; oidc: boolean; created_s: number }
export interface Audit { id?: number; time_s: number; actor: string; action: string; target: string; detail: string; address: string }

/** What a list answers: the rows under the list's own name. */
export type Page<T> = { next: string | null } & Record<string, T[] | string | null>;

export type Linkage = "connecting" | "live" | "reconnecting" | "signed-out";
/** From the one who holds the stream, to every tab. */
export type LiveMessage =
  | { type: "state"; state: Linkage; since_s: number; heard_s: number; cursor: number | null }
  | { type: "fleet"; id: number; data: Delta }
  | { type: "snapshot"; id: number; data: Snapshot }
  | { type: "learning"; data: LearningNews };
