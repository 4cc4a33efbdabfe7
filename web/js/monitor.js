// The machine's load in the top bar: processor, main memory, and each device's memory, time and share of its peak.
// While it is off or has no items, or the page is not seen, nothing is asked, and so nothing is looked at; nor while the
// server is away, of which the page hears by itself.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { setting } from "./user.js";

const SECONDS = { least: 0.25, usual: 0.5, most: 10 };
const PIXELS = { least: 40, usual: 72, most: 200 };
const PATIENCE = 5; // seconds for an answer

/** What there is to show, in its order; the names are the same in every language. */
export const ITEMS = { cpu: "CPU", ram: "RAM", vram: "VRAM", busy: "GPU", mfu: "MFU" };

const STYLE = `
.cudaspeed-monitor { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; align-self: center; }
.cudaspeed-monitor > div { position: relative; height: 20px; overflow: hidden; border-radius: 4px;
  background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd); font: 11px/20px sans-serif; }
.cudaspeed-monitor > div > i { position: absolute; inset: 0 auto 0 0; background: var(--p-primary-color, #3a86c8);
  opacity: 0.45; }
.cudaspeed-monitor > div > span { position: relative; display: block; padding: 0 5px; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
`;

const bars = new Map(); // by what they show
let element = null;
let timer = null;
let asking = false;
let failures = 0;
let away = false;

/** Show, hide, move or redraw the monitor as the settings say. */
export function update() {
  if (!isWanted()) {
    clearTimeout(timer);
    timer = null;
    element?.remove();
    return;
  }
  if (timer === null && !asking) tick();
}

function isWanted() {
  const seen = document.visibilityState === "visible";
  return !away && seen && setting("CUDAspeed.Monitor.Show") === true && chosen().size > 0;
}

function chosen() {
  const items = String(setting("CUDAspeed.Monitor.Items") ?? Object.keys(ITEMS)).split(",");
  return new Set(items.filter((item) => item in ITEMS));
}

async function tick() {
  timer = null;
  asking = true;
  const began = performance.now();
  try {
    const answer = await api.fetchApi("/cudaspeed/monitor", { signal: AbortSignal.timeout?.(1000 * PATIENCE) });
    if (!answer.ok) throw new Error(answer.statusText);
    const load = await answer.json();
    failures = 0;
    if (isWanted()) draw(load);
  } catch {
    failures += 1; // the server is away, or busy: ask less often
  }
  asking = false;
  if (!isWanted()) return update();
  const period = Math.min(SECONDS.most, within("CUDAspeed.Monitor.Rate", SECONDS) * 2 ** Math.min(failures, 6));
  timer = setTimeout(tick, Math.max(100, 1000 * period - (performance.now() - began)));
}

function within(id, { least, usual, most }) {
  return Math.min(most, Math.max(least, Number(setting(id)) || usual));
}

function draw(load) {
  place();
  const wanted = chosen();
  const width = `${within("CUDAspeed.Monitor.Width", PIXELS)}px`;
  const shown = new Set();
  for (const { item, key, label, share, title } of readings(load)) {
    if (!wanted.has(item)) continue;
    shown.add(key);
    const bar = bars.get(key) ?? addBar(key);
    const percent = Math.round(100 * share);
    bar.box.style.width = width;
    bar.fill.style.width = `${percent}%`;
    bar.text.data = `${label} ${percent}%`;
    bar.box.title = title;
  }
  for (const [key, { box }] of bars) {
    if (shown.has(key)) continue;
    box.remove(); // what nobody tells is not there
    bars.delete(key);
  }
}

/** What was told, one by one. */
function* readings({ cpu, ram, devices = [] }) {
  if (cpu !== undefined) yield { item: "cpu", key: "cpu", label: ITEMS.cpu, share: cpu, title: ITEMS.cpu };
  if (ram) yield { item: "ram", key: "ram", label: ITEMS.ram, share: ram.used / ram.total, title: memory(ITEMS.ram, ram) };
  for (const [number, device] of devices.entries()) {
    const shares = { vram: device.total ? device.used / device.total : undefined, busy: device.busy, mfu: device.mfu };
    for (const [item, share] of Object.entries(shares)) {
      if (share === undefined) continue;
      const label = devices.length > 1 ? `${ITEMS[item]} ${number}` : ITEMS[item];
      const title = item === "vram" ? memory(device.name, device) : device.name;
      yield { item, key: `${item} ${number}`, label, share, title };
    }
  }
}

function memory(name, { used, total }) {
  const gigabytes = (bytes) => (bytes / 2 ** 30).toFixed(1);
  return `${name}: ${gigabytes(used)} / ${gigabytes(total)} GiB`;
}

function addBar(key) {
  const box = document.createElement("div");
  const fill = document.createElement("i");
  const line = document.createElement("span");
  const text = document.createTextNode("");
  line.append(text);
  box.append(fill, line);
  const order = Object.keys(ITEMS);
  const rank = (name) => order.indexOf(name.split(" ")[0]) + 10 * Number(name.split(" ")[1] ?? -1);
  const after = [...bars].filter(([other]) => rank(other) > rank(key)).sort(([a], [b]) => rank(a) - rank(b))[0];
  element.insertBefore(box, after?.[1].box ?? null);
  bars.set(key, { box, fill, text });
  return bars.get(key);
}

/** Into the top bar, or, where the page has its old menu, into that. */
function place() {
  if (!element) {
    const style = document.createElement("style");
    style.textContent = STYLE;
    document.head.append(style);
    element = document.createElement("div");
    element.className = "cudaspeed-monitor";
  }
  const old = setting("Comfy.UseNewMenu") === "Disabled" || !app.menu?.element;
  const home = old ? app.ui?.menuContainer : app.menu.element;
  if (home && element.parentElement !== home) home.append(element);
}

app.registerExtension({
  name: "cudaspeed.monitor",
  setup() {
    document.addEventListener("visibilitychange", update);
    for (const [told, isAway] of [["reconnecting", true], ["reconnected", false]]) {
      api.addEventListener(told, () => {
        away = isAway;
        failures = 0;
        update();
      });
    }
    update();
  },
});
