// Asks the station twice a second what it hears, and draws it.
"use strict";

const QUIETEST_DBFS = -90;
const byId = (id) => document.getElementById(id);
let column = 0;

function part(dbfs) {
  return Math.min(1, Math.max(0, 1 - dbfs / QUIETEST_DBFS));
}

function row(cells) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    td.textContent = cell;
    tr.append(td);
  }
  return tr;
}

function state(element, text, kind) {
  element.textContent = text;
  element.className = `state ${kind}`;
}

function draw(live) {
  const canvas = byId("spectrogram");
  const context = canvas.getContext("2d");
  const count = Math.min(live.columns.length, canvas.width);
  if (count === 0) return;
  const kept = canvas.width - count;
  if (kept > 0) context.putImageData(context.getImageData(count, 0, kept, canvas.height), 0, 0);
  const image = context.createImageData(count, live.bands);
  for (let x = 0; x < count; x += 1) {
    const hex = live.columns[live.columns.length - count + x];
    for (let band = 0; band < live.bands; band += 1) {
      const value = parseInt(hex.slice(2 * band, 2 * band + 2), 16);
      const at = 4 * ((live.bands - 1 - band) * count + x);
      image.data[at] = value;
      image.data[at + 1] = Math.max(0, 1.6 * value - 150);
      image.data[at + 2] = value < 128 ? value : 255 - value;
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, kept, 0);
}

function facts(status) {
  const health = status.health;
  const ring = health.ring;
  const list = [
    ["Site", status.site],
    ["Id", status.device],
    ["Agent", status.agent],
    ["Model", status.model],
    ["Clock", `${status.time} (${health.time_quality})`],
    ["Running for", `${Math.floor(status.uptime_s / 3600)} h ${Math.floor(status.uptime_s / 60) % 60} min`],
    ["Windows heard", status.windows],
    ["Lost", `${status.dropped_samples} samples in ${status.gaps} gaps`],
    ["Last verified", health.last_verified ?? "not since the start"],
    ["Speech removed", health.speech_redaction],
    ["Kept sound", ring ? `${ring.from} to ${ring.to}, ${Math.round(ring.bytes / 1e6)} MB` : "none"],
  ];
  for (const budget of health.budgets) {
    const recall = budget.recall === undefined ? "" : `, hears ${Math.round(100 * budget.recall)} %`;
    list.push([`Budget ${budget.class}`, `${budget.per_week} a week: ${budget.state}, threshold ${budget.threshold.toFixed(3)}${recall}`]);
  }
  const dl = byId("facts");
  dl.replaceChildren();
  for (const [name, value] of list) {
    const dt = document.createElement("dt");
    const dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = value;
    dl.append(dt, dd);
  }
}

function show(status) {
  const { live, health, queue } = status;
  byId("name").textContent = status.name;
  document.title = `${status.name} – EcoSight station`;
  const faults = health.source_faults.join(", ");
  const kinds = { healthy: "good", starting: "warn", recovering: "warn", ended: "warn" };
  state(byId("source"), `sound: ${health.source}${faults ? ` (${faults})` : ""}`, kinds[health.source] ?? "bad");
  state(byId("link"), status.connected ? "link: connected" : "link: none", status.connected ? "good" : "warn");
  byId("level").style.right = `${100 * (1 - part(live.level_dbfs))}%`;
  byId("peak").style.left = `${100 * part(live.peak_dbfs)}%`;
  byId("level-text").textContent = `${live.level_dbfs.toFixed(1)} dBFS, peak ${live.peak_dbfs.toFixed(1)} dBFS`;
  const scores = Object.entries(live.scores).sort((a, b) => b[1] - a[1]);
  byId("scores").replaceChildren(...scores.map(([name, score]) => {
    const li = document.createElement("li");
    li.textContent = `${name} ${score.toFixed(2)}`;
    return li;
  }));
  byId("events").replaceChildren(...live.events.map((event) => row([
    event.time.replace("T", " ").replace("Z", ""),
    event.alert ? `${event.class} – alert` : event.class,
    event.score.toFixed(2),
    `${event.level_dbfs.toFixed(0)} dBFS`,
  ])));
  byId("no-events").hidden = live.events.length > 0;
  byId("queue").textContent =
    `${queue.alerts} alerts, ${queue.records} records in all, ${queue.clips} recordings (${(queue.clip_bytes / 1e6).toFixed(1)} MB)` +
    (queue.dropped ? `; ${queue.dropped} given up` : "");
  draw(live);
  facts(status);
  column = live.column;
}

async function look() {
  try {
    const answer = await fetch(`/status.json?column=${column}`);
    if (!answer.ok) throw new Error(answer.statusText);
    show(await answer.json());
  } catch {
    state(byId("source"), "the station does not answer", "bad");
  }
  setTimeout(look, 500);
}

look();
